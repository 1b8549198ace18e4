"""Training the toy autoencoder: reconstruction + a little KL, on endless rendered scenes."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig, kl_divergence
from minikontext.runtime.bounds import Batch, Seed, Share, Weight
from minikontext.runtime.device import mixed_precision
from minikontext.toyworld.scene import STYLES, Scene, sample_scene, sample_word
from minikontext.training import data
from minikontext.training.answers import Answers
from minikontext.training.loop import LossFunction

# What `fine` draws of: styles that thin or pale what is small, and the plain one, lest it suffer.
FINE = (*["comic"] * 6, *["plain"] * 4, "pastel", "pastel", "sketch", "sketch", "neon", "pixel")
SIDE = 64  # of a picture, in pixels


@dataclass(frozen=True)
class AutoEncoderLossConfig:
    """The dials of the autoencoder's loss.

    `kl` weighs the KL term, averaged over latent elements. It makes the encoder add noise of its
    own to the latents, so the decoder learns to forgive what the editor will get slightly wrong.

    decoder_only: the encoder stays, so that editors which were trained on its latents fit still.
    fine_share: of the pictures, in which a character's details are hard to see (see `fine`).
    squared: how much the squared error counts beside the absolute one. PSNR is made of squares.
    disturbed: up to so much noise on latents of unit variance: an editor's are never exact.
    answers_share: of the pictures, for which the decoder gets the latents that an editor made in
    place of the encoder's (see `Answers`).
    """

    batch: Batch = 16
    seed: Seed = 0
    kl: Weight = 1e-4
    gradient: Weight = 0.5
    sign_share: Share = 0.5
    decoder_only: bool = False
    fine_share: Share = 0.0
    squared: Weight = 1.0
    disturbed: Weight = 0.0
    answers_share: Share = 0.0
    bf16: bool = False
    compile: bool = True


def sample_picture(index: int, seed: int, sign_share: float, fine_share: float = 0.0) -> Scene:
    """Training picture number `index`: a scene of the whole world, with a sign more often."""
    rng = random.Random(f"{seed}/picture/{index}")
    scene = sample_scene(rng, 4)
    mark = rng.choice(("left", "right")) if rng.random() < 0.06 else "none"
    style = rng.choice(STYLES) if rng.random() < 0.2 else scene.style
    word = sample_word(rng) if rng.random() < sign_share else scene.sign
    scene = scene.change(sign=word, mark=mark, style=style)
    return fine(scene, rng) if rng.random() < fine_share else scene


def fine(scene: Scene, rng: random.Random) -> Scene:
    """The scene in a style of FINE, half the time with glasses, behind which eyes are small."""
    scene = scene.change(style=rng.choice(FINE))
    return scene.change(accessory="glasses") if rng.random() < 0.5 else scene


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def reconstruction_loss(
    pixels: Tensor, target: Tensor, gradient: float, squared: float = 1.0
) -> Tensor:
    """Mean absolute error, plus squared ones, plus the edges' error: letters are edges.

    `squared` and `gradient` weigh the second and the third. Absolute errors forgive a few large
    ones, squares do not.
    """
    error = pixels - target
    rough = sum(edge.abs().mean() for edge in edges(error))
    return (error.abs() + squared * error.pow(2)).mean() + gradient * rough


def autoencoder_loss(
    model: AutoEncoder,
    config: AutoEncoderLossConfig,
    device: torch.device,
    answers: Answers | None = None,
) -> LossFunction:
    """The loss of a step: encode, sample the posterior, decode, compare.

    With answers, the last of each batch are decoded from an editor's latents.
    """

    z, sides = model.config.z_channels, [SIDE // model.config.downsample] * 2

    def decode_and_compare(
        x: Tensor, epsilon: Tensor, more: Tensor, made: Tensor
    ) -> tuple[Tensor, ...]:
        mean, logvar = model.moments(x)
        logvar = logvar.float().clamp(-12, 4)
        z = mean.float() + ((0.5 * logvar).exp() + more) * epsilon
        z = torch.cat((z[: len(z) - len(made)], made))
        y = model.decoder(z).float()
        kl = kl_divergence(mean.float(), logvar)
        loss = reconstruction_loss(y, x, config.gradient, config.squared) + config.kl * kl
        return loss, y, kl, logvar

    compute = torch.compile(decode_and_compare) if config.compile else decode_and_compare

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        numbers = range(step * config.batch, (step + 1) * config.batch)
        scenes = [
            sample_picture(i, config.seed, config.sign_share, config.fine_share) for i in numbers
        ]
        seed = config.seed * 1_000_003 + step
        made = torch.zeros(0, z, *sides)
        if answers:
            count = round(config.answers_share * config.batch)
            latents, right = answers.some(count, random.Random(seed))
            scenes[config.batch - count :] = right
            made = latents / model.config.scale_factor + model.config.shift_factor
        x = data.pixels(scenes)
        noise = torch.Generator().manual_seed(seed)
        epsilon = torch.randn(len(x), z, *sides, generator=noise)
        more = torch.rand(len(x), 1, 1, 1, generator=noise)
        more = more * config.disturbed / model.config.scale_factor
        x = x.to(device)
        with mixed_precision(device, config.bf16):
            given = (v.to(device) for v in (epsilon, more, made))
            total, y, kl, logvar = compute(x, *given)
        mse = (y.detach() - x).pow(2).mean() / 4
        facts = {"psnr": float(-10 * mse.log10()), "kl": float(kl.detach())}
        facts["std"] = float((0.5 * logvar.detach()).exp().mean())
        return total, facts

    return loss


@torch.no_grad()
def normalised(model: AutoEncoder, seed: int, count: int = 512) -> AutoEncoderConfig:
    """The configuration with the scale and shift that give latents zero mean and unit variance."""
    device = next(model.parameters()).device
    scenes = [sample_picture(i, seed + 1, 0.25) for i in range(count)]
    means = [
        model.moments(data.pixels(scenes[i : i + 64]).to(device))[0] for i in range(0, count, 64)
    ]
    return scaled(model.config, torch.cat(means))


def scaled(config: AutoEncoderConfig, latents: Tensor) -> AutoEncoderConfig:
    """The configuration with the scale and shift that fit these latents, not normalised yet."""
    scale, shift = float(1 / latents.std()), float(latents.mean())
    return replace(config, scale_factor=scale, shift_factor=shift)
