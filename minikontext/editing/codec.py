"""Pixels to latents and back, in parts and tiles where pictures are large; the noise of seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from minikontext import images
from minikontext.autoencoder import AutoEncoder
from minikontext.denoiser import PATCH
from minikontext.errors import NonFiniteError, SizeError
from minikontext.runtime.tiling import tiled

# Pixels: above this area, which no trained size has, the autoencoder works in tiles.
UNTILED, TILE, OVERLAP = 1_150_000, 1024, 256


@dataclass(frozen=True)
class Codec:
    """An autoencoder as a pipeline uses it. device: where latents are wanted."""

    autoencoder: AutoEncoder
    device: torch.device

    @property
    def downsample(self) -> int:
        """Pixels along one side of a latent pixel: 8."""
        return self.autoencoder.config.downsample

    @property
    def multiple(self) -> int:
        """Pixels along one side of a token: sides that are not divisible by it are padded."""
        return PATCH * self.downsample

    @torch.no_grad()
    def encode(self, pictures: Image.Image | list[Image.Image]) -> Tensor:
        """RGB images of one size, divisible by `multiple`, to latents (b, c, h, w), float32."""
        pixels = images.to_tensor(pictures).to(self.device, self._dtype)
        encode = self.autoencoder.encode
        return torch.cat([self._tiled(encode, x, 1) for x in split_by_area(pixels)]).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Latents (b, c, h, w) to RGB images. Raises NonFiniteError."""
        if not latents.isfinite().all():
            raise NonFiniteError("The latents contain NaN or infinity: nothing to decode.")
        latents = latents.to(self.device, self._dtype)
        return [
            picture
            for chunk in split_by_area(latents, self.downsample**2)
            for picture in images.to_pil(
                self._tiled(self.autoencoder.decode, chunk, self.downsample)
            )
        ]

    def noise(self, seeds: Sequence[int], width: int, height: int) -> Tensor:
        """Draw noise (b, c, h, w) for a result of width × height pixels, one generator an image.

        Drawn on the CPU, one by one, so that a seed means the same picture in any batch anywhere.
        """
        sides = (PATCH * math.ceil(side / self.multiple) for side in (height, width))
        shape = (self.autoencoder.config.z_channels, *sides)
        generators = (torch.Generator().manual_seed(seed) for seed in seeds)
        return torch.cat([torch.randn(1, *shape, generator=g) for g in generators]).to(self.device)

    def check_latents(self, latents: Tensor) -> Tensor:
        """Latents from a caller in the sampler's format. Raises SizeError and NonFiniteError."""
        channels = self.autoencoder.config.z_channels
        fits = latents.ndim == 4 and latents.shape[1] == channels and latents.is_floating_point()
        if not fits or any(side % PATCH or side == 0 for side in latents.shape[2:]):
            raise SizeError(
                f"Got latents of shape {tuple(latents.shape)} and type {latents.dtype}; expected "
                f"floats of (b, {channels}, h, w) with h and w divisible by {PATCH}."
            )
        if not latents.isfinite().all():
            raise NonFiniteError("The context latents contain NaN or infinity: step 0, the input.")
        return latents.detach().to(self.device, torch.float32)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.autoencoder.parameters()).dtype

    def _tiled(self, function: Callable[[Tensor], Tensor], x: Tensor, scale: int) -> Tensor:
        """Run the autoencoder on x, `scale` pixels a place; very large pictures in tiles."""
        if x.shape[-1] * x.shape[-2] * scale**2 <= UNTILED:
            return function(x)
        return tiled(function, x, TILE // scale, OVERLAP // scale, self.downsample // scale)


def split_by_area(x: Tensor, area: int = 1, limit: int = 2**22) -> tuple[Tensor, ...]:
    """Cut a batch so that a chunk has at most `limit` pixels: full-size pictures need the room."""
    return x.split(max(1, limit // (x.shape[-2] * x.shape[-1] * area)))
