"""Exercises of notebook 09."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minikontext.course.checks import FAILED, Report, exercise


def _share(stay: str = "all", same: str = "all", below: bool = False) -> Callable[..., float]:
    def slip(before: Tensor, answer: Tensor, right: Tensor, limit: float) -> float:
        apart = (answer - before).abs()
        near = apart < limit if below else apart <= limit
        kept = {"all": near.all(-1), "any": near.any(-1), "mean": apart.mean(-1) <= limit,
                "channels": near.float().mean(-1)}[same]  # fmt: skip
        equal = before == right
        where = {"all": equal.all(-1), "any": equal.any(-1), "everywhere": equal.any(-1) | True}
        return kept[where[stay]].float().mean().item()

    return slip


def _without_abs(before: Tensor, answer: Tensor, right: Tensor, limit: float) -> float:
    stay = (before == right).all(-1)
    return ((answer - before) <= limit).all(-1)[stay].float().mean().item()


@exercise(
    solution='''
def untouched_share(before, answer, right, limit):
    """Pictures (h, w, 3) as tensors; returns a number from 0 to 1."""
    stay = (before == right).all(dim=-1)
    same = ((answer - before).abs() <= limit).all(dim=-1)
    return same[stay].float().mean().item()
''',
    known={
        "you count all pixels": _share(stay="everywhere"),
        "you count channels, not pixels": _share(same="channels"),
        "a pixel counts as the same if one channel of it is": _share(same="any"),
        "you compare the mean of the channels with the limit": _share(same="mean"),
        "a pixel should stay if one channel of it should": _share(stay="any"),
        "a difference of exactly the limit counts as a change": _share(below=True),
        "you forget abs(): darker is a difference, too": _without_abs,
    },
)
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
    shade = right.clone()
    shade[3:] += 8
    report.equal("a difference that may be", answer, (before, shade, right, 8), 1.0)
    report.equal("the edit itself does not count", answer, (before, right * (before == right) +
                 200 * (before != right).any(-1, True), right, 8), 1.0)  # fmt: skip


def _points(apart: Tensor, error: Tensor) -> tuple[float, float]:
    return 100 * apart.mean().item(), 100 * error.item()


@exercise(
    solution='''
def paired_difference(a, b):
    """Verdicts (n,) of 0 and 1, in the same order; returns (points, standard error in points)."""
    apart = a - b
    return 100 * apart.mean().item(), 100 * apart.std().item() / len(apart) ** 0.5
''',
    known={
        "you divide by n, not by n - 1: numpy's std() does that, torch's does not; ddof=1 helps":
            lambda a, b: _points(a - b, (a - b).std(correction=0) / len(a) ** 0.5),
        "you treat the cases as if they were not the same":
            lambda a, b: _points(a - b, (a.var() / len(a) + b.var() / len(b)) ** 0.5),
        "the root of n is missing": lambda a, b: _points(a - b, (a - b).std() / len(a)),
        "you return the standard deviation, not the error of the mean":
            lambda a, b: _points(a - b, (a - b).std()),
        "you return a variance": lambda a, b: _points(a - b, (a - b).var() / len(a)),
        "you subtract the other way round":
            lambda a, b: _points(b - a, (a - b).std() / len(a) ** 0.5),
        "these are shares, not points":
            lambda a, b: ((a - b).mean().item(), ((a - b).std() / len(a) ** 0.5).item()),
    },
)  # fmt: skip
def paired_difference(report: Report, answer: Callable[..., Any]) -> None:
    """Two editors on the same cases: the difference in points, and its standard error."""
    a = (report.uniform(30) < 0.7).float()
    b = a * (report.uniform(30) < 0.7)
    a[:4], b[:4] = torch.tensor([1.0, 1, 1, 0]), torch.tensor([0.0, 0, 1, 1])  # never as many
    apart = a - b
    right = _points(apart, apart.std() / len(a) ** 0.5)
    report.equal("thirty cases", answer, (a, b), right)
    report.equal("the other way round", answer, (b, a), (-right[0], right[1]))
    report.equal("the same editor twice", answer, (a, a), (0.0, 0.0))


def _paste(moved: Callable[[Tensor, float], Tensor]) -> Callable[..., Tensor]:
    return lambda before, after, limit: torch.where(moved(after - before, limit), after, before)


@exercise(
    solution='''
import torch

def keep_untouched(before, after, limit):
    """Pictures (h, w, 3) as tensors; returns a new one, and leaves both as they are."""
    moved = (after - before).abs().amax(dim=-1, keepdim=True) > limit
    return torch.where(moved, after, before)
''',
    known={
        "you forget abs(): darker is a change, too": _paste(lambda d, m: d.amax(-1, True) > m),
        "you decide for each channel alone": _paste(lambda d, m: d.abs() > m),
        "you compare the mean of the channels": _paste(lambda d, m: d.abs().mean(-1, True) > m),
        "you ask that all channels moved": _paste(lambda d, m: d.abs().amin(-1, True) > m),
        "exactly the limit counts as a change": _paste(lambda d, m: d.abs().amax(-1, True) >= m),
        "you keep what moved and take what did not":
            lambda b, a, m: _paste(lambda d, m: d.abs().amax(-1, True) > m)(a, b, m),
    },
)  # fmt: skip
def keep_untouched(report: Report, answer: Callable[..., Any]) -> None:
    """Paste the old pixels back wherever the new picture hardly differs."""
    before = 100 + 50 * report.uniform(3, 4, 3).round(decimals=1)
    after = before + 4
    after[1, 1:3] = 240
    wanted = before.clone()
    wanted[1, 1:3] = 240
    report.equal("small changes go, the edit stays", answer, (before, after, 20), wanted)
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


def _ends(apart: Tensor, base: Tensor, z: float = 1.96) -> tuple[float, float]:
    """From the sums of each base picture's deviations, in points."""
    _, row = base.unique(return_inverse=True)
    k, middle = int(row.max()) + 1, apart.mean()
    off = torch.zeros(k).index_add(0, row, apart - middle)
    error = (k / (k - 1) * off.square().sum()).sqrt() / len(apart)
    return 100 * (middle - z * error).item(), 100 * (middle + z * error).item()


