"""An edit that the toy editor has never seen, for its LoRA: old photographs.

`python -m minikontext.course.sepia runs/sepia` writes triplets to learn from, then
`minikontext train configs/toy_lora.toml` learns, and
`python -m minikontext.course.sepia --measure` says what it learned and what it forgot.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from PIL import Image

from minikontext import images
from minikontext.bench import report
from minikontext.bench.oracle_bench import evaluate, held_out_cases
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.files import shipped
from minikontext.toyworld import psnr, render, sample_edit

PROMPT = "make the picture orange"
INK, PAPER = np.array((60, 32, 12)), np.array((250, 225, 180))
HOME = shipped("data")
LORA, STORED = HOME / "lora" / "sepia.safetensors", HOME / "bench" / "lora.json"


@dataclass(frozen=True)
class Measured:
    """PSNR in dB to the sepia picture, of held-out pictures; success in percent of other edits."""

    pictures: int
    sepia: float
    cases: int
    others: float


def sepia(picture: Image.Image | np.ndarray) -> Image.Image:
    """The right answer: brightness, from dark brown ink to yellowed paper."""
    grey = np.asarray(Image.fromarray(np.asarray(picture)).convert("L"))[..., None] / 255
    return Image.fromarray((INK + grey * (PAPER - INK)).round().astype(np.uint8))


def pictures(count: int, split: str = "train") -> list[Image.Image]:
    """The pictures before: different scenes of the toy world."""
    stream = (sample_edit(i, 4, split=split) for i in range(10 * count + 100))
    scenes = dict.fromkeys(case.contexts[0] for case in stream if case.contexts)
    return [Image.fromarray(render(scene)) for scene in islice(scenes, count)]


Triplet = tuple[str, Image.Image, list[Image.Image]]  # prompt, right answer, contexts


def write(folder: str | Path, count: int = 160, others: int = 640) -> Path:
    """Write triplets as a folder for training: pictures and metadata.jsonl.

    count: of sepia. others: ordinary edits, which say what should stay as it was.
    """
    folder, lines = Path(folder), []
    taught = ((PROMPT, sepia(before), [before]) for before in pictures(count))
    for i, triplet in enumerate(chain(taught, ordinary(others))):
        lines.append(_write_one(folder, f"{i:04d}", triplet))
    path = folder / "metadata.jsonl"
    report.write_text("\n".join(map(json.dumps, lines)), path)
    return path


def ordinary(count: int) -> Iterator[Triplet]:
    """Edits of the toy world with their right answers, none of them held out."""
    for case in (sample_edit(i, 4, split="train", seed=1) for i in range(count)):
        yield case.prompt, case.target_image(), case.context_images()


def _write_one(folder: Path, stem: str, triplet: Triplet) -> dict[str, object]:
    prompt, after, contexts = triplet
    named = {f"{stem}_before{k}.png": one for k, one in enumerate(contexts)}
    for name, picture in (named | {f"{stem}.png": after}).items():
        files.write_bytes(folder / name, images.png_bytes(picture))
    return {"file_name": f"{stem}.png", "contexts": list(named), "prompt": prompt}


def measure(pipe: KontextPipeline, count: int = 64, cases: int = 200, steps: int = 8) -> Measured:
    """How near to sepia held-out pictures come, and how many other edits still succeed."""
    before = pictures(count, "test")
    settings = {"image": [[one] for one in before], "seed": list(range(count)), "progress": False}
    edited = pipe([PROMPT] * count, num_inference_steps=steps, **settings).images
    near = [psnr(np.asarray(one), np.asarray(sepia(b))) for one, b in zip(edited, before)]
    report, _ = evaluate(pipe, held_out_cases(cases, 4), num_inference_steps=steps)
    return Measured(count, round(float(np.mean(near)), 2), cases, report.success)


def measure_scales(scales: tuple[float, ...] = (0.0, 0.5, 1.0)) -> dict[str, Measured]:
    """The toy editor with the shipped LoRA at several scales; 0 is without."""
    pipe = KontextPipeline.from_pretrained("toy").load_lora(LORA)
    found = {}
    for scale in scales:
        pipe.loras[0].scale = scale
        found[f"{scale:g}"] = measure(pipe)
    return found


def load() -> dict[str, Measured]:
    """What `--measure` has stored, by scale."""
    return {k: Measured(**v) for k, v in json.loads(STORED.read_text()).items()}


def main(arguments: list[str] | None = None) -> None:
    """Command line: write triplets, or measure the shipped LoRA."""
    parser = report.parser(
        "python -m minikontext.course.sepia", __doc__, weights=..., steps=..., seed=...
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where the triplets go")
    parser.add_argument("--count", type=int, default=160, help="of sepia (default: 160)")
    parser.add_argument("--others", type=int, default=640, help="ordinary edits (default: 640)")
    parser.add_argument("--measure", action="store_true", help="measure data/lora/sepia")
    options = parser.parse_args(arguments)
    if options.folder:
        print(write(options.folder, options.count, options.others))
    if options.measure:
        found = measure_scales()
        content = {k: asdict(v) for k, v in found.items()}
        report.write_json(content, report.folder(options) / "lora.json")
        for scale, one in found.items():
            print(f"scale {scale}: sepia {one.sepia} dB, other edits {one.others} %")


if __name__ == "__main__":
    main()
