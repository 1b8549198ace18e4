"""Pictures in and out: reading any file safely, and one explicit resize plan.

An image is a PIL image in mode RGB; a size is (width, height) in pixels, as in PIL.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps
from torch import Tensor

from minikontext.errors import ConfigError, ImageError, NonFiniteError, ResizeWarning, SizeError

Size = tuple[int, int]

# Anything that PIL decodes by itself. EPS is left out on purpose: PIL hands it to another program.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")

# A small file can unpack into more pixels than the memory holds; a camera stays below this.
MAX_PIXELS = 120_000_000

# The key in `image.info` of the note that `provenance` wrote into a picture's file, and the most
# characters of it. Of all metadata, `read` keeps only this.
NOTE, MAX_NOTE = "minikontext", 1 << 18

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

# ------------------------------------------------------------------------------------- reading


def read(source: object) -> Image.Image:
    """Read a picture into mode RGB: a path, a PIL image, the bytes of a file, or a uint8 array.

    Every mode is converted (palette, grey, CMYK, 16-bit); transparent parts become white, the
    first frame of an animation counts, a camera's rotation and colour profile are applied.
    Arrays are (h, w), (h, w, 3) or (h, w, 4). The source is never changed. Of the file's metadata
    only what `provenance` wrote is kept, unchecked, in `image.info[NOTE]`.
    Raises ImageError for what cannot be read.
    """
    image = _open(source)
    try:
        _check_area(image.size)
        return _decode(image)
    finally:
        if image is not source:
            image.close()  # An animation keeps its file open, which Windows then cannot replace.


def _open(source: object) -> Image.Image:
    if isinstance(source, Image.Image):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, (str, Path)):
        return _open_file(_checked_path(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _open_file(BytesIO(source))
    raise ImageError(
        f"An image was expected, got {type(source).__name__}. "
        "Pass a path, a PIL image, the bytes of a file or a uint8 array."
    )


def _checked_path(source: str | Path) -> Path:
    if str(source).startswith(("http://", "https://")):
        raise ImageError(f"{source} is a web address. Download the picture and pass its path.")
    path = Path(source)
    try:
        what = "" if path.is_file() else "is a folder" if path.is_dir() else "does not exist"
    except OSError as error:  # A prompt in the place of the path is too long to be a name.
        what = f"is no usable name ({error.strerror})"
    if what:
        raise ImageError(f"Cannot read the image {str(path)[:200]}: it {what}.")
    return path


def _open_file(file: Path | BytesIO) -> Image.Image:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(file, formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image {_label(file)} is too large: {error}") from error
    except Exception as error:  # PIL's readers raise nearly anything on a damaged file.
        raise ImageError(
            f"Cannot read {_label(file)} as an image: it is damaged, or of a kind not among "
            f"{', '.join(formats)}. Save it as PNG or JPEG."
        ) from error


def _label(file: Path | BytesIO) -> str:
    return str(file) if isinstance(file, Path) else "the bytes"


def _from_array(array: np.ndarray) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not fits or 0 in array.shape:
        raise ImageError(
            f"Got an array of shape {array.shape} and type {array.dtype}; expected uint8 of shape "
            "(h, w), (h, w, 3) or (h, w, 4)."
        )
    return Image.fromarray(array)


def _check_area(size: Size) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"The image is empty: {width}×{height} pixels.")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"The image has {width}×{height} pixels, more than {MAX_PIXELS / 1e6:.0f} million. "
            "Make it smaller first."
        )


def _decode(image: Image.Image) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on odd metadata help nobody here.
            image.load()  # Of an animation this is the first frame.
            result = _to_rgb(_to_srgb(_upright(image)))
            result.info = {NOTE: note} if (note := _note(image)) else {}
            return result
    except Exception as error:  # As above: a truncated or damaged file can raise anything.
        raise ImageError(
            f"The image cannot be decoded ({error}). It is damaged or cut off: save it again."
        ) from error


def _note(image: Image.Image) -> str:
    """What `provenance` wrote: a text chunk in PNG, EXIF's user comment in JPEG and WebP."""
    text = image.info.get(NOTE)
    if not isinstance(text, str):
        try:
            comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        except Exception:  # As in _upright: metadata that is broken must not cost the picture.
            return ""
        start = b'ASCII\0\0\0{"' + NOTE.encode()  # Others write comments, too.
        ours = isinstance(comment, bytes) and comment.startswith(start)
        text = comment[8:].decode("latin-1") if ours else ""
    return text[: MAX_NOTE + 1]  # One too many says that it was longer.