def _alone(apart: Tensor) -> tuple[float, float]:
    return _ends(apart, torch.arange(len(apart)))


def _not_paired(a: Tensor, b: Tensor, base: Tensor) -> tuple[float, float]:
    widths = [high - low for low, high in (_alone(a), _alone(b))]
    middle, half = 100 * (a - b).mean().item(), math.hypot(*widths) / 2
    return middle - half, middle + half


def _each_picture_once(a: Tensor, b: Tensor, base: Tensor) -> tuple[float, float]:
    return _alone(torch.stack([(a - b)[base == one].mean() for one in base.unique()]))


def _middle_and_half(a: Tensor, b: Tensor, base: Tensor) -> tuple[float, float]:
    low, high = _ends(a - b, base)
    return (low + high) / 2, (high - low) / 2


@exercise(
    solution='''
import torch

def clustered_interval(a, b, base):
    """Verdicts (n,) of 0 and 1, each case's base picture (n,); returns (low, high) in points."""
    apart = a - b
    names, row = base.unique(return_inverse=True)
    off = torch.zeros(len(names)).index_add(0, row, apart - apart.mean())
    k = len(names)
    error = (k / (k - 1) * off.square().sum()).sqrt() / len(apart)
    return tuple(100 * (apart.mean() + side * 1.96 * error).item() for side in (-1, 1))
''',
    known={
        "every case counts as a picture of its own": lambda a, b, base: _alone(a - b),
        "you treat the editors as if they had other cases": _not_paired,
        "every picture counts once, however many cases it has": _each_picture_once,
        "you return one standard error to each side, not 1.96":
            lambda a, b, base: _ends(a - b, base, 1.0),
        "you subtract the other way round": lambda a, b, base: _ends(b - a, base),
        "these are shares, not points":
            lambda a, b, base: tuple(end / 100 for end in _ends(a - b, base)),
        "you return the middle and the half width": _middle_and_half,
    },
)  # fmt: skip
def clustered_interval(report: Report, answer: Callable[..., Any]) -> None:
    """The 95 % interval of a paired difference where cases share a base picture."""
    draw, chance = report.draw, report.uniform(80)
    alone = torch.arange(80) * 7 + 3
    a, b = _verdicts(chance, draw)
    _interval(report, "every case has a base picture of its own", answer, a, b, alone)
    order = torch.randperm(320, generator=draw)  # four cases of each, that agree, in any order
    a, b, base = (x.repeat(4)[order] for x in (a, b, alone))
    _interval(report, "four cases of each picture, that agree", answer, a, b, base)
    _interval(report, "the other editor first", answer, b, a, base)
    count = torch.cat([torch.full((60,), 1), torch.full((20,), 9)])
    base = torch.repeat_interleave(alone, count)[torch.randperm(240, generator=draw)]
    lift = 0.15 * (base >= alone[60])  # where there are many cases, the first editor is better
    a = (torch.rand(240, generator=draw) < 0.55 + lift).float()
    b = (torch.rand(240, generator=draw) < 0.55 - lift).float()
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
    right = _ends(a - b, base)
    try:
        low, high = (float(end) for end in got)
    except (TypeError, ValueError):
        report.fail(case, f"expected (low, high) in points, got {got!r:.80}")
        return
    if _near((low, high), right):
        report.ok(case)
        return
    lines = [
        f"expected about {right[0]:.1f} to {right[1]:.1f}",
        f"got      {low:.1f} to {high:.1f}",
    ]
    lines += [f"this is what you get if {why}" for why, wrong in report.known.items()
              if _near((low, high), wrong(a, b, base))]  # fmt: skip
    report.fail(case, "\n       ".join(lines))


def _near(got: tuple[float, float], right: tuple[float, float]) -> bool:
    """Both ends within an eighth of the width: a bootstrap's ends are drawn."""
    far = max(abs(x - y) for x, y in zip(got, right, strict=True))
    return far <= (right[1] - right[0]) / 8
