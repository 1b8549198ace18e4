"""What a student has reached, kept across notebooks in a small file of the course folder.

The file is `progress.json` in the notebooks' folder (or the path in MINIKONTEXT_PROGRESS): the
pieces of the model that ran with the student's own code, the last exercises that were solved, and
the predictions. Delete it to begin anew.
"""

import json
import os
from pathlib import Path
from typing import Any

from minikontext.runtime import files

FILE = "progress.json"
# The boxes of the map that the course opens by hand, and the pieces in each.
BOXES: dict[str, tuple[str, ...]] = {
    "autoencoder": ("encode", "decode", "res_block"),
    "tokens": ("pack", "unpack", "position_ids", "join_context"),
    "rope": ("angles", "rotate"),
    "transformer": ("modulate", "attend", "double_block", "single_block"),
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


def load(section: str) -> dict[str, Any]:
    """One section, "pieces", "solved" or "predictions"; empty for no file, or a broken one."""
    try:
        found = json.loads(files.read_text(path()))[section]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def keep(section: str, new: dict[str, Any]) -> None:
    """Add to a section and write the file whole; where it cannot be written, say so and go on."""
    everything = {name: load(name) for name in ("pieces", "solved", "predictions")}
    everything[section] |= new
    try:
        with files.replacing(path()) as part:
            part.write_text(json.dumps(everything, indent=1, ensure_ascii=False), encoding="utf-8")
    except Exception as error:  # a course on a disk that is full or read only is still a course
        print(f"note: your progress is not kept: {error}")


def green() -> set[str]:
    """The boxes of the map whose pieces have all run with the student's code, or are solved."""
    kept, solved = load("pieces"), load("solved")
    ran = {box for box, pieces in BOXES.items() if all(name in kept for name in pieces)}
    return ran | {box for box, name in SOLVED.items() if name in solved}
