"""What checks an exercise: the student's function is run on cases whose answers are known before.

What is expected never comes from the student's code. `checking.check` finds an exercise by name.
"""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minikontext.course import solutions
from minikontext.course.solutions import Mistakes

Checks = Callable[["Report", Callable[..., Any]], None]
REGISTRY: dict[str, Checks] = {}
# Filled in from the table beside the checks' module, if there is one.
KNOWN: dict[str, Mistakes] = {}
SOLVED: dict[str, str] = {}  # what `tools/exercises.py` writes into the notebooks
RIGHT: dict[str, Callable[..., Any]] = {}  # the same as functions
SOLUTION = object()  # expected is what the solution answers
PASSED, FAILED = "[OK]  ", "[FAIL]"
FEW = 18  # numbers that are shown in full


def exercise(checks: Checks) -> Checks:
    """Register checks under their own name: `psnr` checks the student's function `psnr`.

    A table beside the module, as `course.solutions` describes it, has solution and known mistakes.
    """
    name = checks.__name__
    if name in REGISTRY and REGISTRY[name].__module__ != checks.__module__:
        raise ValueError(f"Two exercises are called {name!r}: their names must differ.")
    REGISTRY[name] = checks
    path = Path(inspect.getfile(checks)).with_suffix(".toml")
    if path.is_file():
        SOLVED[name], RIGHT[name], KNOWN[name] = solutions.load(path, name)
    return checks


class NotAttempted(Exception):
    """The student's stub still raises NotImplementedError."""


@dataclass
class Report:
    """Collects and prints the result of each case of one exercise.

    known: wrong answers by what was done, as in {"you forget the root": function}. One that answers
    as the student does in *every* case is named in the end: alone, a case may look like many
    mistakes. tried: what was answered, what was given, and when an answer is the same. draw: for
    data that nobody foresees.
    """

    results: list[bool] = field(default_factory=list)
    known: Mistakes = field(default_factory=dict)
    solution: Callable[..., Any] | None = None
    draw: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    tried: list[tuple[Any, tuple, Callable[[Any, Any], bool]]] = field(default_factory=list)

    def normal(self, *shape: int) -> Tensor:
        """Random normal numbers."""
        return torch.randn(*shape, generator=self.draw)

    def uniform(self, *shape: int) -> Tensor:
        """Random numbers from 0 to 1."""
        return torch.rand(shape, generator=self.draw)

    def whole(self, low: int, high: int) -> int:
        """A random whole number, low to high."""
        return int(torch.randint(low, high + 1, (), generator=self.draw))

    def through(
        self, wrap: Callable[[Callable[..., Any]], Callable[..., Any]], answer: Callable[..., Any]
    ) -> Callable[..., Any]:
        """Look at an answer, the solution and all known mistakes through a function around it."""
        self.solution = self.solution and wrap(self.solution)
        self.known = {mistake: wrap(wrong) for mistake, wrong in self.known.items()}
        return wrap(answer)

    def right(self, *arguments: Any) -> Any:
        """What the solution answers."""
        return self.solution(*map(_copy, arguments))

    def equal(
        self, case: str, function: Callable[..., Any], arguments: tuple, expected: Any = SOLUTION,
        tolerance: float = 1e-5, also: Any = None,
    ) -> None:  # fmt: skip
        """Call the function with copies of the arguments and compare with what is expected.

        Shapes must be equal, numbers within `tolerance` (relative and absolute), counts whole
        numbers, and the arguments unchanged. expected: by default what the solution answers;
        also: a second right answer.
        """
        expected = self.right(*arguments) if expected is SOLUTION else expected
        inputs = [_copy(a) for a in arguments]
        alike = partial(same, tolerance=tolerance)
        got = self.call(case, function, *inputs, known=arguments)
        if got is FAILED:
            return None
        self.tried.append((got, arguments, alike))
        if not alike(got, expected) and (also is None or not alike(got, also)):
            lines = [f"expected {describe(expected)}", f"got      {describe(got)}"]
            return self.fail(case, "\n       ".join([*lines, *_advice(got, expected, tolerance)]))
        if not all(same(a, b, 0.0) for a, b in zip(inputs, arguments)):
            return self.fail(case, "your function changed its input; work on a copy")
        return self.ok(case)

    def call(
        self, case: str, function: Callable[..., Any], *arguments: Any, known: tuple | None = None
    ) -> Any:
        """What the student's function returns, or FAILED after saying why there is nothing.

        known: what the known mistakes are given, to see whether they fail in the same way.
        """
        try:
            return function(*arguments)
        except NotImplementedError as error:
            raise NotAttempted from error
        except Exception as error:
            if known is not None:
                self.tried.append((error, known, same))
            self.fail(case, where_raised(error, function))
            return FAILED

    def reaches(self, case: str, loss: Any, point: Tensor, why: str, wanted: bool = True) -> None:
        """Record whether a gradient of `loss` reaches `point`, as is `wanted`."""
        found = isinstance(loss, Tensor) and loss.requires_grad
        slope = torch.autograd.grad(loss.sum(), point, retain_graph=True, allow_unused=True)[0] \
            if found else None  # fmt: skip
        self.true(case, (slope is not None and bool(slope.abs().sum() > 0)) == wanted, why)

    def named(self) -> list[str]:
        """The known mistakes that answer as the student does, in every case."""
        if all(self.results) or not self.tried:
            return []
        return [mistake for mistake, wrong in self.known.items()
                if all(_fits(wrong, *one) for one in self.tried)]  # fmt: skip

    def true(self, case: str, condition: bool, why: str) -> None:
        """Record a case that is simply true or not; `why` says what was expected."""
        self.ok(case) if condition else self.fail(case, why)

    def ok(self, case: str) -> None:
        """Record and print a passed case."""
        self.results.append(True)
        print(PASSED, case)

    def fail(self, case: str, why: str) -> None:
        """Record and print a failed case with its reason."""
        self.results.append(False)
        print(FAILED, f"{case}\n       {why}")

    def finish(self) -> None:
        """Print the mistakes that are recognised, and how many cases passed."""
        for mistake in self.named():
            print(f"       this is what you get if {mistake}")
        passed, count = sum(self.results), len(self.results)
        print(f"{passed} of {count} passed." + (" Well done!" if passed == count else ""))


