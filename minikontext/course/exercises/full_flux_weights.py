"""Exercises of notebook 11."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def stored_gb(report: Report, answer: Callable[..., Any]) -> None:
    """Bytes of a model whose large matrices are quantised."""
    report.equal("all in 16 bits", answer, (3_000_000_000, 1_000_000_000, 16), 8.0)
    report.equal("8-bit matrices", answer, (3_000_000_000, 1_000_000_000, 8), 5.0)
    report.equal("4-bit matrices", answer, (3_000_000_000, 1_000_000_000, 4), 3.5)
    matrices, rest = (10**6 * report.whole(100, 9000) for _ in range(2))
    report.equal(f"{matrices:,} and {rest:,} in 4 bits", answer, (matrices, rest, 4))


@exercise
def joined(report: Report, answer: Callable[..., Any]) -> None:
    """One official matrix from diffusers' four."""
    d = report.whole(2, 4)
    q, k, v, mlp = (report.normal(rows, d) for rows in (d, d, d, d + report.whole(1, 3)))
    right = torch.cat((q, k, v, mlp))
    named = {"to_q": q, "to_k": k, "to_v": v, "proj_mlp": mlp}
    report.equal("in order", answer, (named,), right)
    mixed = {name: named[name] for name in ("proj_mlp", "to_v", "to_k", "to_q")}
    report.equal("the dictionary in another order", answer, (mixed,), right)


@exercise
def merged(report: Report, answer: Callable[..., Any]) -> None:
    """A LoRA inside of a weight."""
    weight, down, up = (report.normal(*s) for s in ((5, 3), (2, 3), (5, 2)))
    report.equal("alpha = rank", answer, (weight, down, up, 2.0, 1.0), weight + up @ down)
    report.equal("alpha = 1", answer, (weight, down, up, 1.0, 1.0), weight + 0.5 * up @ down)
    report.equal("half the scale", answer, (weight, down, up, 2.0, 0.5), weight + 0.5 * up @ down)
    report.equal("scale 0", answer, (weight, down, up, 4.0, 0.0), weight)


FOUR = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")


@exercise
def official_block(report: Report, answer: Callable[..., Any]) -> None:
    """All tensors of a block, as the model's own code wants them."""
    d, wide = report.whole(2, 4), report.whole(5, 8)
    shapes = {"proj_mlp": (wide, d), "proj_out": (d, d + wide), "norm.linear": (3 * d, d)}
    shapes |= dict.fromkeys(FOUR[:3], (d, d))
    tensors = {f"{name}.weight": report.normal(*shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": report.normal(shape[0]) for name, shape in shapes.items()}
    tensors |= {name: report.normal(d) for name in ("attn.norm_q.weight", "attn.norm_k.weight")}
    report.equal("a block of random numbers", answer, (tensors,))
    other = dict(sorted(tensors.items()))
    report.equal("the file in another order", answer, (other,))
