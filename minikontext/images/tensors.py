"""Pictures to tensors and back."""

from __future__ import annotations

import base64
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minikontext.errors import NonFiniteError, SizeError


# -------------------------------------------------------------------------- images and tensors
def as_rgb(image: Image.Image) -> Image.Image:
    """The picture itself if it is RGB, else a converted copy."""
    return image if image.mode == "RGB" else image.convert("RGB")


def to_tensor(images: Image.Image | list[Image.Image]) -> Tensor:
    """Turn RGB images of one size into a float32 tensor (b, 3, h, w) in [-1, 1]."""
    images = [images] if isinstance(images, Image.Image) else images
    sizes = sorted({image.size for image in images})
    if len(sizes) != 1:
        raise SizeError(f"A batch needs images of one size, got {sizes or 'no image'}.")
    array = np.stack([np.asarray(as_rgb(image)) for image in images])  # (b, h, w, 3)
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """Turn pixels (b, 3, h, w) in [-1, 1] into RGB images; values outside are clipped.

    Raises NonFiniteError for NaN and infinity, which would otherwise become black spots.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        raise SizeError(f"Expected pixels of shape (b, 3, h, w), got {tuple(pixels.shape)}.")
    pixels = pixels.detach().float().cpu()
    if not pixels.isfinite().all():
        raise NonFiniteError("The pixels contain NaN or infinity: nothing to show. Try float32.")
    bytes_ = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(array) for array in bytes_.permute(0, 2, 3, 1).contiguous().numpy()]


def png_bytes(image: Image.Image) -> bytes:
    """Give a picture as the bytes of a plain PNG, to be shown."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_url(image: Image.Image) -> str:
    """Give a picture as an address that holds all of it, for a page."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def shrunk(image: Image.Image, side: int) -> Image.Image:
    """A picture whose longer side has at most `side` pixels, to be shown; itself if it has."""
    if max(image.size) <= side:
        return image
    width, height = (max(1, round(n * side / max(image.size))) for n in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)