def describe(value: Any) -> str:
    """Say what a value is: its shape and type, and the numbers if they are few."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(value)
    if isinstance(value, Tensor):
        kind = f"tensor {tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
        if value.numel() <= FEW:
            return f"{kind}: {_rounded(value.detach().tolist())}"
        return f"{kind}: {', '.join(str(_rounded(x)) for x in value.flatten()[:4].tolist())}, …"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        inner = ", ".join(describe(item) for item in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _rounded(value: Any) -> Any:
    """Numbers, however deep in lists, with as many digits as one wants to read."""
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _advice(got: Any, expected: Any, tolerance: float) -> Iterator[str]:
    """What helps where both values look alike, or where there is none."""
    if got is None or (isinstance(got, list) and any(one is None for one in got)):
        yield "does your function end with `return`?"
    if isinstance(expected, int) and isinstance(got, float):
        yield "a count is a whole number"
    if not (isinstance(got, Tensor) and isinstance(expected, Tensor)):
        return
    if got.shape == expected.shape and got.numel() > FEW:
        a, b = got.detach().cpu().double(), expected.double()
        wrong = (~torch.isclose(a, b, tolerance, tolerance, equal_nan=True)).nonzero().tolist()
        place = tuple(wrong[0])
        yield (
            f"{len(wrong)} of {got.numel()} numbers differ; the first is at {list(place)}: "
            f"expected {_rounded(b[place].item())}, got {_rounded(a[place].item())}"
        )


def same(got: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether a value is what was expected: equal, or numbers of one shape within `tolerance`.

    Several numbers or tensors may come as a list, a tuple or an array.
    """
    if isinstance(expected, (list, tuple)):
        got = list(got) if isinstance(got, (Tensor, np.ndarray)) and got.ndim else got
        fits = isinstance(got, (list, tuple)) and len(got) == len(expected)
        return fits and all(same(a, b, tolerance) for a, b in zip(got, expected))
    if isinstance(expected, dict):
        fits = isinstance(got, dict) and got.keys() == expected.keys()
        return fits and all(same(got[key], expected[key], tolerance) for key in expected)
    if isinstance(expected, (Tensor, np.ndarray, float)):
        return _close(got, expected, tolerance)
    if isinstance(expected, int) and not isinstance(expected, bool) and not _whole(got):
        return False
    try:
        return bool(got == expected)
    except Exception:  # a tensor where a number or a word belongs
        return False


def _whole(value: Any) -> bool:
    """Whether something is a count: 16, not 16.0."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and not (value.is_floating_point() or value.is_complex())
    return isinstance(value, Integral)


def _close(got: Any, expected: Any, tolerance: float) -> bool:
    """Same shape and close numbers; a float may also come as a tensor of one number."""
    try:
        rows = isinstance(got, (list, tuple)) and any(isinstance(one, Tensor) for one in got)
        a = (torch.stack(got) if rows else torch.as_tensor(got)).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError):
        return False
    b = torch.as_tensor(expected).detach().cpu().double()
    if a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _fits(
    wrong: Callable[..., Any], got: Any, arguments: tuple, alike: Callable[[Any, Any], bool]
) -> bool:
    """Whether a known mistake answers the same, or fails in the same way."""
    try:
        other = wrong(*map(_copy, arguments))
    except Exception as error:
        return repr(got) == repr(error)
    return not isinstance(got, Exception) and alike(got, other)


def _copy(value: Any) -> Any:
    """What a function may change without harm; what cannot be copied is given as it is."""
    if isinstance(value, (Tensor, np.ndarray, list, dict)):
        return copy.deepcopy(value)
    return value


def where_raised(error: Exception, function: Callable[..., Any]) -> str:
    """The error and the line of the student's code where it happened."""
    text = f"your code raised {type(error).__name__}: {error}"
    code = inspect.unwrap(function).__code__ if hasattr(function, "__code__") else None
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f for f in frames if code and f.filename == code.co_filename]
    if not lines:
        return text
    return f"{text}\n       in the line: {lines[-1].line or lines[-1].lineno}"
