"""Exercises of notebook 11."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise(
    solution='''
def stored_gb(matrices, rest, bits):
    """Numbers of parameters in the blocks' matrices and elsewhere, and bits; returns GB."""
    return (matrices * bits / 8 + rest * 2) / 1e9
''',
    known={
        "everything is stored in few bits": lambda matrices, rest, bits: (
            (matrices + rest) * bits / 8 / 1e9
        ),
        "you count bits for bytes": lambda matrices, rest, bits: (
            (matrices * bits + rest * 16) / 1e9
        ),
        "you count GiB, not GB": lambda matrices, rest, bits: (
            (matrices * bits / 8 + rest * 2) / 2**30
        ),
        "you forget the rest": lambda matrices, rest, bits: matrices * bits / 8 / 1e9,
    },
)
def stored_gb(report: Report, answer: Callable[..., Any]) -> None:
    """Bytes of a model whose large matrices are quantised."""
    report.equal("all in 16 bits", answer, (3_000_000_000, 1_000_000_000, 16), 8.0)
    report.equal("8-bit matrices", answer, (3_000_000_000, 1_000_000_000, 8), 5.0)
    report.equal("4-bit matrices", answer, (3_000_000_000, 1_000_000_000, 4), 3.5)
    report.equal("nothing else", answer, (8_000_000_000, 0, 4), 4.0)


@exercise(
    solution='''
import torch

def joined(parts):
    """parts: to_q, to_k, to_v, proj_mlp -> (rows, in) tensors; returns linear1's weight."""
    return torch.cat([parts[name] for name in ("to_q", "to_k", "to_v", "proj_mlp")])
''',
    known={
        "you join them as they come": lambda parts: torch.cat(list(parts.values())),
        "you put them side by side": lambda parts: torch.cat(
            [parts[name].T for name in ("to_q", "to_k", "to_v", "proj_mlp")], dim=1
        ),
        "the MLP comes first": lambda parts: torch.cat(
            [parts[name] for name in ("proj_mlp", "to_q", "to_k", "to_v")]
        ),
        "you sort by name": lambda parts: torch.cat([parts[name] for name in sorted(parts)]),
    },
)
def joined(report: Report, answer: Callable[..., Any]) -> None:
    """One official matrix from diffusers' four."""
    q, k, v, mlp = (torch.full((rows, 2), float(i)) for i, rows in enumerate((3, 3, 3, 5)))
    right = torch.cat((q, k, v, mlp))
    named = {"to_q": q, "to_k": k, "to_v": v, "proj_mlp": mlp}
    report.equal("in order", answer, (named,), right)
    mixed = {name: named[name] for name in ("proj_mlp", "to_v", "to_k", "to_q")}
    report.equal("the dictionary in another order", answer, (mixed,), right)


@exercise(
    solution='''
def merged(weight, down, up, alpha, scale):
    """weight (out, in), down (r, in), up (out, r); returns the new weight, (out, in)."""
    return weight + scale * alpha / down.shape[0] * (up @ down)
''',
    known={
        "you forget alpha": lambda w, down, up, alpha, scale: w + scale * (up @ down),
        "you divide by the width, not by the rank": lambda w, down, up, alpha, scale: (
            w + scale * alpha / down.shape[1] * (up @ down)
        ),
        "you exchange up and down": lambda w, down, up, alpha, scale: (
            w + scale * alpha / len(down) * (down @ up)
        ),
        "you forget the rank": lambda w, down, up, alpha, scale: w + scale * alpha * (up @ down),
    },
)
def merged(report: Report, answer: Callable[..., Any]) -> None:
    """A LoRA inside of a weight."""
    weight, down, up = (report.normal(*s) for s in ((5, 3), (2, 3), (5, 2)))
    report.equal("alpha = rank", answer, (weight, down, up, 2.0, 1.0), weight + up @ down)
    report.equal("alpha = 1", answer, (weight, down, up, 1.0, 1.0), weight + 0.5 * up @ down)
    report.equal("half the scale", answer, (weight, down, up, 2.0, 0.5), weight + 0.5 * up @ down)
    report.equal("scale 0", answer, (weight, down, up, 4.0, 0.0), weight)


FOUR = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
NORMS = {"attn.norm_q.weight": "norm.query_norm.scale", "attn.norm_k.weight": "norm.key_norm.scale"}
PLAIN = {"proj_out": "linear2", "norm.linear": "modulation.lin"}
Tensors = dict[str, torch.Tensor]


def _official(
    four: tuple[str, ...] = FOUR, norms: dict[str, str] = NORMS, plain: dict[str, str] = PLAIN,
    biases: bool = True, halves: bool = False,
) -> Callable[[Tensors], Tensors]:  # fmt: skip
    """The translation with a slip."""

    def official_block(tensors: Tensors) -> Tensors:
        block = {ours: tensors[theirs] for theirs, ours in norms.items()}
        for leaf in ("weight", "bias") if biases else ("weight",):
            block |= {f"{ours}.{leaf}": tensors[f"{name}.{leaf}"] for name, ours in plain.items()}
            block[f"linear1.{leaf}"] = torch.cat([tensors[f"{name}.{leaf}"] for name in four])
            if halves:
                shift, scale, gate = block[f"modulation.lin.{leaf}"].chunk(3)
                block[f"modulation.lin.{leaf}"] = torch.cat([scale, shift, gate])
        return block

    return official_block


@exercise(
    solution='''
def official_block(tensors):
    """tensors: a single block's in diffusers' names -> the same in official names.

    attn.to_q, attn.to_k, attn.to_v, proj_mlp: linear1; proj_out: linear2; norm.linear:
    modulation.lin, all with .weight and .bias. attn.norm_q.weight and attn.norm_k.weight:
    norm.query_norm.scale and norm.key_norm.scale."""
    block = {"norm.query_norm.scale": tensors["attn.norm_q.weight"],
             "norm.key_norm.scale": tensors["attn.norm_k.weight"]}
    parts = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    for leaf in ("weight", "bias"):
        block[f"linear1.{leaf}"] = torch.cat([tensors[f"{part}.{leaf}"] for part in parts])
        block[f"linear2.{leaf}"] = tensors[f"proj_out.{leaf}"]
        block[f"modulation.lin.{leaf}"] = tensors[f"norm.linear.{leaf}"]
    return block
''',
    known={
        "the MLP comes first": _official(four=(FOUR[3], *FOUR[:3])),
        "you sort by name: k before q": _official(four=tuple(sorted(FOUR))),
        "the norms of queries and keys are exchanged": _official(
            norms=dict(zip(NORMS, list(NORMS.values())[::-1], strict=True))
        ),
        "you leave the biases out": _official(biases=False),
        "you swap shift and scale: only the last layer is stored so": _official(halves=True),
        "you forget the norms": _official(norms={}),
    },
)
def official_block(report: Report, answer: Callable[..., Any]) -> None:
    """All tensors of a block, as the model's own code wants them."""
    d, wide = report.whole(2, 4), report.whole(5, 8)
    shapes = {"proj_mlp": (wide, d), "proj_out": (d, d + wide), "norm.linear": (3 * d, d)}
    shapes |= dict.fromkeys(FOUR[:3], (d, d))
    tensors = {f"{name}.weight": report.normal(*shape) for name, shape in shapes.items()}
    tensors |= {f"{name}.bias": report.normal(shape[0]) for name, shape in shapes.items()}
    tensors |= {name: report.normal(d) for name in NORMS}
    report.equal("a block of random numbers", answer, (tensors,), _official()(tensors))
    other = dict(sorted(tensors.items()))
    report.equal("the file in another order", answer, (other,), _official()(tensors))
