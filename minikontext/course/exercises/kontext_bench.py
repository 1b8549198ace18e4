"""Exercises of notebook 09."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minikontext.course.checks import FAILED, Report, exercise


@exercise
def untouched_share(report: Report, answer: Callable[..., Any]) -> None:
    """Of the pixels that should stay, the share that stayed."""
    before = 60.0 + 100 * report.uniform(6, 5, 3).round(decimals=1)
    right = before.clone()
    right[:2] += 90  # the edit
    right[2, :2, 1] += 90  # of one channel
    report.equal("the right answer", answer, (before, right, right, 8), 1.0)
    report.equal("a copy: nothing else was touched", answer, (before, before, right, 8), 1.0)
    spoiled = right.clone()
    spoiled[3, :, 2] += 12  # one channel, the mean of three is below the limit
    spoiled[4, :2] -= 30
    report.equal("spoiled in one channel, and darker", answer, (before, spoiled, right, 8), 11 / 18)
    wide = report.whole(13, 20)
    report.equal(f"the same, limit {wide}", answer, (before, spoiled, right, wide), 16 / 18)
    shade = right.clone()
    shade[3] += 5  # three times that is more than the limit
    shade[4:] += 8
    report.equal("a difference that may be", answer, (before, shade, right, 8), 1.0)
    report.equal("the edit itself does not count", answer, (before, right * (before == right) +
                 200 * (before != right).any(-1, True), right, 8), 1.0)  # fmt: skip


@exercise
def paired_difference(report: Report, answer: Callable[..., Any]) -> None:
    """Two editors on the same cases: the difference in points, and its standard error."""
    a = (report.uniform(30) < 0.7).float()
    b = a * (report.uniform(30) < 0.7)
    a[:4], b[:4] = torch.tensor([1.0, 1, 1, 0]), torch.tensor([0.0, 0, 1, 1])  # never as many
    right = report.right(a, b)
    report.equal("thirty cases", answer, (a, b), right)
    report.equal("the other way round", answer, (b, a), (-right[0], right[1]))
    report.equal("the same editor twice", answer, (a, a), (0.0, 0.0))


@exercise
def keep_untouched(report: Report, answer: Callable[..., Any]) -> None:
    """Paste the old pixels back wherever the new picture hardly differs."""
    before = 100 + 50 * report.uniform(3, 4, 3).round(decimals=1)
    after = before + 15  # so is the length of such a change
    after[1, 1:3] = 240
    wanted = before.clone()
    wanted[1, 1:3] = 240
    report.equal("small changes go, the edit stays", answer, (before, after, 20), wanted)
    narrow = report.whole(5, 12)
    report.equal(f"with a limit of {narrow} all of it is an edit", answer, (before, after, narrow),
                 after)  # fmt: skip
    dark = before.clone()
    dark[1, 1:3] = 10
    report.equal("an edit may be darker", answer, (before, dark, 20), dark)
    one = before.clone()
    one[0, 2, 1] += 45
    report.equal("one channel is enough", answer, (before, one, 20), one)
    two = before.clone()
    two[2, 0] += torch.tensor([40.0, 5.0, 5.0])
    report.equal("a changed pixel is new in all channels", answer, (before, two, 20), two)
    report.equal("exactly the limit is no change", answer, (before, before + 20, 20), before)


@exercise
def clustered_interval(report: Report, answer: Callable[..., Any]) -> None:
    """The 95 % interval of a paired difference where cases share a base picture."""
    draw, chance = report.draw, report.uniform(120)
    alone = torch.arange(120) * 7 + 3
    a, b = _verdicts(chance, draw)
    _interval(report, "every case has a base picture of its own", answer, a, b, alone)
    order = torch.randperm(480, generator=draw)  # four cases of each, that agree, in any order
    a, b, base = (x.repeat(4)[order] for x in (a, b, alone))
    _interval(report, "four cases of each picture, that agree", answer, a, b, base)
    _interval(report, "the other editor first", answer, b, a, base)
    count = torch.cat([torch.full((90,), 1), torch.full((30,), 9)])
    base = torch.repeat_interleave(alone, count)[torch.randperm(360, generator=draw)]
    lift = 0.15 * (base >= alone[90])  # where there are many cases, the first editor is better
    a = (torch.rand(360, generator=draw) < 0.55 + lift).float()
    b = (torch.rand(360, generator=draw) < 0.55 - lift).float()
    _interval(report, "some pictures have nine cases, most have one", answer, a, b, base)


def _verdicts(chance: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    a = (torch.rand(len(chance), generator=draw) < 0.3 + 0.6 * chance).float()
    b = (torch.rand(len(chance), generator=draw) < 0.2 + 0.6 * chance).float()
    return a, b


def _interval(
    report: Report, case: str, answer: Callable[..., Any], a: Tensor, b: Tensor, base: Tensor
) -> None:
    """Record whether both ends are near the right ones, and name what gives others."""
    got = report.call(case, answer, a.clone(), b.clone(), base.clone())
    if got is FAILED:
        return
    right = report.right(a, b, base)
    try:
        low, high = (float(end) for end in got)
    except (TypeError, ValueError):
        report.fail(case, f"expected (low, high) in points, got {got!r:.80}")
        return
    report.tried.append(((low, high), (a, b, base), _near))
    if _near((low, high), right):
        report.ok(case)
        return
    expected = f"expected about {right[0]:.1f} to {right[1]:.1f}"
    report.fail(case, f"{expected}\n       got      {low:.1f} to {high:.1f}")


def _near(got: tuple[float, float], right: tuple[float, float]) -> bool:
    """Both ends, and the width, within an eighth of the width: a bootstrap's ends are drawn.

    1000 draws leave a width uncertain by 3 %; that of the 90 % interval is 16 % too small.
    """
    width = abs(right[1] - right[0])
    far = [abs(x - y) for x, y in zip(got, right, strict=True)]
    return max(*far, abs(abs(got[1] - got[0]) - width)) <= width / 8
