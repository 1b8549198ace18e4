"""Reading any picture file safely into RGB."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps

from minikontext.errors import ImageError, MetadataWarning, warn
from minikontext.images import containers
from minikontext.images.resize import Size
from minikontext.runtime.log import printable

# Anything that PIL decodes by itself, and HEIF if somebody has registered an opener. EPS is left
# out on purpose: PIL hands it to another program.
FORMATS = (
    "PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "ICO", "JPEG2000", "HEIF",
)  # fmt: skip

# A small file can unpack into more pixels than the memory holds; a camera stays below this.
MAX_PIXELS = 120_000_000
MAX_SCANS, MAX_WORK = 100, 2_000_000_000  # of a progressive JPEG; pixels times scans
ONE_BY_ONE, MAX_PLAIN = ("ppm_plain", "ppm", "bmp_rle"), 2_000_000  # decoders in Python; pixels
MAX_BYTES = 1 << 30  # of a file that is looked at as a whole
PIPE = "is a pipe or a device: pass its bytes (on the command line, through stdin: -)"

# The key in `image.info` of the note that `provenance` wrote into a picture's file, and the most
# characters of it. Of all metadata, `read` keeps only this.
NOTE, MAX_NOTE = "minikontext", 1 << 18


# ------------------------------------------------------------------------------------- reading
def read(source: object) -> Image.Image:
    """Read a picture into mode RGB: a path, a PIL image, the bytes of a file, or a uint8 array.

    Every mode is converted (palette, grey, CMYK, 16-bit); transparent parts become white, the
    first frame of an animation counts (and that is told), a camera's rotation and colour profile
    are applied.
    Arrays are (h, w), (h, w, 3) or (h, w, 4). The source is never changed. Of the file's metadata
    only what `provenance` wrote is kept, unchecked, in `image.info[NOTE]`.
    Metadata that is broken is left out, with a MetadataWarning; so it is told where colours other
    than sRGB are named without a profile: they are taken for sRGB.
    Raises ImageError for what cannot be read.
    """
    _check_parts(source)
    try:
        return _read(source)
    except ImageError:
        picture = _read_bare(source)
        if picture is None:
            raise
        warn(MetadataWarning("The file's metadata is broken and is left out; its pixels are not."))
        return picture


def _read(source: object) -> Image.Image:
    with _opened(source) as image:
        _check_area(image.size)
        _check_work(image, source)
        picture = _decode(image, source)
        if _holds_several(image, source):
            warn(MetadataWarning(f"The file holds {SEVERAL}. Save the one that you mean."))
        if found := _odd_colours(image, source):
            warn(MetadataWarning(
                f"The picture's colours are not sRGB, or nobody can say ({found}): they are taken "
                "for sRGB, and may look paler. Save it with a profile, or in sRGB."
            ))  # fmt: skip
        return picture


def _read_bare(source: object) -> Image.Image | None:
    """The picture of a file without its metadata; None if that does not help."""
    data = containers.bare(content(source))
    try:
        return _read(data) if data else None
    except ImageError:
        return None


def odd_colours(source: object) -> str:
    """How a picture names colours that `read` takes for sRGB although they are not; else nothing.

    Nothing is also said of what opens without its metadata only: `read` tells that.
    """
    with suppress(ImageError), _opened(source) as image:
        return _odd_colours(image, source)
    return ""


def remarks(source: object) -> list[str]:
    """Why a viewer may show something else than what `read` gives of a file."""
    found = []
    with suppress(ImageError), _opened(source) as image:
        if _holds_several(image, source):
            found.append(f"it holds {SEVERAL}")
        if colours := _odd_colours(image, source):
            found.append(f"its colours are named by {colours}, which is not applied here")
    return found


SEVERAL = "several pictures (an animation, or pages), of which only the first is looked at"


def _holds_several(image: Image.Image, source: object) -> bool:
    """Whether a file holds more than one picture to look at; an MPO's others are a camera's."""
    try:
        other = image is source or image.format == "MPO"
        return not other and getattr(image, "is_animated", False)
    except Exception:  # GIF looks for the second one, which may be damaged.
        return True


def _odd_colours(image: Image.Image, source: object) -> str:
    data = content(source, -1 if image.format == "PNG" else 1 << 16)
    if found := containers.odd_colours(data):
        return found
    if profile := image.info.get("icc_profile"):
        return "" if _is_used(profile, image.mode) else UNUSED
    if containers.has_profile(data):
        return UNUSED
    try:
        exif = image.getexif()
        inside = exif.get_ifd(ExifTags.IFD.Exif)
        if exif.get_ifd(ExifTags.IFD.Interop).get(1) == "R03" or inside.get(0xA001) == 2:
            return "Adobe RGB in EXIF"
        points = [*exif.get(318, ()), *exif.get(319, ())]  # TIFF's white point and primaries
        if not data and "srgb" not in image.info:  # opened by somebody else
            points += image.info.get("chromaticity", ())
        if points and not containers.is_srgb([1e5 * float(x) for x in points]):
            return "primaries"
    except Exception:  # As in _upright: metadata that is broken must not cost the picture.
        pass
    return ""


UNUSED = "a profile that is broken, or of another kind of picture"


def _is_used(profile: object, mode: str) -> bool:
    """Whether a profile can be applied to pictures of a mode; Lab's own need none."""
    grey = mode[0] in "1LIF" and mode != "LAB"
    of_mode = Image.new("L" if grey else "CMYK" if mode == "CMYK" else "RGB", (1, 1))
    return mode == "LAB" or _with_profile(of_mode, profile) is not None


