"""One explicit resize plan: how a picture enters the model, and how its result comes back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from minikontext.errors import ConfigError, ResizeWarning, SizeError, warn
from minikontext.runtime.bounds import shown

Size = tuple[int, int]

# The sizes that Kontext was trained on, from the tallest to the widest: 17 of about 1024 x 1024.
KONTEXT_SIZES: tuple[Size, ...] = (
    (672, 1568),
    (688, 1504),
    (720, 1456),
    (752, 1392),
    (800, 1328),
    (832, 1248),
    (880, 1184),
    (944, 1104),
    (1024, 1024),
    (1104, 944),
    (1184, 880),
    (1248, 832),
    (1328, 800),
    (1392, 752),
    (1456, 720),
    (1504, 688),
    (1568, 672),
)


# ------------------------------------------------------------------------------ the resize plan
@dataclass(frozen=True)
class ResizePlan:
    """How a picture of size `original` enters the model at size `working`, and how it comes back.

    original: size of the user's picture, and of the result.
    working:  size inside the model, a multiple of what the model can cut into tokens.
    method:   "none", "resize" (stretched to the new size; small at trained sizes) or "pad" (edge
              pixels repeated at the right and the bottom, cut off again: no pixel moves).
    """

    original: Size
    working: Size
    method: str

    @property
    def changed(self) -> bool:
        """Whether the picture is changed at all on its way into the model."""
        return self.method != "none"

    def apply(self, image: Image.Image) -> Image.Image:
        """Bring a picture of size `original` to size `working`."""
        _check_size(image, self.original)
        if self.method == "pad":
            return _pad(image, self.working)
        if self.method == "resize":
            return image.resize(self.working, Image.Resampling.LANCZOS)
        return image

    def undo(self, image: Image.Image) -> Image.Image:
        """Bring a result of size `working` back to size `original`."""
        _check_size(image, self.working)
        if self.method == "pad":
            return image.crop((0, 0, *self.original))
        if self.method == "resize":
            return image.resize(self.original, Image.Resampling.LANCZOS)
        return image

    def warn(self, undone: bool = True) -> None:
        """Tell the user about a change, as a ResizeWarning that carries the plan.

        undone: whether a result has this size, too, and the plan is undone on it.
        """
        if self.changed:
            warn(ResizeWarning(self.describe(undone)))

    def describe(self, undone: bool = True) -> str:
        """The plan in words, with or without its way back."""
        original, working = show_size(self.original), show_size(self.working)
        if self.method == "none":
            return f"{original}, used as it is"
        if self.method == "pad":
            back = f", and cut back to {original} on output" if undone else ""
            return f"{original} padded to {working}{back}"
        back = f", and back to {original} on output" if undone else ""
        return f"{original} resized to {working}{back}{self._losses()}"

    def __str__(self) -> str:
        return self.describe()

    def _losses(self) -> str:
        (width, height), (working_width, working_height) = self.original, self.working
        across, down = working_width / width, working_height / height
        lost = "; fine detail is lost" if min(across, down) < 1 else ""
        return lost + ("; stretched" if max(across, down) > 1.1 * min(across, down) else "")


def check_mode(mode: str) -> None:
    """Raise ConfigError for a mode that `plan` does not know."""
    if mode not in ("kontext", "none"):
        raise ConfigError(f"resize={mode!r} is not known. Use 'kontext' or 'none'.")


def plan(
    size: Size,
    mode: str = "kontext",
    multiple: int = 16,
    sizes: tuple[Size, ...] = KONTEXT_SIZES,
    max_pixels: int = 4_194_304,
    target: Size | None = None,
) -> ResizePlan:
    """Plan how a picture of `size` (width, height) enters the model; decide everything up front.

    mode "kontext": the size among `sizes`, the trained ones, whose aspect ratio is nearest.
    mode "none":    keep the size, padded to the next `multiple` (autoencoder factor × patch).
    target: the size of the result, for a picture that the result is made from; see `beside`.
    Raises SizeError for sizes below 1 and for more than `max_pixels` inside the model.
    """
    check_mode(mode)
    size = checked_size(size)
    working = snap(size, multiple)
    if mode == "kontext":
        working = beside(size, snap(target, multiple), sizes) if target else nearest(size, sizes)
    if any(side % multiple for side in working):
        raise ConfigError(f"The trained size {show_size(working)} is no multiple of {multiple}.")
    if working[0] * working[1] > max_pixels:
        raise SizeError(
            f"{show_size(working)} is more than the model can hold ({max_pixels} pixels). "
            "Use resize='kontext', or a smaller picture."
        )
    method = "none" if working == size else "resize" if mode == "kontext" else "pad"
    return ResizePlan(size, working, method)


def snap(size: Size, multiple: int) -> Size:
    """Round a size up to the next multiple, so that padding is enough and nothing is cut."""
    width, height = checked_size(size)
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


# Trained sizes whose areas differ by less than this factor are one family, as Kontext's 17 are.
SAME_AREA = 1.7


def nearest(size: Size, sizes: tuple[Size, ...]) -> Size:
    """Pick the trained size whose aspect ratio is nearest to that of `size`, as Kontext does.

    Of weights trained on several areas, only sizes about as large as the picture are asked; of
    those with one aspect ratio the nearest in area wins.
    """
    width, height = checked_size(size)

    def apart(trained: Size) -> float:
        ratio = trained[0] * trained[1] / (width * height)
        return max(ratio, 1 / ratio)

    closest = min(map(apart, sizes))
    family = [trained for trained in sizes if apart(trained) <= SAME_AREA * closest]
    return min(family, key=lambda one: (abs(one[0] / one[1] - width / height), apart(one)))


# Up to this factor between aspect ratios a picture is rather stretched than seen at another size.
STRETCH = 1.3


def beside(size: Size, target: Size, sizes: tuple[Size, ...]) -> Size:
    """Pick the size at which weights see a picture of `size` whose result has the size `target`.

    The real model's sizes are one family: all pictures have one scale, whatever they are brought
    to. Weights of several areas copy well from a picture of the result's size, and badly from any
    other (docs/lineage.md). There a picture of nearly the result's aspect ratio is brought to it.
    """
    ratio = size[0] * target[1] / (size[1] * target[0])
    if of_several_areas(sizes) and max(ratio, 1 / ratio) <= STRETCH:
        return target
    return nearest(size, sizes)


def of_several_areas(sizes: tuple[Size, ...]) -> bool:
    """Whether trained sizes are more than one family; Kontext's 17 are one."""
    areas = [width * height for width, height in sizes]
    return max(areas) > SAME_AREA * min(areas)


