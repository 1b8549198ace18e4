"""Reading any picture file safely into RGB."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from minikontext.errors import ImageError
from minikontext.images.resize import Size

# Anything that PIL decodes by itself. EPS is left out on purpose: PIL hands it to another program.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000")

# A small file can unpack into more pixels than the memory holds; a camera stays below this.
MAX_PIXELS = 120_000_000

# The key in `image.info` of the note that `provenance` wrote into a picture's file, and the most
# characters of it. Of all metadata, `read` keeps only this.
NOTE, MAX_NOTE = "minikontext", 1 << 18


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
