"""Exercises of notebook 01."""

import math
from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def compression(report: Report, answer: Callable[..., Any]) -> None:
    """How many times fewer numbers the latents have than the pixels."""
    report.equal("FLUX: 16 channels, factor 8", answer, (16, 8), 12.0)
    report.equal("Stable Diffusion: 4 channels, factor 8", answer, (4, 8), 48.0)
    report.equal("no compression: 3 channels, factor 1", answer, (3, 1), 1.0)
    report.equal("32 channels, factor 16", answer, (32, 16), 24.0)


@exercise
def psnr(report: Report, answer: Callable[..., Any]) -> None:
    """Peak signal-to-noise ratio of each picture of a batch, pixels in [-1, 1], in dB."""
    grey = torch.zeros(1, 3, 8, 8)
    noise = torch.tensor([0.1, -0.1]).repeat(96).view(1, 3, 8, 8)
    report.equal("off by 0.2 everywhere", answer, (grey, grey + 0.2), torch.tensor([20.0]),
                 tolerance=1e-4)  # fmt: skip
    report.equal("off by plus and minus 0.1", answer, (grey, noise),
                 torch.tensor([10 * math.log10(400)]), tolerance=1e-4)  # fmt: skip
    report.equal("black against white", answer, (grey - 1, grey + 1), torch.tensor([0.0]),
                 tolerance=1e-4)  # fmt: skip
    batch = torch.cat([grey + 0.2, grey - 0.02, grey + 2])
    report.equal("three pictures: each has its own", answer, (torch.zeros(3, 3, 8, 8), batch),
                 torch.tensor([20.0, 40.0, 0.0]), tolerance=1e-4)  # fmt: skip


@exercise
def measure_normalisation(report: Report, answer: Callable[..., Any]) -> None:
    """(scale, shift) that bring raw latents to mean 0 and standard deviation 1."""
    raw = torch.tensor([1.0, 3.0]).repeat(64).view(2, 1, 8, 8)
    report.equal("half of the latents 1, half 3", answer, (raw,), (1.0, 2.0), tolerance=0.01)
    report.equal("ten times larger", answer, (10 * raw,), (0.1, 20.0), tolerance=0.01)
    # The factors FLUX ships: latents of mean 0.1159 and standard deviation 1 / 0.3611.
    flux = (raw - 2) / 0.3611 + 0.1159
    report.equal("FLUX's own numbers", answer, (flux,), (0.3611, 0.1159), tolerance=0.01)


@exercise
def kl(report: Report, answer: Callable[..., Any]) -> None:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over all elements."""
    zero = torch.zeros(2, 4, 3, 3)
    report.equal("the same distribution", answer, (zero, zero), 0.0)
    report.equal("a mean of 2", answer, (zero + 2, zero), 2.0)
    wide = zero + math.log(4.0)
    report.equal("a variance of 4", answer, (zero, wide), 0.5 * (4 - 1 - math.log(4.0)))
    sure = zero - 20.0
    report.equal("no variance at all: a plain autoencoder", answer, (zero, sure),
                 0.5 * (math.exp(-20.0) - 1 + 20))  # fmt: skip
