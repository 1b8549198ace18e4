"""`minikontext lab`: the course in a folder of the student's own, kept up to date, in JupyterLab.

The shipped notebooks stay as they are. In `FOLDER/.course` lie the notebooks as they were last
delivered: what differs from them is the student's, and stays when the course changes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from minikontext.errors import ConfigError, MissingPackageError, OutputError
from minikontext.runtime import files, log
from minikontext.runtime.config import parse_json

HOME = Path("~", "minikontext-course")
START = "00_start_here.ipynb"
DELIVERED = ".course"  # the notebooks as they came, and the student's before the last change
OURS = ("notebooks", "data", DELIVERED)  # of a student's folder
NOT_SOUND = (OSError, ValueError, LookupError, TypeError, AttributeError)  # of a notebook's file
Cell = dict[str, Any]


def add(commands: argparse._SubParsersAction) -> None:
    """Describe `lab`."""
    lab = commands.add_parser(
        "lab",
        help="open the course in JupyterLab, in a folder of your own",
        epilog="What follows `--` is passed on to JupyterLab: minikontext lab -- --no-browser",
    )
    lab.add_argument(
        "folder", nargs="?", type=log.place, default=str(HOME), metavar="FOLDER",
        help=f"where your copy of the course is (default: {HOME}); answers are kept",
    )  # fmt: skip
    lab.add_argument(
        "--reset", action="append", default=[], metavar="NN",
        help="start notebook NN (such as 03) anew; yours is kept in FOLDER/.course/before",
    )  # fmt: skip
    lab.add_argument("--copy-only", action="store_true", help="bring the folder up to date, only")
    lab.add_argument(
        "--allow-root", action="store_true", help="JupyterLab asks for this where you are root"
    )
    lab.set_defaults(run=run, options=[])


def run(options: argparse.Namespace) -> int:
    """Bring the student's folder up to date and open it; 0 when JupyterLab ends well."""
    allowed = ["--allow-root"] if options.allow_root else []
    passed_on = [*options.options, *allowed]
    root = getattr(os, "geteuid", lambda: 1)() == 0
    if root and not options.copy_only and "--allow-root" not in passed_on:
        raise ConfigError(
            "JupyterLab does not run as root unless told: minikontext lab --allow-root "
            '(with make: make lab LAB_ARGS="--allow-root"), or use another account.'
        )
    folder = Path(options.folder).expanduser()
    for line in deliver(shipped_notebooks(), folder, options.reset):
        print(line)
    print(f"course: {folder}")
    if options.copy_only:
        return 0
    trust(shipped_notebooks(), folder)
    return _open(folder, passed_on)


def trust(source: Path, folder: Path) -> None:
    """Sign the notebooks that are as they are shipped, so that Jupyter shows what they have stored.

    Of others it leaves out styles, and plots stay white in the dark theme until a cell has run.
    """
    try:
        import nbformat
        from nbformat.sign import NotebookNotary
    except ImportError:  # then there is no JupyterLab either, and `_open` says so
        return
    notary = NotebookNotary()
    for one in sorted((folder / "notebooks").glob("*.ipynb")):
        shipped = source / one.name
        if shipped.is_file() and one.read_bytes() == shipped.read_bytes():
            notary.sign(nbformat.reads(files.read_text(one), as_version=4))


def _open(folder: Path, options: list[str]) -> int:
    try:
        from jupyterlab.labapp import main as jupyterlab
    except ImportError as error:
        raise MissingPackageError("JupyterLab is not installed: pip install jupyterlab") from error
    return jupyterlab([str(folder / "notebooks" / START), *options]) or 0


def shipped_notebooks() -> Path:
    """The folder of the shipped notebooks: in the clone, or in the installed package."""
    return files.shipped("notebooks")


def deliver(source: Path, folder: Path, reset: Sequence[str] = ()) -> list[str]:
    """Copy the course from `source` to `folder`; return one line for each thing worth telling.

    A notebook that the student has changed keeps those cells, also when the course's has changed.
    reset: numbers ("03") of notebooks that start anew.
    Raises ConfigError where there is no course, or no notebook of that number; OutputError where
    `folder` is the shipped one or cannot be written.
    """
    notebooks = sorted(source.glob("[0-9][0-9]_*.ipynb"))
    if not (source / START).is_file():
        raise ConfigError(f"There is no {source / START}. Install minikontext again.")
    if unknown := [n for n in reset if n not in {one.name[:2] for one in notebooks}]:
        raise ConfigError(
            f"There is no notebook {unknown[0]!r} to reset. Numbers are {notebooks[0].name[:2]} "
            f"to {notebooks[-1].name[:2]}."
        )
    clone = folder / "pyproject.toml"  # perhaps not the one that is installed
    shipped = files.real(source)
    inside = (place := files.real(folder)).is_relative_to(shipped)
    if inside or place == shipped.parent or files.exists(clone):
        raise OutputError(f"{folder} holds the course as it is shipped. Name another folder.")
    if course := _around(folder):
        raise OutputError(
            f"{folder} lies in the course {course}. Name that folder, or another one."
        )
    files.check_writable(folder / "notebooks" / START)
    notes = [_deliver_one(one, folder, one.name[:2] in reset) for one in notebooks]
    notes += [_leave(one, folder) for one in sorted((folder / DELIVERED).glob("[0-9][0-9]_*.ipynb"))
              if one.name not in {each.name for each in notebooks}]  # fmt: skip
    _copy_texts(source, folder)
    return [note for note in notes if note]


