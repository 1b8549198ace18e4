"""An edit that the toy editor has never seen, for its LoRA: old photographs.

`python -m minikontext.course.sepia runs/sepia` writes triplets to learn from, then
`minikontext train configs/toy_lora.toml` learns, and
`python -m minikontext.course.sepia --measure` says what it learned and what it forgot.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from minikontext import files, images
from minikontext.bench.oracle_bench import evaluate, held_out_cases
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import psnr, render, sample_edit

PROMPT = "make the picture orange"
INK, PAPER = np.array((60, 32, 12)), np.array((250, 225, 180))
HOME = Path(__file__).parents[2] / "data"
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


def write(folder: str | Path, count: int = 160) -> Path:
    """Write triplets as a folder for training: pictures and metadata.jsonl."""
    folder, lines = Path(folder), []
    for name in ("before", "after"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i, before in enumerate(pictures(count)):
        names = f"after/{i:04d}.png", f"before/{i:04d}.png"
        for name, picture in zip(names, (sepia(before), before)):
            (folder / name).write_bytes(images.png_bytes(picture))
        lines.append({"file_name": names[0], "contexts": [names[1]], "prompt": PROMPT})
    path = folder / "metadata.jsonl"
    with files.replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def measure(pipe: KontextPipeline, count: int = 64, cases: int = 200, steps: int = 8) -> Measured:
    """How near to sepia held-out pictures come, and how many other edits still succeed."""
    before = pictures(count, "test")
    asked = {"image": [[one] for one in before], "seed": list(range(count)), "progress": False}
    made = pipe([PROMPT] * count, num_inference_steps=steps, **asked).images
    near = [psnr(np.asarray(one), np.asarray(sepia(b))) for one, b in zip(made, before)]
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
    parser = argparse.ArgumentParser(
        prog="python -m minikontext.course.sepia",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, help="where the triplets go")
    parser.add_argument("--count", type=int, default=160, help="triplets (default: 160)")
    parser.add_argument("--measure", action="store_true", help="measure data/lora/sepia")
    options = parser.parse_args(arguments)
    if options.folder:
        print(write(options.folder, options.count))
    if options.measure:
        found = measure_scales()
        with files.replacing(STORED) as temporary:
            content = {k: asdict(v) for k, v in found.items()}
            temporary.write_text(json.dumps(content, indent=1) + "\n")
        for scale, one in found.items():
            print(f"scale {scale}: sepia {one.sepia} dB, other edits {one.others} %")


if __name__ == "__main__":
    main()
