"""KontextBench proper: a local copy of the published folder, edited by any pipeline.

`python -m minikontext.bench.kontext FOLDER --weights NAME --output RESULTS`

The folder holds pictures and `metadata.jsonl` with file_name, key, category and instruction.
Results that exist are kept, so a run can be interrupted. Under torchrun, each process edits its
share. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm.auto import tqdm

from minikontext import files, images
from minikontext.errors import ImageError
from minikontext.pipeline import KontextPipeline

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
    folder = Path(folder).resolve()
    path = folder / "metadata.jsonl"
    if not path.is_file():
        raise ImageError(f"{folder} holds no metadata.jsonl: give a copy of KontextBench's folder")
    items, keys = [], set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        item = _item(line, folder, f"{path.name}, line {number}")
        if item.key in keys:
            raise ImageError(f"{path.name}, line {number}: the key {item.key!r} comes twice")
        keys.add(item.key)
        items.append(item)
    return items


def _item(line: str, folder: Path, where: str) -> Item:
    try:
        row = json.loads(line)
        name, key, category, instruction = (row[field] for field in FIELDS)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ImageError(f"{where}: expected a JSON object with {', '.join(FIELDS)}") from error
    if not SAFE.fullmatch(str(key)) or str(key).startswith("."):
        raise ImageError(f"{where}: the key {key!r} cannot be a file's name")
    names = [*([name] if name else []), *row.get("more", ())]
    pictures = tuple(_inside(folder, str(one), where) for one in names)
    return Item(str(key), str(category), str(instruction), pictures)


def _inside(folder: Path, name: str, where: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder):
        raise ImageError(f"{where}: {name!r} lies outside the folder")
    if not path.is_file():
        raise ImageError(f"{where}: there is no picture {name!r}")
    return path


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
    of processes matters. `call` goes to the pipeline.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    made = []
    for item in tqdm(items[rank::world], desc="KontextBench", disable=rank > 0):
        path = output / f"{item.key}.png"
        if not path.exists():
            given = [images.read(picture) for picture in item.pictures] or None
            mine = zlib.crc32(f"{seed}/{item.key}".encode()) % 2**31
            out = pipe(item.instruction, image=given, seed=mine, progress=False, **call)
            with files.replacing(path) as temporary:
                temporary.write_bytes(images.png_bytes(out.images[0], out.provenance[0]))
        made.append(path)
    return made


def share() -> tuple[int, int]:
    """This process's number and how many there are, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


# ---------------------------------------------------------------- looking


def contact_sheet(items: list[Item], output: str | Path, category: str, side: int = 192) -> Path:
    """Write one category's instructions, pictures and results side by side as an HTML page.

    Pictures are stored in the page, small, so it can be sent and opened anywhere.
    """
    output = Path(output)
    rows = "\n".join(_row(item, output, side) for item in items if item.category == category)
    name = re.sub(r"\W+", "-", category.lower()).strip("-")
    path = output / f"{name}.html"
    title = html.escape(category)
    with files.replacing(path) as temporary:
        temporary.write_text(
            f'<!doctype html><meta charset="utf-8"><title>{title}</title>'
            "<style>body{font:14px sans-serif;margin:24px}figure{display:inline-block;margin:8px}"
            f"img{{width:{side}px;image-rendering:pixelated}}figcaption{{max-width:{2 * side}px}}"
            f"</style><h1>{title}</h1>\n{rows}\n",
            encoding="utf-8",
        )
    return path


def _row(item: Item, output: Path, side: int) -> str:
    shown = [path for path in (*item.pictures, output / f"{item.key}.png") if path.exists()]
    tags = "".join(f'<img src="{_small(path, side)}" alt="">' for path in shown)
    words = html.escape(item.instruction)
    return f"<figure>{tags}<figcaption>{words}<br><small>{item.key}</small></figcaption></figure>"


def _small(path: Path, side: int) -> str:
    picture = images.read(path)
    if max(picture.size) > side:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return "data:image/png;base64," + base64.b64encode(images.png_bytes(picture)).decode()


def categories(items: list[Item]) -> Iterator[str]:
    """Each category once, in order."""
    yield from dict.fromkeys(item.category for item in items)


def main(arguments: list[str] | None = None) -> None:
    """Command line: edit the whole folder and write a page for each category."""
    parser = argparse.ArgumentParser(prog="python -m minikontext.bench.kontext")
    parser.add_argument("folder", type=Path, help="a copy of KontextBench's folder")
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--output", type=Path, required=True, help="where the results go")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the weights' own)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    items, (rank, world) = load(options.folder), share()
    pipe = KontextPipeline.from_pretrained(options.weights)
    run(pipe, items, options.output, options.seed, rank, world, num_inference_steps=options.steps)
    if rank == 0:
        for category in categories(items):
            print(contact_sheet(items, options.output, category))


if __name__ == "__main__":
    main()