def _upright(image: Image.Image) -> Image.Image:
    """Apply the camera's rotation; a damaged EXIF block must not cost the user the picture."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply an embedded colour profile, so that the same numbers mean the same colours."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        return ImageCms.profileToProfile(
            image, source, ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    see_through = "transparency" in image.info  # a colour, or an index of a palette
    if image.mode == "RGB" and not see_through:
        return image.copy()
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: more than 8 bits, which convert() would clip.
        return _from_array(_to_8_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or see_through:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Bring 16-bit integers, or floats in [0, 1] or [0, 255], to 0 … 255."""
    most = np.nanmax(values, initial=0)
    if mode == "F":
        scale = 255.0 if most <= 1 else 1.0
    else:
        scale = 1 / 257 if mode != "I" or most > 255 else 1.0
    bytes_ = np.empty(values.shape, np.uint8)
    for row, line in zip(bytes_, values):  # row by row: a large picture takes no more than its own
        row[:] = np.clip(np.nan_to_num(line.astype(np.float64)) * scale, 0, 255).round()
    return bytes_


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

    def warn(self, stacklevel: int = 2, undone: bool = True) -> None:
        """Tell the user about a change, as a ResizeWarning that carries the plan.

        undone: whether a result has this size, too, and the plan is undone on it.
        """
        if self.changed:
            warnings.warn(self.told(undone), ResizeWarning, stacklevel=stacklevel + 1)

    def told(self, undone: bool = True) -> str:
        """The plan in words, with or without its way back."""
        original, working = _show(self.original), _show(self.working)
        if self.method == "none":
            return f"{original}, used as it is"
        if self.method == "pad":
            back = f", and cut back to {original} on output" if undone else ""
            return f"{original} padded to {working}{back}"
        back = f", and back to {original} on output" if undone else ""
        return f"{original} resized to {working}{back}{self._losses()}"

    def __str__(self) -> str:
        return self.told()

    def _losses(self) -> str:
        (width, height), (working_width, working_height) = self.original, self.working
        across, down = working_width / width, working_height / height
        lost = "; fine detail is lost" if min(across, down) < 1 else ""
        return lost + ("; stretched" if max(across, down) > 1.1 * min(across, down) else "")


def plan(
    size: Size,
    mode: str = "kontext",
    multiple: int = 16,
    sizes: tuple[Size, ...] = KONTEXT_SIZES,
    max_pixels: int = 4_194_304,
) -> ResizePlan:
    """Plan how a picture of `size` (width, height) enters the model; decide everything up front.

    mode "kontext": the size among `sizes`, the trained ones, whose aspect ratio is nearest.
    mode "none":    keep the size, padded to the next `multiple` (autoencoder factor × patch).
    Raises SizeError for sizes below 1 and for more than `max_pixels` inside the model.
    """
    if mode not in ("kontext", "none"):
        raise ConfigError(f"resize={mode!r} is not known. Use 'kontext' or 'none'.")
    size = _checked_size(size)
    working = nearest(size, sizes) if mode == "kontext" else snap(size, multiple)
    if any(side % multiple for side in working):
        raise ConfigError(f"The trained size {_show(working)} is no multiple of {multiple}.")
    if working[0] * working[1] > max_pixels:
        raise SizeError(
            f"{_show(working)} is more than the model can hold ({max_pixels} pixels). "
            "Use resize='kontext', or a smaller picture."
        )
    method = "none" if working == size else "resize" if mode == "kontext" else "pad"
    return ResizePlan(size, working, method)


def snap(size: Size, multiple: int) -> Size:
    """Round a size up to the next multiple, so that padding is enough and nothing is cut."""
    width, height = _checked_size(size)
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def nearest(size: Size, sizes: tuple[Size, ...]) -> Size:
    """Pick the trained size whose aspect ratio is nearest to that of `size`, as Kontext does."""
    width, height = _checked_size(size)
    return min(sizes, key=lambda trained: abs(trained[0] / trained[1] - width / height))


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


def _checked_size(size: Size) -> Size:
    width, height = size
    for side in (width, height):
        if isinstance(side, bool) or not isinstance(side, (int, np.integer)) or side < 1:
            raise SizeError(f"Width and height must be whole numbers from 1, got {width}×{height}.")
    return int(width), int(height)


def _check_size(image: Image.Image, expected: Size) -> None:
    if image.size != expected:
        raise SizeError(
            f"The plan is for {_show(expected)}, but the image has {_show(image.size)}."
        )


def _show(size: Size) -> str:
    return f"{size[0]}×{size[1]}"


def _pad(image: Image.Image, size: Size) -> Image.Image:
    """Repeat the last column and row: a black border would be an edge for the model to draw."""
    array = np.asarray(image)  # (h, w, 3)
    right, bottom = size[0] - image.width, size[1] - image.height
    return Image.fromarray(np.pad(array, ((0, bottom), (0, right), (0, 0)), mode="edge"))
