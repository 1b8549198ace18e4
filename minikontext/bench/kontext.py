"""KontextBench proper: a local copy of the published folder, edited by any pipeline.

`minikontext bench kontext FOLDER --weights NAME --output RESULTS`, on many GPUs
`torchrun --nproc-per-node 8 -m minikontext.bench.kontext FOLDER ...`

The folder holds pictures and `metadata.jsonl` with file_name, key, category and instruction.
Results that exist are kept, so a run can be interrupted. Under torchrun, each process edits its
share on its own GPU, and the last to finish writes the pages. Nothing is downloaded.
"""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from tqdm.auto import tqdm

from minikontext import images, pretrained
from minikontext.bench import report
from minikontext.bench.similarity import Clip, Faces
from minikontext.errors import ConfigError, ImageError, MetadataError, shorten_list
from minikontext.images import provenance
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files, log
from minikontext.runtime.config import fits_type, parse_json
from minikontext.runtime.log import markup
from minikontext.text import check_prompts

LOG = logging.getLogger(__name__)
FIELDS = ("file_name", "key", "category", "instruction")
SAFE = re.compile(r"[\w.-]+")


@dataclass(frozen=True)
class Item:
    """One case: an instruction for a picture (none for text-to-image), and further pictures."""

    key: str
    category: str
    instruction: str
    pictures: tuple[Path, ...]


def load(folder: str | Path) -> list[Item]:
    """Read `metadata.jsonl`, in its order.

    Raises ImageError, with the line's number, for a line that is not a case, a picture outside the
    folder or missing, and a key that comes twice or cannot be a file's name.
    """
    folder = files.real(folder)
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise ImageError(f"{folder} holds no metadata.jsonl: give a copy of KontextBench's folder")
    items, keys = [], set()
    for number, line in enumerate(files.read_bytes(path).splitlines(), 1):
        if not line.strip():
            continue
        item = _item(line, folder, f"{path.name}, line {number}")
        if item.key.lower() in keys:  # on some disks, a and A are one file
            raise ImageError(f"{path.name}, line {number}: the key {item.key!r} comes twice")
        keys.add(item.key.lower())
        items.append(item)
    pages = Counter(_slug(category) for category in categories(items))
    if twice := [one for one in categories(items) if pages[_slug(one)] > 1]:
        raise ImageError(f"{path.name}: {twice[0]!r:.80} and {twice[1]!r:.80} would be one page")
    if taken := keys & {f"{page}-sheet" for page in pages}:
        raise ImageError(f"{path.name}: the key {min(taken)!r} is the name of a category's sheet")
    return items


