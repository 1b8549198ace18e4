"""Exercises of notebook 09."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def untouched_share(report: Report, answer: Callable[..., Any]) -> None:
    """Of the pixels that should stay, the share that stayed."""
    before = torch.zeros(2, 2, 3)
    right = before.clone()
    right[0, 0] = 255  # the edit
    report.equal("the right answer", answer, (before, right, right, 8), 1.0)
    report.equal("a copy: nothing else was touched", answer, (before, before, right, 8), 1.0)
    spoiled = right.clone()
    spoiled[1, 1, 2] = 30
    report.equal("one of three, in one channel", answer, (before, spoiled, right, 8), 2 / 3)
    shade = right.clone()
    shade[1, 1] = 8
    report.equal("a difference that may be", answer, (before, shade, right, 8), 1.0)
    report.equal("the edit itself does not count", answer, (before, right * 0.5, right, 8), 1.0)


@exercise
def paired_difference(report: Report, answer: Callable[..., Any]) -> None:
    """Two editors on the same cases: the difference in points, and its standard error."""
    a = torch.tensor([1.0, 1, 1, 0, 1, 0, 1, 1])
    b = torch.tensor([1.0, 0, 1, 0, 0, 0, 1, 1])
    apart = torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 0])
    error = 100 * apart.std().item() / 8**0.5
    report.equal("two cases apart", answer, (a, b), (25.0, error))
    report.equal("the other way round", answer, (b, a), (-25.0, error))
    report.equal("the same editor twice", answer, (a, a), (0.0, 0.0))


@exercise
def keep_untouched(report: Report, answer: Callable[..., Any]) -> None:
    """Paste the old pixels back wherever the new picture hardly differs."""
    before = torch.zeros(3, 3, 3)
    after = before + 4
    after[1, 1] = 200
    wanted = before.clone()
    wanted[1, 1] = 200
    report.equal("small changes go, the edit stays", answer, (before, after, 20), wanted)
    one = before.clone()
    one[0, 2, 1] = 90
    report.equal("one channel is enough", answer, (before, one, 20), one)
    two = before.clone()
    two[2, 0] = torch.tensor([40.0, 5.0, 5.0])
    report.equal("a changed pixel is new in all channels", answer, (before, two, 20), two)
    report.equal("exactly the limit is no change", answer, (before, before + 20, 20), before)


@exercise
def distinct_answers(report: Report, answer: Callable[..., Any]) -> None:
    """How many different right answers came, and how evenly: (count, bits)."""
    report.equal("always the same", answer, (["left"] * 5,), (1, 0.0))
    report.equal("two, evenly", answer, (["left", "right"] * 3,), (2, 1.0))
    report.equal("four, evenly", answer, (list("abcd"),), (4, 2.0))
    report.equal("one rare", answer, (["a", "a", "a", "b"],), (2, 0.8112781))