def _leave(last: Path, folder: Path) -> str:
    """Of a notebook that the course has no more, or under another number: the student's stays."""
    last.unlink()
    if not (folder / "notebooks" / last.name).exists():
        return ""
    return f"{last.name}: is no part of the course any more, or has another number; yours stays"


def _around(folder: Path) -> Path | None:
    """The student's course in which a folder lies, as its notebooks do; None for any other."""
    place = files.real(folder)
    for above in place.parents:
        part = place.relative_to(above).parts[0]
        if part in OURS and files.exists(above / DELIVERED / START):
            return above
    return None


def _copy_texts(source: Path, folder: Path) -> None:
    """What the notebooks link to: the glossary, the cards of the weights, the results."""
    data = source.parent / "data"
    pages = [*source.glob("*.md"), *data.glob("*/**/*.md"), *data.glob("bench/*.png")]
    for page in pages:
        files.write_bytes(folder / page.relative_to(source.parent), page.read_bytes())


def _deliver_one(shipped: Path, folder: Path, reset: bool) -> str:
    mine, last = folder / "notebooks" / shipped.name, folder / DELIVERED / shipped.name
    new = shipped.read_bytes()
    note = ""
    if mine.is_file() and reset:
        note = f"{shipped.name}: starts anew; yours is {_keep(mine, folder)}"
    elif mine.is_file() and last.is_file() and last.read_bytes() == new:
        return ""  # nothing new: the student's notebook is left alone, its outputs, too
    elif mine.is_file():
        kept = _keep(mine, folder)
        try:
            old = _cells(last) if _is_sound(last) else _cells(shipped)
            merged, conflicts = merge(old, _cells(mine), _cells(shipped))
            text = json.dumps(merged, indent=1, ensure_ascii=False).encode() + b"\n"
        except NOT_SOUND:  # cut short, or no notebook
            files.write_bytes(mine, new)
            files.write_bytes(last, new)
            return f"{shipped.name}: is no sound notebook, and starts anew; yours is {kept}"
        note = f"{shipped.name}: brought up to date; yours before is {kept}"
        if conflicts:
            note += f"; {conflicts} of your cells stand beside cells that are new"
        files.write_bytes(mine, text)
        files.write_bytes(last, new)
        return note
    files.write_bytes(mine, new)
    files.write_bytes(last, new)
    return note


def _cells(path: Path) -> dict:
    """A notebook. Raises one of NOT_SOUND if its cells cannot be compared."""
    found = parse_json(files.read_text(path))
    set(map(_key, found["cells"]))  # they can be told apart
    return found


def _is_sound(path: Path) -> bool:
    with suppress(*NOT_SOUND):
        return bool(_cells(path))
    return False


def _keep(mine: Path, folder: Path) -> Path:
    """Keep the student's notebook under a name that is free."""
    number, place = 1, folder / DELIVERED / "before"
    while (kept := place / f"{mine.stem}_{number}.ipynb").exists():
        number += 1
    files.write_bytes(kept, mine.read_bytes())
    return kept


def merge(old: dict, mine: dict, new: dict) -> tuple[dict, int]:
    """The new notebook with the student's cells; and how many stand beside changed ones.

    old: as it was delivered; mine: what the student made of it; new: the course's of today.
    Cells are compared by kind and source, never by id: ids are numbered from the top.
    """
    before, ours, theirs = (list(map(_key, one["cells"])) for one in (old, mine, new))
    kept = _kept(before, theirs)
    cells, conflicts = list(new["cells"]), 0
    changes = SequenceMatcher(None, before, ours, autojunk=False).get_opcodes()
    for kind, a, b, first, last in reversed(changes):  # from the end: positions stay right
        if kind == "equal":
            continue
        answers = mine["cells"][first:last]
        places = [kept.get(i) for i in range(a, b)]
        if places and None not in places and places[-1] - places[0] == b - a - 1:
            cells[places[0] : places[-1] + 1] = answers
        else:
            at = next((kept[i] + 1 for i in range(b - 1, -1, -1) if i in kept), 0)
            cells[at:at] = answers
            conflicts += len(answers) if places else 0
    return {**new, "cells": _with_own_ids(cells)}, conflicts


def _key(cell: Cell) -> tuple[str, str]:
    return cell["cell_type"], "".join(cell["source"])


def _kept(old: list, new: list) -> dict[int, int]:
    """Old position -> new position of the cells that the course has not changed."""
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return {a + i: b + i for a, b, size in blocks for i in range(size)}


def _with_own_ids(cells: list[Cell]) -> list[Cell]:
    seen: set[str] = set()
    found = []
    for number, cell in enumerate(cells):
        name = cell.get("id", "cell")
        while name in seen:
            name = f"{name[:40]}-{number}"
        seen.add(name)
        found.append({**cell, "id": name})
    return found
