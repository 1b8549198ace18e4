"""An invisible watermark: 64 bits in the pixels themselves, for when the metadata is taken out.

It says "this came from minikontext" and nothing else, through the package invisible-watermark
(`pip install -e ".[watermark]"`; method dwtDctSvd). What it survives is measured by
`python benchmarks/watermark.py`: neither cropping nor another size, and nobody who wants it gone.
"""

from __future__ import annotations

import hashlib
from types import ModuleType

import numpy as np
from PIL import Image

from minikontext.errors import MissingPackageError, SizeError

METHOD = "dwtDctSvd"
MIN_PIXELS = 256 * 256  # the package's own limit
BITS = np.unpackbits(np.frombuffer(hashlib.sha256(b"minikontext").digest()[:8], np.uint8))

# Of 64 independent bits, 52 or more are right by chance in one of four million pictures.
ENOUGH = 52


def check(size: tuple[int, int]) -> None:
    """Say before the work whether a picture (width, height) can be marked.

    Raises SizeError below 256 × 256 pixels, and MissingPackageError without the package.
    """
    if size[0] * size[1] < MIN_PIXELS:
        raise SizeError(
            f"A watermark needs {MIN_PIXELS} pixels, such as 256×256; the picture has "
            f"{size[0]}×{size[1]}. Leave it unmarked: its metadata says how it was made."
        )
    _package()


def mark(image: Image.Image) -> Image.Image:
    """Give a copy of a picture with the watermark in it; what its metadata says comes along.

    Raises SizeError below 256 × 256 pixels, and MissingPackageError without the package.
    """
    check(image.size)
    encoder = _package().WatermarkEncoder()
    encoder.set_watermark("bits", BITS.tolist())
    values = np.clip(encoder.encode(_to_array(image), METHOD), 0, 255).round()
    marked = Image.fromarray(np.ascontiguousarray(values.astype(np.uint8)[:, :, ::-1]))
    marked.info = dict(image.info)
    return marked


def agreement(image: Image.Image) -> int:
    """Count the bits, of 64, in which a picture agrees with the watermark; about 32 by chance.

    Raises SizeError below 256 × 256 pixels, and MissingPackageError without the package.
    """
    check(image.size)
    decoder = _package().WatermarkDecoder("bits", len(BITS))
    return int((np.asarray(decoder.decode(_to_array(image), METHOD)) == BITS).sum())


def describe(image: Image.Image) -> str:
    """Say in words whether the watermark is found, or why it cannot be there.

    Raises MissingPackageError without the package.
    """
    try:
        right = agreement(image)
    except SizeError:
        return f"cannot be there: a picture below {MIN_PIXELS} pixels holds none."
    found = "found" if right >= ENOUGH else "not found, which proves nothing"
    return f"{found} ({right} of {len(BITS)} bits; chance gives about {len(BITS) // 2})."


def _to_array(image: Image.Image) -> np.ndarray:
    """BGR as OpenCV wants it, and float32: with bytes, strong colours overflow on the way."""
    return np.asarray(image.convert("RGB"))[:, :, ::-1].astype(np.float32)


def _package() -> ModuleType:
    try:
        import imwatermark
    except ImportError as error:  # Also where OpenCV does not find the system's libGL.
        raise MissingPackageError(
            f'A watermark needs invisible-watermark: pip install -e ".[watermark]" ({error})'
        ) from error
    return imwatermark
