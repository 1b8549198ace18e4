"""Exercises of notebook 02."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from minikontext import tokens as package
from minikontext.course.checks import Report, exercise

TWO = {"p": 2, "q": 2}


def _cut(pattern: str) -> Callable[..., Tensor]:
    return lambda latents: rearrange(latents, pattern, **TWO)


def _placed(pattern: str) -> Callable[..., Tensor]:
    return lambda tokens, rows, cols: rearrange(tokens, pattern, h=rows, w=cols, **TWO)


@exercise(
    solution='''
def pack(latents):
    """latents (b, c, 2 * rows, 2 * cols) -> tokens (b, rows * cols, 4 * c)."""
    b, c, h, w = latents.shape
    patches = latents.reshape(b, c, h // 2, 2, w // 2, 2)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(b, h // 2 * (w // 2), 4 * c)
''',
    known={
        "the channel comes last inside a token": _cut("b c (h p) (w q) -> b (h w) (p q c)"),
        "you read column by column": _cut("b c (h p) (w q) -> b (w h) (c p q)"),
        "rows and columns are exchanged inside a token": _cut("b c (h p) (w q) -> b (h w) (c q p)"),
        "you reshape and do not permute": lambda latents: latents.reshape(
            len(latents), -1, 4 * latents.shape[1]
        ),
        "you take every h/2-th row for a neighbour": _cut("b c (p h) (q w) -> b (h w) (c p q)"),
    },
)
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


@exercise(
    solution='''
def unpack(tokens, rows, cols):
    """tokens: (b, rows * cols, 4 * c), channel by channel -> latents (b, c, 2 * rows, 2 * cols)."""
    b, c = tokens.shape[0], tokens.shape[2] // 4
    latents = torch.zeros(b, c, 2 * rows, 2 * cols)
    for i in range(rows * cols):
        y, x = 2 * (i // cols), 2 * (i % cols)
        latents[:, :, y : y + 2, x : x + 2] = tokens[:, i].view(b, c, 2, 2)
    return latents
''',
    known={
        "you expect the channel to be last inside a token": _placed(
            "b (h w) (p q c) -> b c (h p) (w q)"
        ),
        "you fill column by column": lambda tokens, rows, cols: rearrange(
            tokens, "b (w h) (c p q) -> b c (h p) (w q)", h=rows, w=cols, **TWO
        ),
        "you reshape and do not permute": lambda tokens, rows, cols: tokens.reshape(
            len(tokens), -1, 2 * rows, 2 * cols
        ),
        "rows and columns are exchanged inside a token": _placed(
            "b (h w) (c p q) -> b c (h q) (w p)"
        ),
        "you take rows for columns": lambda tokens, rows, cols: rearrange(
            tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=cols, w=rows, **TWO
        ),
    },
)
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


def _numbered(target: Any, contexts: Any, pick: Callable[[int, int, int], Any]) -> Tensor:
    grids = enumerate([target, *contexts])
    ids = [pick(i, row, col) for i, (h, w) in grids for row in range(h) for col in range(w)]
    return torch.tensor(ids)


@exercise(
    solution='''
def number_tokens(target, contexts):
    """target: (rows, cols); contexts: a list of such pairs -> ids (n, 3) of target and contexts."""
    ids = [(index, row, col) for index, (rows, cols) in enumerate([target, *contexts])
           for row in range(rows) for col in range(cols)]
    return torch.tensor(ids)
''',
    known={
        "all contexts have index 1": lambda target, contexts: _numbered(
            target, contexts, lambda i, row, col: (min(i, 1), row, col)
        ),
        "the target has index 1": lambda target, contexts: _numbered(
            target, contexts, lambda i, row, col: (i + 1, row, col)
        ),
        "the column comes before the row": lambda target, contexts: _numbered(
            target, contexts, lambda i, row, col: (i, col, row)
        ),
        "you count from 1": lambda target, contexts: _numbered(
            target, contexts, lambda i, row, col: (i, row + 1, col + 1)
        ),
        "you leave the target out": lambda target, contexts: torch.tensor(
            _numbered(target, contexts, lambda *at: at).tolist()[target[0] * target[1] :]
        ),
        "you take rows for columns": lambda target, contexts: _numbered(
            target[::-1], [grid[::-1] for grid in contexts], lambda *at: at
        ),
    },
)
def number_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Ids (index, row, col) of the target and of each context."""
    report.equal("a target of 2 rows and 3 columns", answer, ((2, 3), []), torch.tensor(
        [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]))  # fmt: skip
    grids = [(report.whole(1, 3), report.whole(4, 5)) for _ in range(3)]
    for name, some in (("with one context", grids[:1]), ("three contexts of other sizes", grids)):
        right = _numbered((3, 2), some, lambda *at: at)
        report.equal(f"{name}: {some}", answer, ((3, 2), some), right)


