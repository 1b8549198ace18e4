"""Pictures in and out.

    read         any picture file, safely, into RGB
    containers   what surrounds the pixels in a file
    tensors      pictures to tensors and back
    resize       one explicit resize plan and its inverse
    provenance   how a result was made, written into its file
    change       how much of a picture changed, and where
    inspect      what a file says of itself, and whether its pixels have changed
    watermark    an invisible mark in the pixels

The functions that everybody needs are also here: `images.read(...)`, `images.plan(...)`.
"""

from minikontext import lazy
from minikontext.images.read import FORMATS, MAX_NOTE, MAX_PIXELS, NOTE, odd_colours, read
from minikontext.images.resize import (
    KONTEXT_SIZES,
    ResizePlan,
    Size,
    beside,
    nearest,
    of_several_areas,
    plan,
    sizes_near,
    snap,
)
from minikontext.images.tensors import as_rgb, data_url, png_bytes, shrunk, to_pil, to_tensor

__all__ = [
    "FORMATS", "KONTEXT_SIZES", "MAX_NOTE", "MAX_PIXELS", "NOTE", "ResizePlan", "Size", "as_rgb",
    "beside", "data_url", "nearest", "odd_colours",
    "of_several_areas", "plan", "png_bytes", "read", "shrunk",
    "sizes_near", "snap", "to_pil", "to_tensor",
]  # fmt: skip

MODULES = (
    "change", "containers", "inspect", "provenance", "read", "resize", "tensors", "watermark",
)  # fmt: skip
__getattr__ = lazy(__name__, MODULES, {})