def content(source: object, most: int = -1) -> bytes:
    """The bytes of a file, or its first `most`; none of what is no file, or too large a one."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source if most < 0 else source[:most])
    try:
        path = Path(source) if isinstance(source, (str, Path)) else None
        fits = path is not None and path.is_file() and path.stat().st_size <= MAX_BYTES
        if not fits:
            return b""
        with path.open("rb") as file:
            return file.read(most)
    except (OSError, ValueError):
        return b""


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide PIL's remarks on odd metadata, which help nobody here.

    `warnings.catch_warnings` puts the filters back that it found: with two threads in it at once,
    those of the other one, for good. This takes out the one that it put in.
    """
    entry, filters = ("ignore", None, Warning, PILS, 0), warnings.filters
    with _LOCK:
        filters.insert(0, entry)
    try:
        yield
    finally:
        with _LOCK:
            for some in (filters, warnings.filters):  # Somebody may have exchanged the list.
                some[:] = [one for one in some if one is not entry]


_LOCK, PILS = Lock(), re.compile(r"(PIL|minikontext\.images\.read)(\.|$)")


@contextmanager
def _opened(source: object) -> Iterator[Image.Image]:
    image = _open(source)
    try:
        yield image
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
        name = printable(str(source), 200)
        raise ImageError(f"{name} is a web address. Download the picture and pass its path.")
    path = Path(source)
    try:
        there = PIPE if path.exists() else "does not exist"
        what = "" if path.is_file() else "is a folder" if path.is_dir() else there
    except OSError as error:  # A prompt in the place of the path is too long to be a name.
        what = f"is no usable name ({error.strerror})"
    if what:
        raise ImageError(f"Cannot read the image {printable(str(path), 200)}: it {what}.")
    return path


def _open_file(file: Path | BytesIO) -> Image.Image:
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with _quiet():
            return Image.open(file, formats=formats)
    except PermissionError as error:
        text = f"You may not read {_label(file)}. Allow it (chmod u+r), or copy it."
        raise ImageError(text) from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image {_label(file)} is too large: {error}") from error
    except Exception as error:  # PIL's readers raise nearly anything on a damaged file.
        raise ImageError(_not_readable(file, formats)) from error


def _not_readable(file: Path | BytesIO, formats: list[str]) -> str:
    head = content(file if isinstance(file, Path) else file.getbuffer(), 64)
    if containers.is_heic(head):
        return (
            f"{_label(file)} is a HEIC picture: pip install pillow-heif, and call "
            "pillow_heif.register_heif_opener() before; or save it as PNG or JPEG."
        )
    return (
        f"Cannot read {_label(file)} as an image: it is damaged, or of a kind not among "
        f"{', '.join(formats)}. Save it as PNG or JPEG."
    )


def _label(file: Path | BytesIO) -> str:
    return printable(str(file), 200) if isinstance(file, Path) else "the bytes"


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


def _check_parts(source: object) -> None:
    """Refuse a file of so many small parts that reading them takes longer than any picture."""
    known = (containers.PNG, containers.JPEG, containers.GIF, *containers.PPM)
    if content(source, 8).startswith(known) and containers.has_too_many_parts(content(source)):
        raise ImageError(
            f"The picture's file has more than {containers.MAX_PARTS} parts. Save it again with "
            "another program."
        )


