"""The exercise checker of the notebooks: `mk.course.check(psnr)`.

It is apart from `checks`, which every exercise imports: this module imports the exercises.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from typing import Any

import torch

from minikontext.course import exercises, progress  # noqa: F401  exercises fills the registry
from minikontext.course.checks import (
    KNOWN,
    REGISTRY,
    RIGHT,
    NotAttempted,
    Report,
    where_raised,
)


def check(function: Callable[..., Any]) -> None:
    """Run the checks of the exercise that has the function's name, and print the results.

    The name is the function's own, or that of the caller's variable: a lambda has none itself. A
    stub that still raises NotImplementedError is "not attempted yet", never an error.
    Raises KeyError for a name that no exercise has.
    """
    caller = inspect.currentframe().f_back
    name = _name(function, {**caller.f_globals, **caller.f_locals})
    if name not in REGISTRY:
        raise KeyError(f"No exercise is called {name!r}. Known: {', '.join(sorted(REGISTRY))}.")
    draw = torch.Generator().manual_seed(random.SystemRandom().getrandbits(31))
    report = Report(known=dict(KNOWN.get(name, {})), solution=RIGHT.get(name), draw=draw)
    try:
        REGISTRY[name](report, function)
    except (NotAttempted, NotImplementedError):
        return print(f"{name}: not attempted yet")
    except Exception as error:  # an answer of a kind that the checks did not foresee
        report.fail("what comes back can be read", where_raised(error, function))
    report.finish()
    for box in (box for box, solved in progress.SOLVED.items() if solved == name):
        if all(report.results):
            progress.keep("solved", {name: True})
            print(f"       {box}: green on the map")


def _name(function: Callable[..., Any], variables: dict[str, Any]) -> str:
    """The function's own name; for a lambda or a partial, that of the exercise it is bound to."""
    own = getattr(function, "__name__", str(function))
    bound = (name for name, value in variables.items() if value is function and name in REGISTRY)
    return own if own in REGISTRY else next(bound, own)
