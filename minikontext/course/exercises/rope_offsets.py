"""Exercises of notebook 03."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minikontext.course.checks import NotAttempted, Report, exercise


@exercise
def tokens_per_turn(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens until a pair has turned by 2 pi."""
    report.equal("the first pair turns by one radian a token", answer, (0, 56, 10_000),
                 2 * math.pi)  # fmt: skip
    j, d, theta = report.whole(9, 14), 2 * report.whole(16, 18), 100 * report.whole(20, 99)
    text = f"pair {j} of an axis with {d} channels, theta {theta}"
    report.equal(text, answer, (j, d, theta), tolerance=1e-4)


class _ComplexSeen(TorchFunctionMode):
    """Whether any function gave a complex tensor."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= isinstance(result, Tensor) and result.is_complex()
        return result


@exercise
def rotate_complex(report: Report, answer: Callable[..., Any]) -> None:
    """Neighbouring channels turned by an angle for each pair, by complex multiplication."""
    right = torch.tensor([[1.0, 0.0]])
    report.equal("a quarter turn: (1, 0) becomes (0, 1)", answer,
                 (right, torch.tensor([[math.pi / 2]])), torch.tensor([[0.0, 1.0]]))  # fmt: skip
    n, d = report.whole(2, 5), report.whole(2, 5)
    angles = 3 * report.normal(n, d)
    for name, shape in (("tokens with angles of their own", (n, 2 * d)),
                        ("two samples of three heads", (2, 3, n, 2 * d))):  # fmt: skip
        report.equal(name, answer, (report.normal(*shape), angles))
    why = "no complex number was made: `rotate_by_hand` slices, too"
    report.true("by one complex multiplication", _uses_complex(answer), why)


def _uses_complex(answer: Callable[..., Any]) -> bool:
    # NumPy tells nobody what it computes, but its way to a complex number is `1j` in the code.
    code = getattr(answer, "__code__", None)
    if code and any(isinstance(one, complex) for one in code.co_consts):
        return True
    with _ComplexSeen() as mode:
        try:
            answer(torch.ones(2, 4), torch.ones(2, 2))
        except NotImplementedError as error:
            raise NotAttempted from error
        except Exception:  # the cases above have said so
            return False
    return mode.seen


@exercise
def halves_to_neighbours(report: Report, answer: Callable[..., Any]) -> None:
    """Channels sorted from pairs of halves to pairs of neighbours."""
    report.equal("six channels", answer, (torch.arange(6.0),),
                 torch.tensor([0.0, 3, 1, 4, 2, 5]))  # fmt: skip
    x = report.normal(4, 2 * report.whole(3, 6))
    report.equal(f"four rows of {x.shape[1]} channels", answer, (x,))


@exercise
def side_by_side(report: Report, answer: Callable[..., Any]) -> None:
    """All contexts at virtual time 1, each to the right of the earlier ones."""
    report.equal("no contexts, no ids", answer, ([],), [])
    report.equal("one context of one row", answer, ([(1, 2)],),
                 [torch.tensor([[1, 0, 0], [1, 0, 1]])])  # fmt: skip
    grids = [(2, report.whole(4, 5)), (3, 2), (report.whole(4, 6), report.whole(2, 3))]
    report.equal(f"three contexts: {grids}", answer, (grids,))


@exercise
def angles(report: Report, answer: Callable[..., Any]) -> None:
    """An angle for every token and pair of channels, from three ids."""
    ids = torch.tensor([[1, 0, 2]])
    right = torch.tensor([[1.0, 0.0, 0.0, 2.0, 0.2]])
    report.equal("one token, axes of 2, 4 and 4 channels, theta 100", answer,
                 (ids, (2, 4, 4), 100), right)  # fmt: skip
    for axes in (3, report.whole(4, 5)):
        n, dims = report.whole(3, 6), tuple(2 * report.whole(2, 6) for _ in range(axes))
        ids = torch.randint(0, 40, (n, axes), generator=report.draw)
        theta = 1000 * report.whole(2, 9)
        text = f"{n} random tokens, {axes} axes of {dims}, theta {theta}"
        report.equal(text, answer, (ids, dims, theta), tolerance=1e-4)
