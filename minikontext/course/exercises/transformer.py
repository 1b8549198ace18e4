"""Exercises of notebook 04."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minikontext.course.checks import Report, exercise
from minikontext.layers import SingleStreamBlock
from minikontext.rope import rotations as rotations_of
from minikontext.text import TextBlock


@exercise
def rms_norm(report: Report, answer: Callable[..., Any]) -> None:
    """Each token over its root mean square, times a learned scale."""
    report.equal("3 and 4, whose root mean square is √12.5", answer,
                 (torch.tensor([[3.0, 4.0]]), torch.ones(2)),
                 torch.tensor([[3.0, 4.0]]) / 12.5**0.5)  # fmt: skip
    d = report.whole(5, 12)
    x, scale = report.normal(2, 3, 4, d) + 0.5, report.normal(d) + 1
    report.equal(f"a batch of tokens and heads, {d} channels", answer, (x, scale),
                 scale * F.rms_norm(x, (d,), eps=1e-6), tolerance=1e-4)  # fmt: skip
    report.equal("zeros stay zeros", answer, (torch.zeros(1, 4), torch.ones(4)), torch.zeros(1, 4))


@exercise
def who_sees_whom(report: Report, answer: Callable[..., Any]) -> None:
    """Attention from part to part: the mean of those who look, the sum of those who are seen."""
    even = torch.full((2, 6, 6), 1 / 6)
    report.equal("everybody looks everywhere alike", answer, (even, [1, 2, 3]),
                 torch.tensor([[1.0, 2, 3]] * 3) / 6)  # fmt: skip
    for name in ("three heads, parts of", "a second context: four parts of"):
        sizes = [report.whole(2, 4), report.whole(5, 7), report.whole(2, 6)]
        sizes += [report.whole(2, 4)] * ("four" in name)
        weights = (3 * report.normal(3, sum(sizes), sum(sizes))).softmax(-1)
        report.equal(f"{name} {sizes}", answer, (weights, sizes))


@exercise
def single_block(report: Report, answer: Callable[..., Any]) -> None:
    """The whole block, in random weights: every part counts, the GELU's approximation least."""
    heads, size = 2, 2 * report.whole(2, 4)
    block = SingleStreamBlock(heads * 3 * size, heads, mlp_ratio=4.0).eval().requires_grad_(False)
    for p in block.parameters():
        p.copy_(report.normal(*p.shape) * 0.4)
    ids = torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(2))
    rotations = rotations_of(ids, (size, size, size), 10_000)
    x, vec = report.normal(2, len(ids), heads * 3 * size), report.normal(2, heads * 3 * size)
    with torch.no_grad():
        expected = block(x, vec, rotations)
        report.equal("random weights, a batch of two", answer, (block, x, vec, rotations), expected,
                     tolerance=3e-4)  # fmt: skip
        one = (block, x[:1], vec[:1], rotations)
        report.equal("one sample gives what it gave in the batch", answer, one, expected[:1],
                     tolerance=3e-4)  # fmt: skip


@exercise
def text_block(report: Report, answer: Callable[..., Any]) -> None:
    """The text encoder's block, in random weights: heads, both norms and both sums count."""
    heads, size = report.whole(2, 3), report.whole(4, 6)
    block = TextBlock(heads * size, heads).eval().requires_grad_(False)
    for p in block.parameters():
        p.copy_(report.normal(*p.shape) * 0.4)
    x = report.normal(2, 7, heads * size)
    with torch.no_grad():
        expected = block(x)
        report.equal("random weights, a batch of two", answer, (block, x), expected,
                     tolerance=3e-4)  # fmt: skip
        report.equal("one prompt gives what it gave in the batch", answer, (block, x[:1]),
                     expected[:1], tolerance=3e-4)  # fmt: skip
