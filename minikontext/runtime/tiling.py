"""Large pictures through the autoencoder in overlapping tiles, blended where they meet.

A tile does not see the rest of the picture: the autoencoder's normalisations and its attention,
which look at everything, see the tile only. So the result differs a little from the untiled one.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from minikontext.errors import SizeError


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, tile: int, overlap: int, multiple: int = 1
) -> Tensor:
    """Apply a map of pictures to tiles of (b, c, h, w) and join the results.

    tile, overlap: in pixels of x, both divisible by `multiple`. The function may change the
    resolution by a whole factor or a whole fraction. Where tiles overlap, the weight of each
    falls linearly towards its edge. Raises SizeError.
    """
    if not 0 <= overlap < tile or tile % multiple or overlap % multiple:
        raise SizeError(
            f"Got tiles of {tile} with {overlap} overlap; both need to be k·{multiple}."
        )
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x)
    joined = weight = None
    for top, left in product(starts(height, tile, overlap), starts(width, tile, overlap)):
        part = function(x[..., top : top + tile, left : left + tile])
        scale = part.shape[-1] / min(tile, width)
        if joined is None:
            shape = (*part.shape[:2], round(height * scale), round(width * scale))
            kind = torch.promote_types(part.dtype, torch.float32)  # bfloat16 counts to 256 only
            joined, weight = (part.new_zeros(x, dtype=kind) for x in (shape, shape[-2:]))
        mask = _ramp(part.to(kind), round(overlap * scale))
        rows = slice(round(top * scale), round(top * scale) + part.shape[-2])
        cols = slice(round(left * scale), round(left * scale) + part.shape[-1])
        joined[..., rows, cols] += mask * part
        weight[rows, cols] += mask
    return (joined / weight).to(part.dtype)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along one side; the last one ends with the picture."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(part: Tensor, overlap: int) -> Tensor:
    """Weights (h, w) that rise over the overlap and are never zero, so that edges count, too."""
    sides = []
    for length in part.shape[-2:]:
        place = torch.arange(length, device=part.device, dtype=part.dtype)
        near = torch.minimum(place, length - 1 - place) + 1
        sides.append((near / (overlap + 1)).clamp(max=1))
    return sides[0][:, None] * sides[1]
