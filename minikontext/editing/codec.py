"""Pixels to latents and back, in parts and tiles where pictures are large; the noise of seeds."""

from __future__ import annotations

from torch import Tensor

# Pixels: above this area, which no trained size has, the autoencoder works in tiles.
UNTILED, TILE, OVERLAP = 1_150_000, 1024, 256


def split_by_area(x: Tensor, area: int = 1, limit: int = 2**22) -> tuple[Tensor, ...]:
    """Cut a batch so that a part has at most `limit` pixels: full-size pictures need the memory."""
    return x.split(max(1, limit // (x.shape[-2] * x.shape[-1] * area)))