def _item(line: bytes, folder: Path, where: str) -> Item:
    try:
        row = parse_json(line.decode("utf-8-sig"))
        name, key, category, instruction = (row[field] for field in FIELDS)
        check_prompts([str(category), str(instruction)])
    except UnicodeDecodeError as error:
        raise ImageError(f"{where}: it is not UTF-8 ({error}). Save the file as UTF-8.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"{where}: expected a JSON object with {', '.join(FIELDS)}") from error
    if not SAFE.fullmatch(str(key)) or str(key).startswith(".") or len(str(key)) > 200:
        raise ImageError(f"{where}: the key {key!r:.80} cannot be a file's name")
    if not fits_type(more := row.get("more", []), tuple[str, ...]):
        raise ImageError(f"{where}: got more = {more!r:.80}; expected a list of pictures")
    pictures = tuple(_inside(folder, str(one), where) for one in (*([name] if name else []), *more))
    return Item(str(key), str(category), str(instruction), pictures)


def _inside(folder: Path, name: str, where: str) -> Path:
    if not files.lies_in(folder, name):
        raise ImageError(f"{where}: {name!r:.80} lies outside the folder")
    if not files.exists(path := folder / name):
        raise ImageError(f"{where}: there is no picture {name!r:.80}")
    return path.resolve()


# ---------------------------------------------------------------- running


def run(
    pipe: KontextPipeline,
    items: list[Item],
    output: str | Path,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    **call: object,
) -> list[Path]:
    """Edit every `world`-th item from `rank` on; returns the results of this share.

    A result is named by its key. Its seed comes from the key, so neither the order nor the number
    of processes matters. `call` goes to the pipeline. A result that cannot be read is made again.
    Raises ConfigError if the folder holds results of other weights, seeds, calls or cases.
    """
    output, paths = Path(output), []
    config, computed = pretrained.computed(pipe)
    _require_own(output, {
        "weights": " + ".join([pipe.name, *map(str, pipe.loras)]), "seed": str(seed),
        "fingerprint": pipe.weights_fingerprint, "config": config, "computed": computed,
        **{name: repr(value) for name, value in sorted(call.items())},
    })  # fmt: skip
    for item in tqdm(items[rank::world], desc="KontextBench", disable=rank > 0):
        path = output / f"{item.key}.png"
        inputs = [images.read(picture) for picture in item.pictures]
        if not _is_made(path, item, inputs):
            mine = zlib.crc32(f"{seed}/{item.key}".encode()) % 2**31
            out = pipe(item.instruction, image=inputs or None, seed=mine, progress=False, **call)
            files.write_bytes(path, provenance.encode(out.images[0], out.provenance[0]))
        paths.append(path)
    return paths


def _is_made(path: Path, item: Item, inputs: list[Image.Image]) -> bool:
    """Whether a case's result is there, whole. Raises ConfigError for one of another wish."""
    if not path.exists():
        return False
    try:
        made = provenance.read(path)
    except (ImageError, MetadataError) as error:
        LOG.warning("%s is made again: %s", path, error)
        return False
    words = item.instruction if made.private or made.cut else made.prompt
    if (words, made.contexts) != (item.instruction, tuple(map(provenance.checksum, inputs))):
        raise ConfigError(f"{path} is of another instruction or picture than the case has now. "
                          "Remove it, or name another folder.")  # fmt: skip
    return True


def _require_own(output: Path, facts: dict[str, str]) -> None:
    """Note what makes the results of a folder. Raises ConfigError if it was something else."""
    note = output / "settings.json"
    found = report.read_json(note, {} if not any(output.glob("*.png")) else {"weights": "unknown"})
    if found.keys() == facts.keys() - {"computed"}:  # of before it was noted
        found["computed"] = facts["computed"]
    if found and found != facts:
        names = [name for name in {**found, **facts} if found.get(name) != facts.get(name)]
        changes = [f"{n} was {found.get(n)!s:.40}, is {facts.get(n)!s:.40}" for n in names]
        raise ConfigError(f"{output} holds results of something else: {shorten_list(changes)}. "
                          "Name another folder, or remove it.")  # fmt: skip
    if not found:
        report.write_json(facts, note)


def share() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def own_device() -> str | None:
    """This process's GPU under torchrun; None leaves the choice to the pipeline."""
    local = os.environ.get("LOCAL_RANK")
    return f"cuda:{local}" if local is not None and torch.cuda.is_available() else None


# ---------------------------------------------------------------- measuring


def measure(
    items: list[Item], output: str | Path, clip: Clip | None = None, faces: Faces | None = None
) -> dict[str, dict[str, float]]:
    """Mean cosines by category of the results that are there, and how many those are.

    clip_words: result and instruction; clip_input: result and first picture; face: the same by a
    face embedding. None of them is a score of the edit: a copy of the input is nearest to it.
    """
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in categories(items)}
    for item in tqdm(items, "similarity"):
        path = Path(output) / f"{item.key}.png"
        if path.exists():
            rows[item.category].append(_cosines(item, images.read(path), clip, faces))
    return {name: {"results": len(found)} | _means(found) for name, found in rows.items()}


def _cosines(
    item: Item, result: Image.Image, clip: Clip | None, faces: Faces | None
) -> dict[str, float]:
    inputs, found = [images.read(path) for path in item.pictures[:1]], {}
    if clip:
        found["clip_words"] = float(
            (clip.pictures([result]) * clip.words([item.instruction])).sum()
        )
    for name, model in (("clip_input", clip), ("face", faces)):
        if model and inputs:
            found[name] = float(model.pictures([result, *inputs]).prod(0).sum())
    return found


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {n: round(float(np.mean([r[n] for r in rows if n in r])), 4) for n in names}


