"""Exercises of notebook 01."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.autoencoder import ResnetBlock, kl_divergence
from minikontext.course.checks import Report, exercise


@exercise
def compression(report: Report, answer: Callable[..., Any]) -> None:
    """How many times fewer numbers the latents have than the pixels."""
    report.equal("FLUX: 16 channels, factor 8", answer, (16, 8), 12.0)
    report.equal("Stable Diffusion: 4 channels, factor 8", answer, (4, 8), 48.0)
    channels, factor = 7 * report.whole(1, 9), 8 * report.whole(1, 4)
    report.equal(f"{channels} channels, factor {factor}", answer, (channels, factor))


@exercise
def psnr(report: Report, answer: Callable[..., Any]) -> None:
    """Peak signal-to-noise ratio of each picture of a batch, pixels in [-1, 1], in dB."""
    black = torch.full((1, 3, 8, 8), -1.0)
    same = {"tolerance": 1e-4}
    report.equal("black against white", answer, (black, -black), torch.tensor([0.0]), **same)
    report.equal("off by 0.2 everywhere", answer, (black, black + 0.2), torch.tensor([20.0]),
                 **same)  # fmt: skip
    count = report.whole(2, 4)
    a, b = (report.normal(count, 3, 5, 7).tanh() for _ in range(2))
    b[0] = a[0].lerp(b[0], 0.1)
    report.equal(f"{count} random pictures", answer, (a, b), **same)


@exercise
def measure_normalisation(report: Report, answer: Callable[..., Any]) -> None:
    """(scale, shift) that bring raw latents to mean 0 and standard deviation 1."""
    raw = torch.tensor([1.0, 3.0]).repeat(64).view(2, 1, 8, 8)
    report.equal("half of the latents 1, half 3", answer, (raw,), (1.0, 2.0), tolerance=0.01)
    for name in ("random latents", "others"):
        size, middle = report.whole(1, 4) / 2, report.whole(3, 9)
        skewed = size * report.normal(3, 4, 16, 16).exp() + middle
        skewed[0] *= 2  # samples differ,
        skewed[:, 1] *= 3  # and so do channels
        right = tuple(map(float, report.right(skewed)))
        report.equal(name, answer, (skewed,), right, tolerance=5e-4)


@exercise
def kl(report: Report, answer: Callable[..., Any]) -> None:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over all elements."""
    zero = torch.zeros(2, 4, 3, 3)
    report.equal("the same distribution", answer, (zero, zero), 0.0)
    report.equal("a mean of 2", answer, (zero + 2, zero), 2.0)
    for name in ("random means and log-variances", "others"):
        mean, logvar = (2 * report.normal(2, 4, 3, 5) - 0.5 for _ in range(2))
        right = kl_divergence(mean, logvar).item()
        report.equal(name, answer, (mean, logvar), right, tolerance=1e-4)


@exercise
def res_block(report: Report, answer: Callable[..., Any]) -> None:
    """The residual block of the autoencoder, with the weights of `block`."""
    for name, wide in (("8 channels, and 8 come out", 8), ("8 channels, and 12 come out", 12)):
        block = ResnetBlock(8, wide, groups=4).requires_grad_(False)
        for parameter in block.parameters():
            parameter.copy_(0.5 * report.normal(*parameter.shape))
        x = 2 * report.normal(2, 8, 5, 6) + 0.5
        report.equal(name, answer, (block, x), block(x), tolerance=1e-4)
