"""Exercises of notebook 02."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def unpack_by_hand(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens back to latents: the patches in reading order, channel by channel inside."""
    one = torch.arange(8.0).view(1, 1, 8)  # one token of two channels
    report.equal("one token: a channel is four numbers in a row", answer, (one, 1, 1),
                 torch.arange(8.0).view(1, 2, 2, 2))  # fmt: skip
    wide = torch.arange(8.0).view(1, 2, 4)  # two tokens of one channel, side by side
    report.equal("two tokens side by side", answer, (wide, 1, 2),
                 torch.tensor([[[[0.0, 1, 4, 5], [2, 3, 6, 7]]]]))  # fmt: skip
    high = torch.tensor([[[[0.0, 1], [2, 3], [4, 5], [6, 7]]]])
    report.equal("the same two, one above the other", answer, (wide, 2, 1), high)
    # 16 channels of 6 × 4 latents whose number says where they are: channel, row, column.
    places = [torch.arange(float(n)) for n in (16, 6, 4)]
    c, y, x = torch.meshgrid(*places, indexing="ij")
    latents = torch.stack([100 * c + 10 * y + x, -(100 * c + 10 * y + x)])  # a batch of two
    tokens = [
        latents[:, :, row : row + 2, col : col + 2].flatten(1)
        for row in (0, 2, 4)
        for col in (0, 2)
    ]
    report.equal("a batch of two, 3 × 2 tokens of 16 channels", answer,
                 (torch.stack(tokens, dim=1), 3, 2), latents)  # fmt: skip


@exercise
def number_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Ids (index, row, col) of the target and of each context."""
    report.equal("a target of 2 rows and 3 columns", answer, ((2, 3), []), torch.tensor(
        [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]))  # fmt: skip
    report.equal("with a context of one row", answer, ((1, 2), [(1, 2)]), torch.tensor(
        [[0, 0, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]))  # fmt: skip
    report.equal("two contexts of other sizes", answer, ((1, 1), [(2, 1), (1, 3)]), torch.tensor(
        [[0, 0, 0], [1, 0, 0], [1, 1, 0], [2, 0, 0], [2, 0, 1], [2, 0, 2]]))  # fmt: skip


@exercise
def attention_share(report: Report, answer: Callable[..., Any]) -> None:
    """Attention's share of a block's operations: s / (s + 6 d)."""
    report.equal("6 d tokens: half and half", answer, (1152, 192), 0.5, tolerance=1e-6)
    report.equal("the toy with one context", answer, (52, 192), 52 / 1204, tolerance=1e-6)
    report.equal("FLUX with one context", answer, (8704, 3072), 8704 / 27136, tolerance=1e-6)
    report.equal("no tokens, no attention", answer, (0, 192), 0.0, tolerance=1e-6)


@exercise
def divide_attention(report: Report, answer: Callable[..., Any]) -> None:
    """How the target's attention is divided between text, target and context."""
    even = torch.full((2, 10, 10), 0.1)
    report.equal("everybody looks everywhere alike", _listed(answer), (even, 2, 4), [0.2, 0.4, 0.4])
    rows = torch.zeros(1, 6, 6)  # text looks at text, target at its context, context at the target
    rows[0, :2, 0] = rows[0, 2:4, 4] = rows[0, 4:, 2] = 1.0
    report.equal("only the target's rows count", _listed(answer), (rows, 2, 2), [0.0, 0.0, 1.0])
    heads = torch.zeros(2, 4, 4)
    heads[0, :, 0] = heads[1, :, 3] = 1.0
    report.equal("one head reads the text, one the context", _listed(answer), (heads, 1, 1),
                 [0.5, 0.0, 0.5])  # fmt: skip
    bare = torch.full((1, 4, 4), 0.25)
    report.equal("no context at all", _listed(answer), (bare, 1, 3), [0.25, 0.75, 0.0])


def _listed(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Three numbers, whether they come as a list, a tuple or a tensor."""

    @wraps(answer)  # so that an error is found in the student's lines
    def listed(*args: Any) -> Any:
        got = answer(*args)
        return [float(x) for x in got] if isinstance(got, (list, tuple, torch.Tensor)) else got

    return listed
