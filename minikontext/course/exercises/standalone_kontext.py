"""Exercises of notebook 12."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from minikontext.course.checks import Report, exercise
from minikontext.transformer import KontextTransformer, TransformerConfig


@exercise
def count_blocks(report: Report, answer: Callable[..., Any]) -> None:
    """How many blocks of a kind a file has, read off its names."""
    leaves = ("img_attn.qkv.weight", "img_mlp.0.weight", "img_mlp.2.weight")
    many, few = report.whole(11, 19), report.whole(3, 8)
    double = [f"double_blocks.{i}.{leaf}" for i in range(many) for leaf in leaves]
    single = [f"single_blocks.{i}.linear1.weight" for i in range(few)]
    names = [*single, *sorted(double), "final_layer.linear.weight"]  # as a file sorts them
    report.equal(f"{many} double blocks", answer, (names, "double_blocks"), many)
    report.equal(f"{few} single blocks", answer, (names[::-1], "single_blocks"), few)


@exercise
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
    bare = {"conv.weight": report.normal(4, 3, 3, 3)}
    report.equal("a convolution without a bias", answer, (bare, "conv", picture),
                 F.conv2d(picture, bare["conv.weight"], padding=1), tolerance=1e-4)  # fmt: skip


@exercise
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
