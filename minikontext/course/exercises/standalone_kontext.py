"""Exercises of notebook 12."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.course.checks import Report, exercise
from minikontext.layers import modulate
from minikontext.transformer import KontextTransformer, TransformerConfig

Names = list[str]
COUNT_BLOCKS = {
    "you count tensors, not blocks": lambda names, kind: sum(
        name.startswith(f"{kind}.") for name in names
    ),
    "you take the largest number and do not add one": lambda names, kind: max(
        int(name.split(".")[1]) for name in names if name.startswith(f"{kind}.")
    ),
    "you compare numbers as words: '9' comes after '18'": lambda names, kind: (
        int(max(name.split(".")[1] for name in names if name.startswith(f"{kind}."))) + 1
    ),
    "you count every kind of block": lambda names, kind: len(
        {name.split(".")[1] for name in names if "_blocks." in name}
    ),
    "you take the last name for the last block": lambda names, kind: (
        int([name for name in names if name.startswith(f"{kind}.")][-1].split(".")[1]) + 1
    ),
}


@exercise(
    solution='''
def count_blocks(names, kind):
    """names: of all tensors, in any order; kind: "double_blocks", say -> how many there are."""
    return len({name.split(".")[1] for name in names if name.startswith(f"{kind}.")})
''',
    known=COUNT_BLOCKS,
)
def count_blocks(report: Report, answer: Callable[..., Any]) -> None:
    """How many blocks of a kind a file has, read off its names."""
    leaves = ("img_attn.qkv.weight", "img_mlp.0.weight", "img_mlp.2.weight")
    double = [f"double_blocks.{i}.{leaf}" for i in range(12) for leaf in leaves]
    single = [f"single_blocks.{i}.linear1.weight" for i in range(5)]
    names = [*single, *sorted(double), "final_layer.linear.weight"]  # as a file sorts them
    report.equal("twelve double blocks", answer, (names, "double_blocks"), 12)
    report.equal("five single blocks", answer, (names[::-1], "single_blocks"), 5)


def _apply(pad: Callable[[int], int] = lambda side: side // 2, turned: bool = False,
           biased: bool = True) -> Callable[..., Tensor]:  # fmt: skip
    """Apply weights by their shape, with one place wrong."""

    def apply(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
        weight = weights[f"{name}.weight"]
        bias = weights.get(f"{name}.bias") if biased else None
        if weight.ndim == 2:
            return F.linear(x, weight.mT if turned else weight, bias)
        return F.conv2d(x, weight.mT if turned else weight, bias, padding=pad(weight.shape[-1]))

    return apply


APPLY_WEIGHTS = {
    "you forget the bias": _apply(biased=False),
    "you do not pad": _apply(pad=lambda side: 0),
    "you always pad by one": _apply(pad=lambda side: 1),
    "you transpose the weight": _apply(turned=True),
    "you forget the bias of convolutions": lambda weights, name, x: _apply(
        biased=weights[f"{name}.weight"].ndim == 2
    )(weights, name, x),
}


@exercise(
    solution='''
def apply_weights(weights, name, x):
    """weights: a dictionary with name + ".weight", and perhaps name + ".bias".

    Two axes: a linear map of the last axis. Four: a convolution (b, c, h, w) that keeps h and w.
    """
    weight, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)
''',
    known=APPLY_WEIGHTS,
)
def apply_weights(report: Report, answer: Callable[..., Any]) -> None:
    """A linear map or a convolution, by the shape of its weight."""
    square, x = report.normal(4, 4), report.normal(2, 3, 4)
    file = {"out.weight": square, "out.bias": report.normal(4), "proj.weight": report.normal(5, 4)}
    report.equal("a linear map", answer, (file, "out", x),
                 x @ square.mT + file["out.bias"])  # fmt: skip
    report.equal("a linear map without a bias", answer, (file, "proj", x),
                 x @ file["proj.weight"].mT)  # fmt: skip
    picture = report.normal(2, 3, 5, 6)
    for side in (1, 3, 5):
        kernel = {"conv.weight": report.normal(3, 3, side, side), "conv.bias": report.normal(3)}
        expected = F.conv2d(picture, *kernel.values(), padding=side // 2)
        report.equal(f"a convolution of {side} × {side}", answer, (kernel, "conv", picture),
                     expected, tolerance=1e-4)  # fmt: skip


def _run(first: str = "txt", keep: str = "img", order: int = 1, last: bool = True,
         single: bool = True) -> Callable[..., Tensor]:  # fmt: skip
    """The loop over all blocks, with one place wrong."""

    def run(net: KontextTransformer, img: Tensor, txt: Tensor, vec: Tensor, rotations: Tensor
            ) -> Tensor:  # fmt: skip
        for block in net.double_blocks:
            img, txt = block(img, txt, vec, rotations)
        x = torch.cat((txt, img) if first == "txt" else (img, txt), dim=1)
        for block in net.single_blocks if single else ():
            x = block(x, vec, rotations)
        x = x if keep == "all" else x[:, txt.shape[1] :] if keep == "img" else x[:, : img.shape[1]]
        shift, scale = net.final_layer.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)[::order]
        return net.final_layer.linear(modulate(x, shift, scale) if last else x)

    return run


RUN_BLOCKS = {
    "the image comes before the text": _run(first="img", keep="first"),
    "you do not cut the text off": _run(keep="all"),
    "you keep the front of the row, where the text is": _run(keep="first"),
    "you take scale for shift in the last layer": _run(order=-1),
    "you forget to modulate in the last layer": _run(last=False),
    "you leave out the single blocks": _run(single=False),
}


@exercise(
    solution='''
def run_blocks(net, img, txt, vec, rotations):
    """img (b, n, d), txt (b, m, d), vec (b, d) -> velocity (b, n, out)."""
    m = txt.shape[1]
    for block in net.double_blocks:
        img, txt = block(img, txt, vec, rotations)
    x = torch.cat([txt, img], dim=1)
    for block in net.single_blocks:
        x = block(x, vec, rotations)
    shift, scale = net.final_layer.adaLN_modulation(vec)[:, None].chunk(2, dim=-1)
    return net.final_layer.linear(mk.layers.modulate(x[:, m:], shift, scale))
''',
    known=RUN_BLOCKS,
)
def run_blocks(report: Report, answer: Callable[..., Any]) -> None:
    """From embedded tokens to a velocity, in a small model of random weights."""
    sizes = {"in_channels": 8, "out_channels": 8, "vec_in_dim": 6, "context_in_dim": 6}
    body = {"hidden_size": 24, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2}
    rest = {"depth_single_blocks": 2, "axes_dim": (4, 4, 4), "theta": 10_000, "qkv_bias": True}
    net = KontextTransformer(TransformerConfig(**sizes, **body, **rest, guidance_embed=False))
    for p in net.requires_grad_(False).parameters():
        p.normal_(std=0.3)
    img, txt, vec = report.normal(2, 4, 24), report.normal(2, 3, 24), report.normal(2, 24)
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(2.0), torch.arange(2.0))
    rotations = net.rotations(ids, torch.zeros(3, 3))
    expected = net.final_layer(net.blocks(img, txt, vec, rotations), vec)
    report.equal("two blocks of each kind, a batch of two", answer, (net, img, txt, vec, rotations),
                 expected, tolerance=1e-3)  # fmt: skip
