"""Training the toy autoencoder: reconstruction + a little KL, on endless rendered scenes.

A second stage trains the decoder alone. Latents keep their meaning, so editors that were trained on
them stay valid; only what they draw gets clearer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig, kl_divergence
from minikontext.device import mixed_precision
from minikontext.toyworld.scene import (
    EYES,
    PATTERNS,
    STYLES,
    Scene,
    pick,
    sample_scene,
    sample_word,
)
from minikontext.training.data import pixels
from minikontext.training.loop import LossFunction


@dataclass(frozen=True)
class AutoEncoderTraining:
    """The dials of the autoencoder's loss.

    `kl` weighs the KL term, averaged over latent elements. It makes the encoder add noise of its
    own to the latents, so the decoder learns to forgive what the editor will get slightly wrong.
    `decoder_only` leaves the encoder as it is; then `noise` is the largest spread of what is added
    to the normalised latents, each picture's drawn from 0 to it. `detail` is the additional weight
    of pixels by which one pair of eyes or one pattern is told from another.
    """

    batch: int = 16
    seed: int = 0
    kl: float = 1e-4
    gradient: float = 0.5
    sign_share: float = 0.5
    style_share: float = 0.2
    decoder_only: bool = False
    noise: float = 0.0
    detail: float = 0.0
    bf16: bool = False
    compile: bool = True


def sample_picture(index: int, config: AutoEncoderTraining) -> Scene:
    """Training picture number `index`: a scene of the whole world, with a sign more often."""
    rng = random.Random(f"{config.seed}/picture/{index}")
    scene = sample_scene(rng, 4)
    mark = rng.choice(("left", "right")) if rng.random() < 0.06 else "none"
    style = rng.choice(STYLES) if rng.random() < config.style_share else scene.style
    word = sample_word(rng) if rng.random() < config.sign_share else scene.sign
    return scene.change(sign=word, mark=mark, style=style)


def pictures(indices: range, config: AutoEncoderTraining) -> Tensor:
    """Training pictures by number as pixels (b, 3, 64, 64) in [-1, 1]."""
    return pixels([sample_picture(i, config) for i in indices])


def telling(scenes: list[Scene], seed: int) -> Tensor:
    """Where a picture would look different with other eyes and another pattern, (b, 1, 64, 64)."""
    rng = random.Random(f"{seed}/telling")
    twins = [
        scene.change(eyes=pick(rng, EYES, scene.eyes), pattern=pick(rng, PATTERNS, scene.pattern))
        for scene in scenes
    ]
    apart = (pixels(scenes) - pixels(twins)).abs().amax(dim=1, keepdim=True)
    return (apart > 0.06).float()


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(
    picture: Tensor, target: Tensor, gradient: float, weight: Tensor | float = 1.0
) -> Tensor:
    """Mean absolute and squared error plus `gradient` times the edges' error: letters are edges.

    weight: a factor on each pixel's error, (b, 1, h, w).
    """
    error = (picture - target) * weight
    rough = sum(edge.abs().mean() for edge in edges(error))
    return error.abs().mean() + error.pow(2).mean() + gradient * rough


def autoencoder_loss(
    model: AutoEncoder, config: AutoEncoderTraining, device: torch.device
) -> LossFunction:
    """The loss of a step: encode, sample the posterior, decode, compare."""
    f, z = model.config.downsample, model.config.z_channels
    parts = decoder_parts(model, config) if config.decoder_only else whole_parts(model, config)
    compute = torch.compile(parts) if config.compile else parts

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        first = step * config.batch
        scenes = [sample_picture(i, config) for i in range(first, first + config.batch)]
        x, weight = pixels(scenes), torch.ones(1)
        if config.detail:
            weight = 1 + config.detail * telling(scenes, first)
        noise = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        epsilon = torch.randn(len(x), z, x.shape[2] // f, x.shape[3] // f, generator=noise)
        if config.decoder_only:
            epsilon *= config.noise * torch.rand(len(x), 1, 1, 1, generator=noise)
        x, epsilon, weight = (one.to(device) for one in (x, epsilon, weight))
        with mixed_precision(device, config.bf16):
            total, y, facts = compute(x, epsilon, weight)
        mse = (y.detach() - x).pow(2).mean() / 4
        facts = {"psnr": -10 * mse.log10()} | facts
        return total, {name: float(value.detach()) for name, value in facts.items()}

    return loss


Compute = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, dict[str, Tensor]]]


def whole_parts(model: AutoEncoder, config: AutoEncoderTraining) -> Compute:
    """Encode, sample the posterior, decode: -> loss, pictures, what to log."""

    def parts(x: Tensor, epsilon: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, dict]:
        mean, logvar = model.moments(x)
        logvar = logvar.float().clamp(-12, 4)
        spread = (0.5 * logvar).exp()
        y = model.decoder(mean.float() + spread * epsilon).float()
        kl = kl_divergence(mean.float(), logvar)
        loss = reconstruction_loss(y, x, config.gradient, weight) + config.kl * kl
        return loss, y, {"kl": kl, "std": spread.mean()}

    return parts


def decoder_parts(model: AutoEncoder, config: AutoEncoderTraining) -> Compute:
    """Decode disturbed latents of a frozen encoder: -> loss, pictures, what to log."""
    model.encoder.requires_grad_(False)

    def parts(x: Tensor, epsilon: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, dict]:
        with torch.no_grad():
            z = model.encode(x).float()
        y = model.decode(z + epsilon).float()
        return reconstruction_loss(y, x, config.gradient, weight), y, {}

    return parts


@torch.no_grad()
def normalised(model: AutoEncoder, seed: int, count: int = 512) -> AutoEncoderConfig:
    """The configuration with the scale and shift that give latents zero mean and unit variance."""
    device = next(model.parameters()).device
    dials = AutoEncoderTraining(seed=seed + 1, sign_share=0.25)
    means = [
        model.moments(pictures(range(i, i + 64), dials).to(device))[0] for i in range(0, count, 64)
    ]
    latents = torch.cat(means)
    return replace(
        model.config,
        scale_factor=float(1 / latents.std()),
        shift_factor=float(latents.mean()),
    )
