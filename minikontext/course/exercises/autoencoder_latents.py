"""Exercises of notebook 01."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minikontext.autoencoder import ResnetBlock, kl_divergence
from minikontext.course.checks import Report, exercise


@exercise(
    solution='''
def compression(channels, factor):
    """channels: of the latents; factor: pixels per latent pixel, along one side."""
    return 3 * factor**2 / channels
''',
    known={
        "you count one side of the patch only": lambda channels, factor: 3 * factor / channels,
        "you forget that pixels have three colours": lambda channels, factor: factor**2 / channels,
        "you turn the fraction upside down": lambda channels, factor: channels / (3 * factor**2),
        "you divide with //": lambda channels, factor: 3 * factor**2 // channels,
    },
)
def compression(report: Report, answer: Callable[..., Any]) -> None:
    """How many times fewer numbers the latents have than the pixels."""
    report.equal("FLUX: 16 channels, factor 8", answer, (16, 8), 12.0)
    report.equal("Stable Diffusion: 4 channels, factor 8", answer, (4, 8), 48.0)
    channels, factor = 7 * report.whole(1, 9), 8 * report.whole(1, 4)
    text = f"{channels} channels, factor {factor}"
    report.equal(text, answer, (channels, factor), 3 * factor**2 / channels)


def _error(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)


@exercise(
    solution='''
def psnr(a, b):
    """a, b: pixels (b, 3, h, w) in [-1, 1]; returns decibels (b,), one for each picture."""
    return 10 * torch.log10(4 / (a - b).square().flatten(1).mean(1))
''',
    known={
        "you average absolute errors, not squares": lambda a, b: (
            20 * torch.log10(2 / (a - b).abs().flatten(1).mean(1))
        ),
        "the peak is 1 in place of 2": lambda a, b: 10 * torch.log10(1 / _error(a, b)),
        "you take the natural logarithm": lambda a, b: 10 * torch.log(4 / _error(a, b)),
        "you average before you square": lambda a, b: (
            10 * torch.log10(4 / (a - b).flatten(1).mean(1).square())
        ),
        "the whole batch has one number": lambda a, b: (
            10 * torch.log10(4 / (a - b).square().mean())
        ),
        "each colour has a number of its own": lambda a, b: (
            10 * torch.log10(4 / (a - b).square().mean(dim=(2, 3)))
        ),
        "you take the root before the logarithm": lambda a, b: (
            10 * torch.log10(4 / _error(a, b).sqrt())
        ),
    },
)
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
    right = 10 * torch.log10(4 / _error(a, b))
    report.equal(f"{count} random pictures", answer, (a, b), right, **same)


def _centred(raw: Tensor) -> Tensor:
    return raw - raw.mean()


@exercise(
    solution='''
def measure_normalisation(raw):
    """raw: means of the encoder, (b, c, h, w); returns (scale, shift)."""
    return 1 / raw.std(), raw.mean()
''',
    known={
        "you do not invert the deviation": lambda raw: (raw.std(), raw.mean()),
        "you divide by the variance": lambda raw: (1 / raw.var(), raw.mean()),
        "you scale the shift, too": lambda raw: (1 / raw.std(), raw.mean() / raw.std()),
        "you take the mean absolute deviation": lambda raw: (
            1 / _centred(raw).abs().mean(), raw.mean()
        ),
        "you take half the range": lambda raw: (2 / (raw.max() - raw.min()), raw.mean()),
        "you look at the first sample only": lambda raw: (1 / raw[:1].std(), raw[:1].mean()),
        "you forget to take the mean off": lambda raw: (1 / raw.square().mean().sqrt(), raw.mean()),
    }
)  # fmt: skip
def measure_normalisation(report: Report, answer: Callable[..., Any]) -> None:
    """(scale, shift) that bring raw latents to mean 0 and standard deviation 1."""
    raw = torch.tensor([1.0, 3.0]).repeat(64).view(2, 1, 8, 8)
    report.equal("half of the latents 1, half 3", answer, (raw,), (1.0, 2.0), tolerance=0.01)
    for name in ("random latents", "others"):
        size, middle = report.whole(2, 9), report.whole(3, 9)
        skewed = size * report.normal(3, 4, 16, 16).exp() + middle
        skewed[0] *= 2  # samples differ
        right = (1 / skewed.std(), skewed.mean())
        report.equal(name, answer, (skewed,), tuple(map(float, right)), tolerance=0.003)


@exercise(
    solution='''
def kl(mean, logvar):
    """mean, logvar: both (b, c, h, w); returns one number."""
    return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
''',
    known={
        "you take the log-variance for the deviation": lambda mean, logvar: (
            0.5 * (mean**2 + logvar**2 - 1 - 2 * logvar.abs().clamp_min(1e-9).log()).mean()
        ),
        "you add up and do not average": lambda mean, logvar: (
            0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum()
        ),
        "you forget the half": lambda mean, logvar: (mean**2 + logvar.exp() - 1 - logvar).mean(),
        "you leave the variance out": lambda mean, logvar: 0.5 * (mean**2).mean(),
        "you average mean and log-variance first": lambda mean, logvar: kl_divergence(
            mean.mean(), logvar.mean()
        ),
        "you do not square the mean": lambda mean, logvar: (
            0.5 * (mean + logvar.exp() - 1 - logvar).mean()
        ),
    },
)
def kl(report: Report, answer: Callable[..., Any]) -> None:
    """KL(N(mean, exp(logvar)) || N(0, 1)), averaged over all elements."""
    zero = torch.zeros(2, 4, 3, 3)
    report.equal("the same distribution", answer, (zero, zero), 0.0)
    report.equal("a mean of 2", answer, (zero + 2, zero), 2.0)
    for name in ("random means and log-variances", "others"):
        mean, logvar = (2 * report.normal(2, 4, 3, 5) - 0.5 for _ in range(2))
        right = kl_divergence(mean, logvar).item()
        report.equal(name, answer, (mean, logvar), right, tolerance=1e-4)


def _shortcut(block: Any, x: Tensor) -> Tensor:
    return block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x


def _found(block: Any, x: Tensor, bend: Callable[[Tensor], Tensor] = F.silu) -> Tensor:
    return block.conv2(bend(block.norm2(block.conv1(bend(block.norm1(x))))))


@exercise(
    solution='''
def res_block(block, x):
    """block: norm1, conv1, norm2, conv2; nin_shortcut where the width changes; x (b, c, h, w)."""
    h = block.conv1(F.silu(block.norm1(x)))
    h = block.conv2(F.silu(block.norm2(h)))
    return h + (block.nin_shortcut(x) if hasattr(block, "nin_shortcut") else x)

def encode(encoder, pixels, scale, shift):
    mean, logvar = encoder(pixels).chunk(2, dim=1)
    return scale * (mean - shift)

def decode(decoder, latents, scale, shift):
    return decoder(latents / scale + shift)
''',
    known={
        "you forget the shortcut": lambda block, x: _found(block, x),
        "the shortcut keeps the old width": lambda block, x: x + _found(block, x),
        "you bend with ReLU": lambda block, x: _shortcut(block, x) + _found(block, x, F.relu),
        "you bend before you normalise": lambda block, x: (
            _shortcut(block, x)
            + block.conv2(block.norm2(F.silu(block.conv1(block.norm1(F.silu(x))))))
        ),
        "you leave the second norm out": lambda block, x: (
            _shortcut(block, x) + block.conv2(F.silu(block.conv1(F.silu(block.norm1(x)))))
        ),
        "nothing bends": lambda block, x: _shortcut(block, x) + _found(block, x, nn.Identity()),
    },
)
def res_block(report: Report, answer: Callable[..., Any]) -> None:
    """The residual block of the autoencoder, with the weights of `block`."""
    for name, wide in (("8 channels, and 8 come out", 8), ("8 channels, and 12 come out", 12)):
        block = ResnetBlock(8, wide, groups=4).requires_grad_(False)
        for parameter in block.parameters():
            parameter.copy_(0.5 * report.normal(*parameter.shape))
        x = 2 * report.normal(2, 8, 5, 6) + 0.5
        right = _shortcut(block, x) + _found(block, x)
        report.equal(name, answer, (block, x), right, tolerance=1e-4)