def sizes_near(width: int, height: int, multiple: int, widest: float = 7 / 3) -> tuple[Size, ...]:
    """List the sizes of about width × height pixels whose sides are multiples of `multiple`.

    What KONTEXT_SIZES is for 1024 × 1024, for a model of another size: from the tallest to the
    widest, no aspect ratio beyond `widest`, which is Kontext's own limit.
    """
    area = width * height / multiple**2  # in cells of multiple × multiple pixels
    sides = range(1, int((area * widest) ** 0.5) + 1)
    pairs = {(side, max(1, round(area / side))) for side in sides}
    pairs |= {(second, first) for first, second in pairs}
    fitting = [pair for pair in pairs if max(pair) <= widest * min(pair)]
    fitting.sort(key=lambda pair: pair[0] / pair[1])
    return tuple((columns * multiple, rows * multiple) for columns, rows in fitting)


def checked_size(size: Size) -> Size:
    """A size of whole numbers from 1. Raises SizeError."""
    width, height = size
    for side in (width, height):
        whole = isinstance(side, (int, np.integer)) and not isinstance(side, bool)
        if not whole or not 1 <= side < 2**31:
            got = f"{shown(width)}×{shown(height)}"
            raise SizeError(f"Width and height must be whole numbers from 1, got {got}.")
    return int(width), int(height)


def _check_size(image: Image.Image, expected: Size) -> None:
    if image.size != expected:
        raise SizeError(
            f"The plan is for {show_size(expected)}, but the image has {show_size(image.size)}."
        )


def show_size(size: Size) -> str:
    """A size in words: 64×48."""
    return f"{size[0]}×{size[1]}"


def _pad(image: Image.Image, size: Size) -> Image.Image:
    """Repeat the last column and row: a black border would be an edge for the model to draw."""
    array = np.asarray(image)  # (h, w, 3)
    right, bottom = size[0] - image.width, size[1] - image.height
    return Image.fromarray(np.pad(array, ((0, bottom), (0, right), (0, 0)), mode="edge"))
