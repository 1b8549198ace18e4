"""What every bench shares: where results go, whole-or-nothing writes, Markdown tables, options.

Results go to runs/bench, or where `--output` says. What is committed, data/bench, changes only with
`--store`, and never from a part of the cases.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from minikontext.errors import ConfigError
from minikontext.pretrained import loader
from minikontext.runtime import files
from minikontext.runtime.config import parse_json
from minikontext.runtime.files import shipped
from minikontext.runtime.log import LONGEST, Parser, place, printable

STORED = shipped("data", "bench")
RUNS = Path("runs", "bench")


def parser(prog: str, description: str | None, **defaults: object) -> argparse.ArgumentParser:
    """The options that every bench takes; `defaults` become --weights, --steps and --seed.

    A default of ... leaves that option out.
    """
    created = Parser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    texts = {
        "weights": "name or folder (default: %(default)s)",
        "steps": "sampling steps (default: the weights' own)",
        "seed": "sampling seed (default: 0)",
    }
    kinds = {"weights": str, "steps": int, "seed": int}
    standard = {"weights": "toy", "steps": None, "seed": 0} | defaults
    for name, default in standard.items():
        if default is not ...:
            created.add_argument(f"--{name}", type=kinds[name], default=default, help=texts[name])
    created.add_argument(
        "--output", type=lambda text: Path(place(text)), metavar="DIR",
        help=f"folder of the results (default: {RUNS})",
    )  # fmt: skip
    created.add_argument(
        "--store", action="store_true", help="write what is committed, data/bench: whole runs only"
    )
    return created


def folder(
    options: argparse.Namespace, part: str = "", check: Callable[[str], object] | None = None
) -> Path:
    """Where results go; `part` names a part of the cases, which has a folder of its own.

    check: raises an error where a name stands for nothing that is measured (`loader.require`).
    Raises ConfigError where a part, or a run without --store, would write into data/bench, or a
    part into runs/bench, and,
    before any work is done, WeightsError for weights that are not there and OutputError where
    nothing can be written.
    """
    named = getattr(options, "weights", None) or ()
    for name in [named] if isinstance(named, str) else named:
        (check or loader.require)(name)
    if options.store and options.output:
        raise ConfigError(
            "Got --store and --output: --store writes to data/bench, use one of them."
        )
    if options.store and part:
        raise ConfigError(
            f"--store keeps results of all cases, and this is a part: {part}. Leave --store out."
        )
    if options.store:
        return STORED
    chosen = options.output or RUNS / part.replace(" ", "-")
    if files.real(chosen) == files.real(STORED):
        raise ConfigError(f"{chosen} holds what is committed: use --store to change that.")
    if part and files.real(chosen) == files.real(RUNS):
        raise ConfigError(
            f"{chosen} is the place of whole runs, and this is a part: {part}. Name another "
            "folder, or leave --output out."
        )
    files.try_writing(chosen / "results.json")
    return chosen


def positive(options: argparse.Namespace, *names: str) -> None:
    """Raises ConfigError where one of these options is not a whole number from 1."""
    for name in names:
        values = getattr(options, name)
        for value in values if isinstance(values, (list, tuple)) else [values]:
            if value is not None and value < 1:
                raise ConfigError(f"--{name} {value}: use whole numbers from 1.")


def read_json(path: Path, default: Any = None) -> Any:
    """The content of a JSON file, or the default where there is none. Raises ConfigError."""
    try:
        return parse_json(files.read_text(path)) if path.exists() else default
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is damaged: {error!s:.200}. Restore it, or remove it to measure anew."
        ) from error


def write_json(content: object, path: Path) -> None:
    """Write JSON, whole or not at all; makes the folder."""
    write_text(json.dumps(content, indent=1), path)


def write_text(text: str, path: Path) -> None:
    """Write a text with a line end, whole or not at all; makes the folder."""
    files.write_text(path, text.rstrip("\n") + "\n")


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, at most 800 pixels wide for pages."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=88)


def table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; None is an empty cell."""
    lines = [head, ["---"] * len(head), *rows]
    shown = ([_cell(cell) for cell in line] for line in lines)
    text = ["| " + " | ".join(line) + " |" for line in shown]
    return "\n".join([text[0], "|" + "---|" * len(head), *text[2:]])


def _cell(value: object) -> str:
    """A cell's text, which may be a stranger's: no bar, tag or control character acts in it."""
    text = printable("" if value is None else str(value), LONGEST)
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", re.sub(r"(?<!\\)\|", r"\|", text))


def side_by_side(columns: Mapping[str, object], rows: Mapping[str, Sequence[object]]) -> str:
    """A Markdown table with a column for each name and labelled rows."""
    return table(["", *columns], [[label, *cells] for label, cells in rows.items()])


def span(interval: tuple[float, float] | None) -> str:
    """An interval in words."""
    return "{} to {}".format(*interval) if interval else ""
