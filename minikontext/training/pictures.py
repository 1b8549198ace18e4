"""Training the one autoencoder of the lineage: pictures of every trained size, from nothing.

A step is one batch of one size, drawn by the step's number: any step can be made again. The number
of pixels in a batch stays about the same. No picture shows anything that `split_of` holds out, and
nothing here knows what a judge looks for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval, MaxLen
from torch import Tensor

from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig, kl_divergence
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Level, Seed, Share, Side, Weight
from minikontext.runtime.device import mixed_precision
from minikontext.toyworld import render
from minikontext.toyworld.scene import LEVELS, STYLES, Scene, sample_scene, sample_word
from minikontext.toyworld.sizes import TRAINED, Size
from minikontext.toyworld.split import scene_keys, split_of_all
from minikontext.training.loop import LossFunction

OTHER_STYLES = 0.4  # of the pictures that are not in comic style are in any of the other styles


@dataclass(frozen=True)
class PictureTraining:
    """The dials of the autoencoder's pictures and loss.

    pixels: of a batch; at 64 x 64 it holds pixels / 4096 pictures. comic: the share of pictures
    in comic style, whose lines are finer than a latent vector. signs: the share with a sign.
    kl: weighs the KL term, averaged over latent elements; squared, absolute, gradient: weigh the
    squared error, the absolute one and that of the edges. PSNR is made of squares. worst: weighs
    the squared error once more, by places, so that the worst ones count most, see `worst_places`.
    decoder_only: the encoder stays as it is, so editors that were trained on its latents may have
    the new decoder. sizes: (width, height), all trained ones unless given.
    """

    pixels: Annotated[int, Interval(ge=256, le=2**32)] = 65536
    level: Level = 4
    seed: Seed = 0
    comic: Share = 0.3
    signs: Share = 0.4
    kl: Weight = 1e-4
    squared: Weight = 8.0
    absolute: Weight = 1.0
    gradient: Weight = 0.5
    worst: Weight = 0.0
    decoder_only: bool = False
    bf16: bool = True
    sizes: Annotated[tuple[tuple[Side, Side], ...], MaxLen(1024)] = field(default=TRAINED)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(map(tuple, self.sizes)))  # TOML gives lists
        if self.level not in LEVELS:
            raise ConfigError(f"level={self.level}: choose one of {[*LEVELS]}")
        if largest := [s for s in self.sizes if s[0] * s[1] > self.pixels]:
            raise ConfigError(f"pixels={self.pixels}: no batch holds one picture of {largest[0]}")


def sample_scenes(rng: random.Random, count: int, config: PictureTraining) -> list[Scene]:
    """Scenes to draw, with more signs and comic style than the world has; nothing held out."""
    found: list[Scene] = []
    while len(found) < count:
        scene = _varied(sample_scene(rng, config.level), rng, config)
        if split_of_all(scene_keys(scene)) == "train":
            found.append(scene)
    return found


def _varied(scene: Scene, rng: random.Random, config: PictureTraining) -> Scene:
    if config.level < 4:
        return scene
    mark = rng.choice(("left", "right")) if rng.random() < 0.06 else "none"
    others = tuple(style for style in STYLES if style != "comic")
    style = rng.choice(others) if rng.random() < OTHER_STYLES else "plain"
    style = "comic" if rng.random() < config.comic else style
    sign = sample_word(rng) if rng.random() < config.signs else scene.sign
    return scene.change(sign=sign, mark=mark, style=style)


def step_scenes(step: int, config: PictureTraining) -> tuple[Size, list[Scene]]:
    """The size and the scenes of a step's batch, the same on every call."""
    rng = random.Random(f"pictures/{config.seed}/{step}")
    width, height = rng.choice(config.sizes)
    return (width, height), sample_scenes(rng, config.pixels // (width * height), config)


def pixels(scenes: list[Scene], size: Size) -> Tensor:
    """Scenes as pixels (b, 3, h, w) in [-1, 1]."""
    images = np.stack([render(scene, size[1], size[0]) for scene in scenes])
    return torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1


def edges(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences between neighbouring pixels, across and down."""
    return pixels[..., 1:] - pixels[..., :-1], pixels[..., 1:, :] - pixels[..., :-1, :]


def picture_error(reconstruction: Tensor, right: Tensor, config: PictureTraining) -> Tensor:
    """Squared, absolute and edge error of pictures (b, 3, h, w), weighed; a scalar."""
    error = reconstruction - right
    rough = sum(edge.abs().mean() for edge in edges(error))
    even = config.squared * error.square().mean() + config.absolute * error.abs().mean()
    return even + config.gradient * rough + config.worst * worst_places(error)


def worst_places(error: Tensor, side: int = 4) -> Tensor:
    """Root mean square, over places of side x side pixels, of the squared error there; a scalar.

    error (b, 3, h, w). Where all places are equally bad this is the squared error. A pair of eyes
    is four places of 256: lost, it hardly shows in the mean, and here it does.
    """
    squared = F.avg_pool2d(error.square().mean(dim=1), side)
    return (squared.square().mean(dim=(-2, -1)) + 1e-12).sqrt().mean()


def picture_loss(model: AutoEncoder, config: PictureTraining, device: torch.device) -> LossFunction:
    """The loss of a step: encode, sample the posterior, decode, compare.

    A decoder alone is given the posterior's means: that is what editors learn to make.
    """

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        size, scenes = step_scenes(step, config)
        x = pixels(scenes, size).to(device)
        draw = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        with mixed_precision(device, config.bf16):
            with torch.set_grad_enabled(not config.decoder_only):
                mean, logvar = (part.float() for part in model.moments(x))
            logvar = logvar.clamp(-12, 4)
            noise = torch.randn(mean.shape, generator=draw).to(device)
            latents = mean if config.decoder_only else mean + (0.5 * logvar).exp() * noise
            reconstruction = model.decoder(latents).float()
        kl = kl_divergence(mean, logvar)
        mse = (reconstruction.detach() - x).square().mean() / 4
        facts = {"psnr": float(-10 * mse.log10()), "kl": float(kl.detach()), "samples": len(x)}
        return picture_error(reconstruction, x, config) + config.kl * kl, facts

    return loss


@torch.no_grad()
def normalised(model: AutoEncoder, config: PictureTraining, batches: int = 40) -> AutoEncoderConfig:
    """The configuration whose scale and shift give latents of these pictures variance one."""
    device = next(model.parameters()).device
    drawn = (step_scenes(-1 - i, config) for i in range(batches))  # no step has these numbers
    latents = torch.cat(
        [model.moments(pixels(s, size).to(device))[0].flatten() for size, s in drawn]
    )
    return replace(
        model.config, scale_factor=float(1 / latents.std()), shift_factor=float(latents.mean())
    )
