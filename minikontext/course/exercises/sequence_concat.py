"""Exercises of notebook 02."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext import tokens as package
from minikontext.course.checks import Report, exercise


@exercise
def pack(report: Report, answer: Callable[..., Any]) -> None:
    """Latents to tokens: patches of 2 × 2 in reading order, channel by channel inside."""
    one = torch.arange(8.0).view(1, 2, 2, 2)
    report.equal("one token of two channels", answer, (one,), torch.arange(8.0).view(1, 1, 8))
    wide = torch.arange(8.0).view(1, 1, 2, 4)
    report.equal("two tokens side by side", answer, (wide,),
                 torch.tensor([[[0.0, 1, 4, 5], [2, 3, 6, 7]]]))  # fmt: skip
    rows, cols = report.whole(2, 5), report.whole(6, 9)
    latents = report.normal(2, 3, 2 * rows, 2 * cols)
    text = f"a batch of two, {rows} × {cols} tokens of 3 channels"
    report.equal(text, answer, (latents,), package.pack(latents))


@exercise
def unpack(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens back to latents: the patches in reading order, channel by channel inside."""
    one = torch.arange(8.0).view(1, 1, 8)  # one token of two channels
    report.equal("one token: a channel is four numbers in a row", answer, (one, 1, 1),
                 torch.arange(8.0).view(1, 2, 2, 2))  # fmt: skip
    wide = torch.arange(8.0).view(1, 2, 4)  # two tokens of one channel, side by side
    report.equal("two tokens side by side", answer, (wide, 1, 2),
                 torch.tensor([[[[0.0, 1, 4, 5], [2, 3, 6, 7]]]]))  # fmt: skip
    rows, cols = report.whole(2, 5), report.whole(6, 9)
    latents = report.normal(2, 3, 2 * rows, 2 * cols)
    text = f"a batch of two, {rows} × {cols} tokens of 3 channels"
    report.equal(text, answer, (package.pack(latents), rows, cols), latents)


@exercise
def number_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Ids (index, row, col) of the target and of each context."""
    report.equal("a target of 2 rows and 3 columns", answer, ((2, 3), []), torch.tensor(
        [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]))  # fmt: skip
    grids = [(report.whole(1, 3), report.whole(4, 5)) for _ in range(3)]
    for name, some in (("with one context", grids[:1]), ("three contexts of other sizes", grids)):
        report.equal(f"{name}: {some}", answer, ((3, 2), some))


@exercise
def attention_share(report: Report, answer: Callable[..., Any]) -> None:
    """Attention's share of a block's operations: s / (s + 6 d)."""
    report.equal("6 d tokens: half and half", answer, (1152, 192), 0.5, tolerance=1e-6)
    report.equal("FLUX with one context", answer, (8704, 3072), 8704 / 27136, tolerance=1e-6)
    s, d = report.whole(20, 9000), 64 * report.whole(1, 60)
    report.equal(f"{s} tokens, width {d}", answer, (s, d), tolerance=1e-6)


@exercise
def divide_attention(report: Report, answer: Callable[..., Any]) -> None:
    """How the target's attention is divided between text, target and context."""
    rows = torch.zeros(1, 6, 6)  # text looks at text, target at its context, context at the target
    rows[0, :2, 0] = rows[0, 2:4, 4] = rows[0, 4:, 2] = 1.0
    report.equal("only the target's rows count", answer, (rows, 2, 2), [0.0, 0.0, 1.0])
    for name, context in (("random weights", report.whole(2, 4)), ("no context at all", 0)):
        m, n = report.whole(2, 4), report.whole(2, 4)
        weights = report.normal(3, m + n + context, m + n + context).softmax(-1)
        report.equal(name, answer, (weights, m, n))
