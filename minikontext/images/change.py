"""How much of a picture changed, and where."""

from __future__ import annotations

import numpy as np
from PIL import Image

from minikontext.images.tensors import as_rgb, shrunk

# An autoencoder blurs edges by a pixel and less: so pixels are compared by fours, in colour levels
# of 255. Most toy pictures that only went through theirs stay below LITTLE, edits are above it.
VISIBLE = 40
AMPLIFIED = 3  # times: small differences are hard to see
LITTLE = 0.005  # a smaller share of the picture is noise of the autoencoder


def changed(before: Image.Image, after: Image.Image) -> tuple[float, str]:
    """The share of the picture that changed visibly, and in which ninth of the picture most did."""
    size = (min(-(-after.width // 2), 256), min(-(-after.height // 2), 256))
    pictures = (as_rgb(p).resize(size, Image.Resampling.BOX) for p in (before, after))
    a, b = (np.asarray(picture, int) for picture in pictures)
    apart = np.abs(a - b).max(-1) > VISIBLE
    thirds = [[part.sum() for part in np.array_split(rows, 3, axis=1)]
              for rows in np.array_split(apart, 3)]  # fmt: skip
    row, col = divmod(int(np.argmax(thirds)), 3)
    down, across = ("at the top", "in the middle", "at the bottom")[row], ("left", "", "right")[col]
    return float(apart.mean()), f"{down} {across}".strip()


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """How much each pixel changed, amplified: black is no change."""
    after = shrunk(after, 512)
    a, b = (
        np.asarray(p.convert("RGB").resize(after.size), int) for p in (shrunk(before, 512), after)
    )
    return Image.fromarray(np.clip(AMPLIFIED * np.abs(b - a), 0, 255).astype(np.uint8))


def told_change(before: Image.Image, after: Image.Image) -> str:
    """The same as a sentence."""
    share, where = changed(before, after)
    if share < LITTLE:
        return "Nothing that one could see has changed."
    return f"{share:.0%} of the picture changed, most of it {where}."
