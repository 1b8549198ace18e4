"""Training the toy autoencoder: reconstruction + a little KL, on endless rendered scenes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig, kl_divergence
from minikontext.device import mixed_precision
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import STYLES, Scene, sample_scene, sample_word
from minikontext.training.loop import LossFunction


@dataclass(frozen=True)
class AutoEncoderTraining:
    """The dials of the autoencoder's loss.

    `kl` weighs the KL term, averaged over latent elements. It makes the encoder add noise of its
    own to the latents, so the decoder learns to forgive what the editor will get slightly wrong.
    """

    batch: int = 16
    seed: int = 0
    kl: float = 1e-4
    gradient: float = 0.5
    sign_share: float = 0.5
    bf16: bool = False
    compile: bool = True


def sample_picture(index: int, seed: int, sign_share: float) -> Scene:
    """Training picture number `index`: a scene of the whole world, with a sign more often."""
    rng = random.Random(f"{seed}/picture/{index}")
    scene = sample_scene(rng, 4)
    mark = rng.choice(("left", "right")) if rng.random() < 0.06 else "none"
    style = rng.choice(STYLES) if rng.random() < 0.2 else scene.style
    word = sample_word(rng) if rng.random() < sign_share else scene.sign
    return scene.change(sign=word, mark=mark, style=style)


def pictures(indices: range, seed: int, sign_share: float) -> Tensor:
    """Pictures by number as pixels (b, 3, 64, 64) in [-1, 1]."""
    images = [render(sample_picture(i, seed, sign_share)) for i in indices]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(pixels: Tensor, target: Tensor, gradient: float) -> Tensor:
    """Mean absolute and squared error plus `gradient` times the edges' error: letters are edges."""
    error = pixels - target
    rough = sum(edge.abs().mean() for edge in edges(error))
    return error.abs().mean() + error.pow(2).mean() + gradient * rough


def autoencoder_loss(
    model: AutoEncoder, config: AutoEncoderTraining, device: torch.device
) -> LossFunction:
    """The loss of a step: encode, sample the posterior, decode, compare."""

    f, z = model.config.downsample, model.config.z_channels

    def parts(x: Tensor, epsilon: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, logvar = model.moments(x)
        logvar = logvar.float().clamp(-12, 4)
        y = model.decoder(mean.float() + (0.5 * logvar).exp() * epsilon).float()
        kl = kl_divergence(mean.float(), logvar)
        return reconstruction_loss(y, x, config.gradient) + config.kl * kl, y, kl, logvar

    compute = torch.compile(parts) if config.compile else parts

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        first = step * config.batch
        x = pictures(range(first, first + config.batch), config.seed, config.sign_share).to(device)
        noise = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        epsilon = torch.randn(len(x), z, x.shape[2] // f, x.shape[3] // f, generator=noise)
        with mixed_precision(device, config.bf16):
            total, y, kl, logvar = compute(x, epsilon.to(device))
        mse = (y.detach() - x).pow(2).mean() / 4
        facts = {"psnr": float(-10 * mse.log10()), "kl": float(kl.detach())}
        facts["std"] = float((0.5 * logvar.detach()).exp().mean())
        return total, facts

    return loss


@torch.no_grad()
def normalised(model: AutoEncoder, seed: int, count: int = 512) -> AutoEncoderConfig:
    """The configuration with the scale and shift that give latents zero mean and unit variance."""
    device = next(model.parameters()).device
    means = [
        model.moments(pictures(range(i, i + 64), seed + 1, 0.25).to(device))[0]
        for i in range(0, count, 64)
    ]
    latents = torch.cat(means)
    return replace(
        model.config,
        scale_factor=float(1 / latents.std()),
        shift_factor=float(latents.mean()),
    )