def table(found: dict[str, dict[str, float]]) -> str:
    """Categories and their means as a Markdown table."""
    names = list(dict.fromkeys(name for row in found.values() for name in row))
    rows = [[category, *map(row.get, names)] for category, row in found.items()]
    return report.table(["category", *names], rows)


# ---------------------------------------------------------------- looking


def contact_sheet(items: list[Item], output: str | Path, category: str, side: int = 192) -> Path:
    """Write one category's instructions, pictures and results side by side as an HTML page.

    Pictures are stored in the page, small, so it can be sent and opened anywhere.
    """
    output = Path(output)
    rows = "\n".join(_row(item, output, side) for item in items if item.category == category)
    path = output / f"{_slug(category)}.html"
    title = markup(category)
    report.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{font:14px sans-serif;margin:24px}figure{display:inline-block;margin:8px}"
        f"img{{width:{side}px;image-rendering:pixelated}}figcaption{{max-width:{2 * side}px}}"
        f"</style><h1>{title}</h1>\n{rows}",
        path,
    )
    return path


def contact_picture(items: list[Item], output: str | Path, category: str, most: int = 12) -> Path:
    """Write the first results of a category beside their pictures as one PNG."""
    output = Path(output)
    mine = [item for item in items if item.category == category]
    shown = [item for item in mine if (output / f"{item.key}.png").exists()][:most]
    columns = 1 + max((len(item.pictures) for item in shown), default=0)
    figure = Figure(figsize=(1.9 * columns, 2.1 * max(1, len(shown))), layout="constrained")
    grid = figure.subplots(max(1, len(shown)), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for item, line in zip(shown, grid):
        for path, axes in zip((*item.pictures, output / f"{item.key}.png"), line):
            axes.imshow(images.read(path))
        line[0].set_title(item.instruction, fontsize=7, loc="left", wrap=True, parse_math=False)
    path = output / f"{_slug(category)}-sheet.png"
    report.write_figure(figure, path)
    return path


def _slug(category: str) -> str:
    return re.sub(r"\W+", "-", category.lower()).strip("-") or "category"


def _row(item: Item, output: Path, side: int) -> str:
    shown = [path for path in (*item.pictures, output / f"{item.key}.png") if path.exists()]
    small = [images.data_url(images.shrunk(images.read(path), side)) for path in shown]
    tags = "".join(f'<img src="{url}" alt="">' for url in small)
    words = markup(item.instruction)
    return f"<figure>{tags}<figcaption>{words}<br><small>{item.key}</small></figcaption></figure>"


def categories(items: list[Item]) -> Iterator[str]:
    """Each category once, in order."""
    yield from dict.fromkeys(item.category for item in items)


def write_pages(
    items: list[Item], output: Path, clip: Clip | None = None, faces: Faces | None = None
) -> list[Path]:
    """Write kontext.json, kontext.md and a page and a picture for each category."""
    found = measure(items, output, clip, faces)
    paths = [output / "kontext.json", output / "kontext.md"]
    report.write_json(found, paths[0])
    report.write_text(table(found), paths[1])
    for category in categories(items):
        paths.append(contact_sheet(items, output, category))
        paths.append(contact_picture(items, output, category))
    return paths


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.kontext"
) -> None:
    """Command line: edit the whole folder, measure, and write a page for each category."""
    parser = report.parser(prog, "KontextBench from a local folder.")
    parser.add_argument("folder", type=Path, help="a copy of KontextBench's folder")
    parser.add_argument("--clip", type=Path, metavar="FOLDER", help="a local CLIP to compare by")
    parser.add_argument("--faces", type=Path, metavar="ONNX", help="a local face embedding")
    options = parser.parse_args(arguments)
    report.positive(options, "steps")
    output = report.folder(options)
    items, (rank, world) = load(options.folder), share()
    clip = Clip(options.clip) if options.clip else None
    faces = Faces(options.faces) if options.faces else None
    pipe = KontextPipeline.from_pretrained(options.weights, device=own_device())
    run(pipe, items, output, options.seed, rank, world, num_inference_steps=options.steps)
    if all((output / f"{item.key}.png").exists() for item in items):
        log.say(*write_pages(items, output, clip, faces))


if __name__ == "__main__":
    main()
