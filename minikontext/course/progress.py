"""What a student has reached, kept across notebooks in a small file of the course folder.

The file is `progress.json` in the notebooks' folder (or the path in MINIKONTEXT_PROGRESS): the
pieces of the model that ran with the student's own code, the last exercises that were solved, and
the predictions. Delete it to begin anew.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock

from minikontext.errors import MinikontextError
from minikontext.runtime import files
from minikontext.runtime.config import build_config, parse_json

FILE = "progress.json"
# The boxes of the map that the course opens by hand, and in each the pieces that exercises ask for.
BOXES: dict[str, tuple[str, ...]] = {
    "autoencoder": ("encode", "decode", "res_block"),
    "tokens": ("pack", "unpack", "position_ids", "join_context"),
    "rope": ("angles", "rotate"),
    "transformer": ("single_block",),
    "text": ("text_block",),
    "noise": ("interpolate",),
    "flow": ("loss",),
    "sampler": ("schedule", "euler", "guide"),
}
# Around the model: a box is green once its notebook's last exercise is solved.
SOLVED = {
    "distillation": "one_turn",
    "scale": "sharded_step",
    "bench": "clustered_interval",
    "safety": "evade",
    "weights": "official_block",
}


def path() -> Path:
    """Where the progress is kept: a notebook runs in its own folder."""
    return Path(os.environ.get("MINIKONTEXT_PROGRESS") or FILE)


@dataclass(frozen=True)
class Progress:
    """What the file holds. pieces: the student's lines by name; solved: exercises; predictions:
    for each question the "guess", and "measured" once there is the truth.
    """

    pieces: dict[str, str] = field(default_factory=dict)
    solved: dict[str, bool] = field(default_factory=dict)
    predictions: dict[str, dict[str, str]] = field(default_factory=dict)


def load(section: str) -> dict[str, Any]:
    """One section, "pieces", "solved" or "predictions"; empty for no file, or a broken one."""
    try:
        return dict(getattr(_read(), section))
    except (OSError, ValueError) as error:
        print(f"note: {path()} is not read, and your progress is not shown: {error}")
        return {}


def keep(section: str, new: dict[str, Any]) -> None:
    """Add to a section and write the file whole; where it cannot be written, say so and go on.

    A file that cannot be read is kept under another name, and that is said.
    """
    try:
        with _locked():
            try:
                known = _read()
            except (OSError, ValueError) as error:
                aside = _set_aside()
                print(f"note: {path()} could not be read: {error}. It is {aside} now.")
                known = Progress()
            getattr(known, section).update(new)
            files.write_text(path(), json.dumps(asdict(known), indent=1, ensure_ascii=False))
    except Exception as error:  # a course on a disk that is full or read only is still a course
        print(f"note: your progress is not kept: {error}")


def _read() -> Progress:
    """The file's content. Raises OSError and ValueError for one that is there and is no progress.

    What a later edition of the course has kept beside is left out.
    """
    if not os.path.lexists(path()):
        return Progress()
    found = parse_json(files.read_text(path()))
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    names = [one.name for one in fields(Progress)]
    return build_config(Progress, {k: v for k, v in found.items() if k in names}, None, BadFile)


class BadFile(MinikontextError, ValueError):
    """A file of progress with values that nothing here has written."""


def _locked() -> FileLock:
    """Two notebooks that run at once add to one file, one after the other."""
    place = path().with_name(f".{path().name}.lock")
    if place.is_symlink():
        raise OSError(f"{place} is a link; remove it")
    return FileLock(place, timeout=10)


def _set_aside() -> Path:
    """Give a broken file another name, one that is free."""
    names = (path().with_name(f"{path().stem}-broken-{i}{path().suffix}") for i in count(1))
    aside = next(name for name in names if not os.path.lexists(name))
    os.rename(path(), aside)
    return aside


def green() -> set[str]:
    """The boxes of the map whose pieces have all run with the student's code, or are solved."""
    kept, solved = load("pieces"), load("solved")
    ran = {box for box, pieces in BOXES.items() if all(name in kept for name in pieces)}
    return ran | {box for box, name in SOLVED.items() if name in solved}