def _check_work(image: Image.Image, source: object) -> None:
    """Refuse a JPEG file that goes over its pixels again and again, and what is read one by one."""
    slow = any(part[0] in ONE_BY_ONE for part in getattr(image, "tile", ()))
    if slow and image.width * image.height > MAX_PLAIN:
        raise ImageError("The picture is stored so that each of its many pixels is read by itself, "
                         "which takes too long. Save it as PNG.")  # fmt: skip
    if image.format not in ("JPEG", "MPO") or isinstance(source, Image.Image):
        return
    most = min(MAX_SCANS, max(20, MAX_WORK // (image.width * image.height)))
    if containers.count_scans(content(source), most) > most:
        raise ImageError(
            f"The picture is stored in more than {most} scans, which would take too long to "
            "decode. Save it again with another program."
        )


def _decode(image: Image.Image, source: object) -> Image.Image:
    try:
        with _quiet():
            clear = _clear_value(image)
            image.load()  # Of an animation this is the first frame.
            upright = _upright(image)
            if image.format == "PPM" and image.mode == "I":  # always of 16 bits, however dark
                upright = Image.fromarray(np.asarray(upright).astype(np.uint16))
            if image.mode[:4] == "I;16" and getattr(image, "tag_v2", {}).get(262) == 0:
                # A TIFF's 0 may be white (PhotometricInterpretation); PIL turns 8 bits, not 16.
                upright = Image.fromarray(np.uint16(65535) - np.asarray(upright).astype(np.uint16))
            if clear is not None and upright is not image:
                upright.info["transparency"] = clear
            result = _to_rgb(upright)
            result.info = {NOTE: note} if (note := _note(image)) else {}
            return result
    except Exception as error:  # As above: a truncated or damaged file can raise anything.
        what = _label(Path(source)) if isinstance(source, (str, Path)) else "The image"
        raise ImageError(
            f"{what} cannot be decoded ({printable(str(error), 200)}). It is damaged or cut off: "
            "save it again."
        ) from error


def _clear_value(image: Image.Image) -> object:
    """The value of a PNG that is transparent, as its pixels will have it; None where they do.

    PIL brings pixels of 2, 4 and 3 × 16 bits to 8 as it loads them, and leaves this value.
    """
    clear, tiles = image.info.get("transparency"), getattr(image, "tile", ())
    raw = tiles[0][3] if image.format == "PNG" and tiles else None
    if raw == "RGB;16B" and isinstance(clear, tuple):
        return tuple(value >> 8 for value in clear)
    factor = {"L;2": 85, "L;4": 17}.get(raw) if isinstance(raw, str) else None
    return clear * factor if factor and isinstance(clear, int) else None


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


def _to_rgb(image: Image.Image) -> Image.Image:
    """Colours as sRGB, in three channels; what is transparent becomes white."""
    colour, alpha = _split(image)
    colour = _to_srgb(colour, image.info)
    if alpha is None:
        return colour.copy() if colour is image else colour
    return Image.composite(colour, Image.new("RGB", colour.size, "white"), alpha)


def _split(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Colours in one of the modes L, RGB and CMYK, which profiles know, and their opacity."""
    image = image.convert("LA") if image.mode == "La" else image
    if image.mode[0] in "IF":  # I, I;16, I;16B, F: more than 8 bits, which convert() would clip.
        values, clear = np.asarray(image), image.info.get("transparency")
        alpha = Image.fromarray(np.uint8(255) * (values != clear)) if clear is not None else None
        return _from_array(_to_8_bits(values, image.mode)), alpha
    grey = image.mode in ("1", "L", "LA", "La")
    if image.has_transparency_data:  # a channel, one colour, or some of a palette's
        layer = image.convert("RGBA")
        return layer.getchannel("R") if grey else layer.convert("RGB"), layer.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK"):
        return image, None
    return image.convert("L" if grey else "RGB"), None


def _to_srgb(colour: Image.Image, info: dict) -> Image.Image:
    """Apply an embedded profile or a gamma, so that the same numbers mean the same colours."""
    if managed := _with_profile(colour, info.get("icc_profile")):
        return managed
    colour = colour.convert("RGB") if colour.mode != "RGB" else colour
    gamma = info.get("gamma") if not {"srgb", "icc_profile"} & info.keys() else None
    if not isinstance(gamma, float) or not 0.1 <= gamma <= 10 or abs(2.2 * gamma - 1) < 0.05:
        return colour  # None, an absurd one (viewers leave it out), or sRGB's own: 1 / 2.2
    table = [round(255 * (value / 255) ** (1 / (2.2 * gamma))) for value in range(256)]
    return colour.point(table * 3)


def _with_profile(colour: Image.Image, profile: object) -> Image.Image | None:
    """The colours in sRGB; None without a profile that is sound and of their kind."""
    if not isinstance(profile, bytes):
        return None
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip())
        if (mode, colour.mode) == ("RGB", "L"):  # of a picture that was made grey afterwards
            colour = colour.convert("RGB")
        if mode != colour.mode:
            return None
        return ImageCms.profileToProfile(colour, source, _SRGB, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


_SRGB = ImageCms.createProfile("sRGB")


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Bring 16-bit integers, or floats in [0, 1] or [0, 255], to 0 … 255."""
    most = values.max(initial=0)
    if mode == "F":
        if odd := np.count_nonzero(~np.isfinite(values)):
            raise ImageError(f"{odd:,} of its pixels are NaN or infinite. Give them colours first.")
        scale = 255.0 if most <= 1 else 1.0
        odd = 1 < most < 16  # more light than a screen has; what is in 0 to 255 has more
    else:
        odd = most > 65535 or values.min(initial=0) < 0
        scale = 1 / 257 if mode != "I" or most > 255 else 1.0
    if odd:
        raise ImageError(f"Its numbers go up to {most:g}, or below 0. Bring it to 8 bits first.")
    bytes_ = np.empty(values.shape, np.uint8)
    for row, line in zip(bytes_, values):  # row by row: a large picture takes no more than its own
        row[:] = np.clip(line.astype(np.float64) * scale, 0, 255).round()
    return bytes_