@exercise(
    solution='''
def attention_share(s, d):
    """s: tokens of the whole sequence; d: width of the model -> a number between 0 and 1."""
    return s / (s + 6 * d)  # half at s = 6 d: 18 432 tokens for FLUX
''',
    known={
        "you forget the MLP": lambda s, d: s / (s + 2 * d),
        "you divide by the products, not by the whole": lambda s, d: s / (6 * d),
        "you give the share of the products": lambda s, d: 6 * d / (s + 6 * d),
        "you count additions on one side only": lambda s, d: 2 * s / (2 * s + 6 * d),
        "you forget queries, keys, values and projection": lambda s, d: s / (s + 4 * d),
    },
)
def attention_share(report: Report, answer: Callable[..., Any]) -> None:
    """Attention's share of a block's operations: s / (s + 6 d)."""
    report.equal("6 d tokens: half and half", answer, (1152, 192), 0.5, tolerance=1e-6)
    report.equal("FLUX with one context", answer, (8704, 3072), 8704 / 27136, tolerance=1e-6)
    s, d = report.whole(20, 9000), 64 * report.whole(1, 60)
    text = f"{s} tokens, width {d}"
    report.equal(text, answer, (s, d), s / (s + 6 * d), tolerance=1e-6)


def _listed(answer: Callable[..., Any]) -> Callable[..., Any]:
    """Three numbers, whether they come as a list, a tuple or a tensor."""

    @wraps(answer)  # so that an error is found in the student's lines
    def listed(*args: Any) -> Any:
        got = answer(*args)
        return [float(x) for x in got] if isinstance(got, (list, tuple, Tensor)) else got

    return listed


def _sums(looks: Tensor, m: int, n: int) -> list[Tensor]:
    return [part.sum() for part in looks.split([m, n, len(looks) - m - n])]


@exercise(
    solution='''
def divide_attention(weights, m, n):
    """weights: (heads, s, s); m text tokens, n target tokens, the rest context.

    Returns three numbers: the shares of text, target and context.
    """
    looks = weights[:, m : m + n].mean(dim=(0, 1))  # (s,)
    return [part.sum() for part in looks.split([m, n, len(looks) - m - n])]
''',
    known={
        "you take columns for rows": lambda weights, m, n: _sums(
            weights[:, :, m : m + n].mean(dim=(0, 2)), m, n
        ),
        "you average over all rows, not the target's": lambda weights, m, n: _sums(
            weights.mean(dim=(0, 1)), m, n
        ),
        "you average where you should add up": lambda weights, m, n: [
            part.mean() if len(part) else torch.zeros(())
            for part in weights[:, m : m + n]
            .mean(dim=(0, 1))
            .split([m, n, weights.shape[-1] - m - n])
        ],
        "you look at the first head only": lambda weights, m, n: _sums(
            weights[0, m : m + n].mean(dim=0), m, n
        ),
        "you look at the target's first token only": lambda weights, m, n: _sums(
            weights[:, m].mean(dim=0), m, n
        ),
    },
)
def divide_attention(report: Report, answer: Callable[..., Any]) -> None:
    """How the target's attention is divided between text, target and context."""
    listed = report.through(_listed, answer)
    rows = torch.zeros(1, 6, 6)  # text looks at text, target at its context, context at the target
    rows[0, :2, 0] = rows[0, 2:4, 4] = rows[0, 4:, 2] = 1.0
    report.equal("only the target's rows count", listed, (rows, 2, 2), [0.0, 0.0, 1.0])
    for name, context in (("random weights", report.whole(2, 4)), ("no context at all", 0)):
        m, n = report.whole(2, 4), report.whole(2, 4)
        weights = report.normal(3, m + n + context, m + n + context).softmax(-1)
        right = [float(x) for x in _sums(weights[:, m : m + n].mean(dim=(0, 1)), m, n)]
        report.equal(name, listed, (weights, m, n), right)
