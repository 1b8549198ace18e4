"""MiniKontextBench: 1026 fixed cases in KontextBench's proportions, scored exactly.

`python -m minikontext.bench.mini FOLDER` writes them in KontextBench's own format: pictures, and
`metadata.jsonl` with file_name, key, category and instruction. The same cases on every machine.

Every base scene shows a character whose identity is held out, so no case can occur in training.
Every second case of a category asks in a phrasing that training has never heard.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle
from pathlib import Path

from PIL import Image

from minikontext.bench import report
from minikontext.images import png_bytes
from minikontext.runtime import files
from minikontext.toyworld import Case, Scene, render, sample_scene
from minikontext.toyworld.edits import OPERATIONS, make_case
from minikontext.toyworld.scene import LEVELS
from minikontext.toyworld.split import held_out

BASES = 108
# Task, KontextBench's name for it, and how many of its 1026 cases it has.
CATEGORIES = (
    ("local", "Instruction Editing - Local", 416),
    ("global", "Instruction Editing - Global", 262),
    ("text", "Text Editing", 92),
    ("style reference", "Style Reference", 63),
    ("character reference", "Character Reference", 193),
)
# What KontextBench has no category for, but the paper shows.
MORE = (
    ("visual cue", "Visual Cue", 100),
    ("two images", "Two Images", 100),
    ("text to image", "Text to Image", 100),
)
LEVEL = 4
TRIES = 1000  # of an edit that was not asked for yet; nearly all take one


@lru_cache
def base_scenes() -> tuple[Scene, ...]:
    """The 108 scenes that all cases start from: all with held-out characters."""
    rng, found = random.Random("MiniKontextBench"), []
    while len(found) < BASES:
        scene = sample_scene(rng, LEVEL)
        if held_out("identity", *scene.identity):
            found.append(scene)
    return tuple(found)


def cases(more: bool = False) -> list[tuple[str, str, int, Case]]:
    """All cases as (key, category, number of the base scene, case); `more` adds three sets."""
    categories = (*CATEGORIES, *MORE) if more else CATEGORIES
    return [row for task, name, count in categories for row in _category(task, name, count)]


def _category(task: str, name: str, count: int) -> Iterator[tuple[str, str, int, Case]]:
    rng = random.Random(f"MiniKontextBench/{task}")
    bases, used = cycle(range(BASES)), set()
    for i in range(count):
        base, case = _suitable(rng, task, bases, used, new_words=i % 2 == 1)
        yield f"{task.replace(' ', '-')}-{i:04d}", name, base, case


def _suitable(
    rng: random.Random, task: str, bases: Iterator[int], used: set, new_words: bool
) -> tuple[int, Case]:
    """An edit of the next base scene; the operation adds to the scene what it needs."""
    names = [name for name, (of, _) in OPERATIONS.items() if of == task]
    weights = [LEVELS[LEVEL].operations[name] for name in names]
    for _ in range(TRIES):
        base = next(bases)
        case = make_case(rng.choices(names, weights)[0], rng, base_scenes()[base], LEVEL, new_words)
        if case.unseen and (base, case.prompt) not in used:
            used.add((base, case.prompt))
            return base, case
    raise RuntimeError(f"there is no further case of {task}")


# ---------------------------------------------------------------- files


def write(folder: str | Path, more: bool = False) -> Path:
    """Write the pictures and `metadata.jsonl` into a folder; returns the latter's path."""
    folder, rows = Path(folder), []
    for key, category, base, case in cases(more):
        names = [_name(key, base, i, case) for i in range(len(case.contexts))]
        for name, scene in zip(names, case.contexts, strict=True):
            if not (folder / name).exists():
                files.write_bytes(folder / name, png_bytes(Image.fromarray(render(scene))))
        row = {"file_name": names[0] if names else None, "key": key, "category": category}
        rows.append(row | {"instruction": case.prompt} | ({"more": names[1:]} if names[1:] else {}))
    path = folder / "metadata.jsonl"
    report.write_text("\n".join(map(json.dumps, rows)), path)
    return path


def _name(key: str, base: int, number: int, case: Case) -> str:
    """Where a context picture lies; an unchanged base scene is stored once for all of its cases."""
    if number == 0 and case.contexts[0] == base_scenes()[base]:
        return f"images/{base:03d}.png"
    return f"images/{key}-{number}.png"


def checksum() -> str:
    """SHA-256 over the words and scenes of every case: what the tests compare.

    Pictures are left out: processors round differently, so a pixel can differ by one level.
    """
    digest = hashlib.sha256()
    for key, category, _, case in cases(more=True):
        digest.update(f"{key}|{category}|{case.prompt}|{case.contexts}|{case.target}".encode())
    return digest.hexdigest()


def main(arguments: list[str] | None = None) -> None:
    """Command line: write the benchmark's folder."""
    parser = argparse.ArgumentParser(
        prog="python -m minikontext.bench.mini", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--more", action="store_true", help="also cues, two images, text to image")
    options = parser.parse_args(arguments)
    print(write(options.folder, options.more), checksum())


if __name__ == "__main__":
    main()
