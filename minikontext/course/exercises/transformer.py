"""Exercises of notebook 04."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minikontext.course.checks import Report, exercise
from minikontext.layers import SingleStreamBlock, attention, modulate, split_heads
from minikontext.rope import rotations as rotations_of

RMS_NORM = {
    "you subtract the mean, as LayerNorm does": lambda x, s: F.layer_norm(
        x, x.shape[-1:], s, eps=1e-6
    ),
    "you forget the root": lambda x, s: s * x / (x.square().mean(-1, keepdim=True) + 1e-6),
    "you divide by the length: the root of the sum, not of the mean": lambda x, s: (
        s * x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    ),
    "you forget the learned scale": lambda x, s: F.rms_norm(x, x.shape[-1:], eps=1e-6),
    "all tokens share one root": lambda x, s: s * x / (x.square().mean() + 1e-6).sqrt(),
    "you leave out the 1e-6: zeros become NaN": lambda x, s: (
        s * x / x.square().mean(-1, keepdim=True).sqrt()
    ),
}


@exercise(
    solution='''
def rms_norm(x, scale):
    """x: (..., d), scale: (d,) -> (..., d)."""
    return scale * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
''',
    known=RMS_NORM,
)
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


Reduce = Callable[[Tensor], Tensor]


def _shares(weights: Tensor, sizes: list[int], looks: Reduce, seen: Reduce) -> Tensor:
    rows = [looks(part) for part in weights.mean(0).split(sizes, dim=0)]
    return torch.stack([torch.stack([seen(x) for x in row.split(sizes)]) for row in rows])


def _mean(x: Tensor) -> Tensor:
    return x.mean(0)


WHO_SEES_WHOM = {
    "you take columns for those who look": lambda w, sizes: _shares(w.mT, sizes, _mean, torch.sum),
    "you average over those who are seen": lambda w, sizes: _shares(w, sizes, _mean, torch.mean),
    "you add up those who look": lambda w, sizes: _shares(w, sizes, lambda x: x.sum(0), torch.sum),
    "you look at the first head only": lambda w, sizes: _shares(w[:1], sizes, _mean, torch.sum),
    "you add up the heads": lambda w, sizes: len(w) * _shares(w, sizes, _mean, torch.sum),
    "who looks lies in the columns of your result": lambda w, sizes: (
        _shares(w, sizes, _mean, torch.sum).mT
    ),
}


@exercise(
    solution='''
def who_sees_whom(weights, sizes):
    """weights: (heads, s, s), a row for who looks; sizes: tokens of each part, together s.

    Returns a tensor (parts, parts): row i says how the attention of part i is divided.
    """
    rows = [part.mean(0) for part in weights.mean(0).split(sizes, dim=0)]
    return torch.stack([torch.stack([x.sum() for x in row.split(sizes)]) for row in rows])
''',
    known=WHO_SEES_WHOM,
)
def who_sees_whom(report: Report, answer: Callable[..., Any]) -> None:
    """Attention from part to part: the mean of those who look, the sum of those who are seen."""
    even = torch.full((2, 6, 6), 1 / 6)
    report.equal("everybody looks everywhere alike", answer, (even, [1, 2, 3]),
                 torch.tensor([[1.0, 2, 3]] * 3) / 6)  # fmt: skip
    sizes = [report.whole(2, 4), report.whole(5, 7), report.whole(2, 6)]
    weights = (3 * report.normal(3, sum(sizes), sum(sizes))).softmax(-1)
    edges = [0, sizes[0], sizes[0] + sizes[1], sum(sizes)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    mean = weights.mean(0)
    right = torch.stack([torch.stack([mean[i, j].sum(-1).mean() for j in parts]) for i in parts])
    report.equal(f"three heads, parts of {sizes}", answer, (weights, sizes), right)


def _silu(vec: Tensor) -> Tensor:
    return F.silu(vec)


def _single(
    read: Callable[[Tensor], Tensor] = _silu,
    order: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda shift, scale: (shift, scale),
    gate_of: Callable[[Tensor], Tensor] = lambda gate: gate,
    gelu: str = "tanh",
    norm: bool = True,
    join: Callable[[Tensor, Tensor], tuple[Tensor, ...]] = lambda out, mlp: (out, mlp),
    stay: float = 1.0,
) -> Callable[..., Tensor]:
    """A single-stream block with one place wrong."""

    def block_with(block: nn.Module, x: Tensor, vec: Tensor, rotations: Tensor) -> Tensor:
        shift, scale, gate = block.modulation.lin(read(vec))[:, None].chunk(3, dim=-1)
        wide = block.linear1(modulate(x, *order(shift, scale)))
        *qkv, mlp = wide.split(block.widths, dim=-1)
        q, k, v = split_heads(qkv, block.num_heads)
        q, k = block.norm(q, k) if norm else (q, k)
        joined = join(attention(q, k, v, rotations), F.gelu(mlp, approximate=gelu))
        return stay * x + gate_of(gate) * block.linear2(torch.cat(joined, dim=-1))

    return block_with


SINGLE_BLOCK = {
    "you leave out the SiLU before the modulation": _single(read=lambda vec: vec),
    "you exchange shift and scale": _single(order=lambda shift, scale: (scale, shift)),
    "you forget the gate": _single(gate_of=torch.ones_like),
    "you forget to add to the stream": _single(stay=0.0),
    "you do not norm queries and keys": _single(norm=False),
    "linear2 gets the MLP's numbers before the attention's": _single(
        join=lambda out, mlp: (mlp, out)
    ),
    "you leave out the GELU's approximation": _single(gelu="none"),
}


@exercise(
    solution='''
def single_block(block, x, vec, rotations):
    """x: (b, s, d), vec: (b, d) -> (b, s, d)."""
    d, silu = x.shape[-1], vec * vec.sigmoid()
    shift, scale, gate = block.modulation.lin(silu)[:, None].chunk(3, dim=-1)
    wide = block.linear1(mk.layers.modulate(x, shift, scale))
    parts = wide[..., : 3 * d].chunk(3, dim=-1)
    q, k, v = (part.unflatten(-1, (block.num_heads, -1)) for part in parts)
    out = mk.layers.attention(*block.norm(q, k), v, rotations)
    hidden = F.gelu(wide[..., 3 * d :], approximate="tanh")
    return x + gate * block.linear2(torch.cat([out, hidden], dim=-1))
''',
    known=SINGLE_BLOCK,
)
def single_block(report: Report, answer: Callable[..., Any]) -> None:
    """The whole block, in random weights: every part counts."""
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
                     tolerance=1e-3)  # fmt: skip
        one = (block, x[:1], vec[:1], rotations)
        report.equal("one sample gives what it gave in the batch", answer, one, expected[:1],
                     tolerance=1e-3)  # fmt: skip
