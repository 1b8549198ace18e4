"""Solutions of the exercises, and what is known to go wrong, from the table of each notebook.

`solution` is source: its signature and docstring are the notebook's stub. `mistakes` are told by
what was done, and say how the solution then reads: [what stands there, what then stands in its
place, …], or an expression, returned in place of all. It may call the solution, as `right`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

import minikontext as mk

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

HOME = Path(__file__).resolve().parent / "exercises"  # what is run below is the package's own
Mistakes = dict[str, Callable[..., Any]]  # what was done -> a function that does it
# What the notebooks import before their exercises.
SCOPE = {"F": F, "math": math, "mk": mk, "np": np, "rearrange": rearrange, "torch": torch}


@cache
def table(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a file says of its exercises by name, and what their solutions share.

    Raises ValueError for a file that is not the package's: what it says is run.
    """
    if path.resolve().parent != HOME:
        raise ValueError(f"{path} is none of the package's own tables: its code is not run.")
    return tomllib.loads(path.read_text(encoding="utf-8")), dict(SCOPE)


def load(path: Path, name: str) -> tuple[str, Callable[..., Any], Mistakes]:
    """The solution of an exercise as source and as a function, and all mistakes as functions."""
    said, scope = table(path)  # a later solution may call an earlier one
    solution = said[name]["solution"].strip("\n")
    right = _function(name, solution, scope)
    return solution, right, {
        told: _function(name, spoiled(name, solution, mistake), scope | {"right": right})
        for told, mistake in said[name]["mistakes"].items()
    }  # fmt: skip


def spoiled(name: str, solution: str, mistake: str | list[str]) -> str:
    """The source of a solution with a mistake. Raises ValueError where nothing stands for it."""
    if isinstance(mistake, str):
        return re.search(rf"def {name}\(.*\):", solution)[0] + f"\n    return ({mistake})"
    for before, after in zip(mistake[::2], mistake[1::2], strict=True):
        if before not in solution:
            raise ValueError(f"The solution of {name!r} has no {before!r} to be replaced.")
        solution = solution.replace(before, after)
    return solution


def _function(name: str, source: str, scope: dict[str, Any]) -> Callable[..., Any]:
    exec(compile(source, f"<{name}>", "exec"), scope)
    return scope[name]
