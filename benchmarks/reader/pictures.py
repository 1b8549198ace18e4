"""The pictures that the reader is trained on: any scene, at any size, spoiled in many ways.

Its scenes are its own: every value of every attribute is about as frequent as any other, whatever
is held out from the editors. A judge may know all characters; it trains nobody.
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from minikontext.toyworld.scene import CHOICES, Scene, sample_word

# Shares of "nothing special" where even odds would crowd the picture.
NOTHING = {"mark": 0.75, "left": 0.35, "right": 0.35, "style": 0.4}
SIGN_SHARE = 0.55


def draw_scene(rng: random.Random) -> Scene:
    """A scene of the whole world, held-out characters and combinations among them."""
    values = {name: rng.choice(allowed) for name, allowed in CHOICES.items()}
    for name, share in NOTHING.items():
        if rng.random() < share:
            values[name] = CHOICES[name][0]
    return Scene(sign=sample_word(rng) if rng.random() < SIGN_SHARE else "").change(**values)


@dataclass(frozen=True)
class Spoiling:
    """The most that a picture is spoiled by; each picture draws its own strength below that.

    blur: sigma in units. noise: sigma, of a range of 1. shift: units. zoom: share of the size.
    cast: of each channel alone. light: of all channels, brightness and contrast. jpeg: share of
    pictures that are compressed, at a quality of `quality` to 95. clean: share left as it is.
    """

    blur: float = 0.0
    noise: float = 0.0
    shift: float = 0.0
    zoom: float = 0.0
    cast: float = 0.0
    light: float = 0.0
    jpeg: float = 0.0
    quality: int = 35
    clean: float = 0.0

    def only(self, *names: str) -> Spoiling:
        """The same with some kinds alone, on every picture."""
        keep = {*names, "quality"}
        return replace(self, **{f.name: 0.0 for f in fields(self) if f.name not in keep})

    def times(self, factor: float) -> Spoiling:
        """The same, every strength scaled."""
        names = ("blur", "noise", "shift", "zoom", "cast", "light", "jpeg")
        return replace(self, **{name: factor * getattr(self, name) for name in names})


# What the reader is trained on.
HARD = Spoiling(blur=0.9, noise=0.04, shift=1.5, zoom=0.02, cast=0.05, light=0.08, jpeg=0.25,
                quality=50, clean=0.3)  # fmt: skip
# What a right answer may have been through and still be right in every pixel.
MILD = Spoiling(blur=0.7, noise=0.025, shift=0.3, cast=0.02, light=0.03, jpeg=0.4, quality=60)


def spoil(x: Tensor, how: Spoiling, dice: torch.Generator) -> Tensor:
    """Pictures (b, 3, h, w) in 0..1 in world units, each spoiled by strengths of its own."""
    y = x
    if how.blur:
        y = _blurred(y, _up_to(how.blur, x, dice))
    if how.shift or how.zoom:
        y = _moved(y, how, dice)
    if how.cast or how.light:
        y = _tinted(y, how, dice)
    if how.noise:
        y = y + _up_to(how.noise, x, dice) * torch.randn(x.shape, generator=dice)
    y = y.clamp(0, 1)
    if how.jpeg:
        y = _compressed(y, how, dice)
    kept = torch.rand(len(x), 1, 1, 1, generator=dice) < how.clean
    return torch.where(kept, x, y)


def _up_to(most: float, x: Tensor, dice: torch.Generator, channels: int = 1) -> Tensor:
    """A strength from 0 to `most` for each picture (b, channels, 1, 1)."""
    return most * torch.rand(len(x), channels, 1, 1, generator=dice)


def _around(most: float, x: Tensor, dice: torch.Generator, channels: int = 1) -> Tensor:
    return 2 * _up_to(most, x, dice, channels) - most


def _blurred(x: Tensor, sigma: Tensor) -> Tensor:
    """Each picture convolved with a Gaussian of its own."""
    batch, channels, height, _ = x.shape
    at = torch.arange(-3.0, 4.0)
    kernel = torch.exp(-(at**2) / (2 * sigma.flatten()[:, None].clamp(min=0.05) ** 2))
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(x, (3, 3, 3, 3), mode="replicate").reshape(1, batch * channels, height + 6, -1)
    rows = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(rows, kernel[:, None, None, :], groups=batch * channels).reshape(x.shape)


def _moved(x: Tensor, how: Spoiling, dice: torch.Generator) -> Tensor:
    """Each picture shifted and zoomed; what comes in at an edge repeats the edge."""
    batch, _, height, width = x.shape
    zoom = 1 + _around(how.zoom, x, dice).flatten()
    shift = _around(how.shift, x, dice, 2).flatten(1) * 2 / torch.tensor([width, height])
    matrix = torch.zeros(batch, 2, 3)
    matrix[:, 0, 0] = matrix[:, 1, 1] = zoom
    matrix[:, :, 2] = shift
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _tinted(x: Tensor, how: Spoiling, dice: torch.Generator) -> Tensor:
    """Each picture in another contrast, brightness and colour cast."""
    gain = 1 + _around(how.cast, x, dice, 3) + _around(how.light, x, dice)
    offset = 0.5 * (_around(how.cast, x, dice, 3) + _around(how.light, x, dice))
    return (x - 0.5) * gain + 0.5 + offset


def _compressed(x: Tensor, how: Spoiling, dice: torch.Generator) -> Tensor:
    """A share of the pictures once through JPEG."""
    chosen = (torch.rand(len(x), generator=dice) < how.jpeg).nonzero().flatten().tolist()
    quality = torch.randint(how.quality, 96, (len(x),), generator=dice).tolist()
    x = x.clone()
    for i in chosen:
        x[i] = _jpeg(x[i], quality[i])
    return x


def _jpeg(picture: Tensor, quality: int) -> Tensor:
    array = (picture * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=quality)
    read = np.asarray(Image.open(file), dtype=np.float32)
    return torch.from_numpy(read).permute(2, 0, 1) / 255
