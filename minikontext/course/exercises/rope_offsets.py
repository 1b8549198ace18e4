"""Exercises of notebook 03."""

import math
from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def tokens_per_turn(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens until a pair has turned by 2 pi."""
    report.equal("the first pair turns by one radian a token", answer, (0, 56, 10_000),
                 2 * math.pi)  # fmt: skip
    report.equal("half-way through the pairs", answer, (14, 56, 10_000), 200 * math.pi)
    report.equal("another theta", answer, (1, 4, 100), 20 * math.pi)
    report.equal("the toy's slowest row hand", answer, (9, 20, 10_000),
                 2 * math.pi * 10_000**0.9, tolerance=1e-4)  # fmt: skip


@exercise
def rotate_complex(report: Report, answer: Callable[..., Any]) -> None:
    """Neighbouring channels turned by an angle for each pair."""
    right = torch.tensor([[1.0, 0.0]])
    report.equal("a quarter turn: (1, 0) becomes (0, 1)", answer,
                 (right, torch.tensor([[math.pi / 2]])), torch.tensor([[0.0, 1.0]]))  # fmt: skip
    two = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    half = torch.tensor([[1.0, 2.0, -3.0, -4.0]])
    report.equal("two pairs: the first stays, the second turns by half", answer,
                 (two, torch.tensor([[0.0, math.pi]])), half)  # fmt: skip
    c, s = math.cos(0.5), math.sin(0.5)
    report.equal("each token has its own angles", answer,
                 (right.repeat(2, 1), torch.tensor([[0.5], [-0.5]])),
                 torch.tensor([[c, s], [c, -s]]))  # fmt: skip


@exercise
def halves_to_neighbours(report: Report, answer: Callable[..., Any]) -> None:
    """Channels sorted from pairs of halves to pairs of neighbours."""
    report.equal("six channels", answer, (torch.arange(6.0),),
                 torch.tensor([0.0, 3, 1, 4, 2, 5]))  # fmt: skip
    report.equal("two channels stay as they are", answer, (torch.tensor([[5.0, 7.0]]),),
                 torch.tensor([[5.0, 7.0]]))  # fmt: skip
    batch = torch.arange(16.0).view(2, 8)
    report.equal("a batch keeps its rows", answer, (batch,), torch.tensor(
        [[0.0, 4, 1, 5, 2, 6, 3, 7], [8, 12, 9, 13, 10, 14, 11, 15]]))  # fmt: skip


@exercise
def side_by_side(report: Report, answer: Callable[..., Any]) -> None:
    """All contexts at virtual time 1, each to the right of the earlier ones."""
    report.equal("no contexts, no ids", answer, ([],), [])
    report.equal("one context of one row", answer, ([(1, 2)],),
                 [torch.tensor([[1, 0, 0], [1, 0, 1]])])  # fmt: skip
    three = [
        torch.tensor([[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]]),
        torch.tensor([[1, 0, 2]]),
        torch.tensor([[1, 0, 3], [1, 1, 3]]),
    ]
    report.equal("three contexts of other sizes", answer, ([(2, 2), (1, 1), (2, 1)],), three)
