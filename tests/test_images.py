"""Any picture goes in, sizes come back, and a result says how it was made."""

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from minikontext import images
from minikontext.errors import (
    ConfigError,
    ImageError,
    MetadataWarning,
    NonFiniteError,
    ResizeWarning,
    SizeError,
)
from minikontext.images import containers
from minikontext.images.read import UNUSED, _quiet


def gradient(width=48, height=32):
    """A picture in which every pixel differs from its neighbours, so that a shift shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    channels = [columns * 255 / width, rows * 255 / height, (rows + columns) % 256]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def saved(image, tmp_path, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def difference(first, second):
    return np.abs(np.asarray(first, dtype=int) - np.asarray(second, dtype=int)).max()


# ------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("source", ["path", "string", "bytes", "memory", "image", "array"])
def test_read_takes_every_kind_of_source(source, tmp_path):
    picture = gradient()
    path = saved(picture, tmp_path, "a.png")
    kinds = {
        "path": path,
        "string": str(path),
        "bytes": path.read_bytes(),
        "memory": memoryview(path.read_bytes()),
        "image": picture,
        "array": np.asarray(picture),
    }
    result = images.read(kinds[source])
    assert (result.mode, difference(result, picture)) == ("RGB", 0)


@pytest.mark.parametrize("name", ["a.bmp", "a.tiff", "a.webp", "a.ppm", "a.png"])
def test_read_lossless_formats(name, tmp_path):
    path = saved(gradient(), tmp_path, name, **({"lossless": True} if name == "a.webp" else {}))
    assert difference(images.read(path), gradient()) == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK", "YCbCr", "HSV", "LA", "PA"])
def test_read_converts_every_mode(mode):
    result = images.read(gradient().convert(mode))
    assert (result.mode, result.size) == ("RGB", (48, 32))
    expected = gradient().convert(mode).convert("RGB")
    assert difference(result, expected) <= 1


def test_read_leaves_the_source_alone():
    picture = gradient()
    result = images.read(picture)
    result.paste("black", (0, 0, 48, 32))
    assert difference(picture, gradient()) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_parts_become_white(mode, tmp_path):
    picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    path = saved(picture.convert(mode), tmp_path, "a.png")
    result = images.read(path)
    assert result.getpixel((1, 1)) == (0, 0, 0)
    assert result.getpixel((6, 1)) == (255, 255, 255)


def test_a_palette_of_colours_with_opacity_becomes_white():
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    picture.paste((0, 0, 0, 255), (0, 0, 4, 8))
    result = images.read(picture.quantize(4))
    assert (result.getpixel((1, 1)), result.getpixel((6, 1))) == ((0, 0, 0), (255, 255, 255))


@pytest.mark.parametrize(
    ("depth", "colour", "row", "clear"),
    [
        (2, 0, b"\x1b", b"\0\1"),
        (4, 0, b"\x01\x23", b"\0\1"),
        (16, 2, bytes(6) + b"\1\2\3\4\5\6", b"\1\2\3\4\5\6"),
    ],
)
def test_a_value_of_few_or_many_bits_that_stands_for_transparency_becomes_white(
    depth, colour, row, clear
):
    def chunk(name, body):
        crc = zlib.crc32(name + body)
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)

    head = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = (b"IHDR", head), (b"tRNS", clear), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")
    result = images.read(containers.PNG + b"".join(chunk(*part) for part in parts))
    assert result.getpixel((0, 0)) != (255, 255, 255) == result.getpixel((1, 0))


def test_a_grey_of_16_bits_that_stands_for_transparency_becomes_white(tmp_path):
    values = np.full((8, 8), 1000, np.uint16)
    values[:, :4] = 1001
    path = saved(Image.fromarray(values), tmp_path, "a.png", transparency=1000)
    result = images.read(path)
    assert (result.getpixel((1, 1)), result.getpixel((6, 1))) == ((4, 4, 4), (255, 255, 255))


def test_a_colour_that_stands_for_transparency_becomes_white(tmp_path):
    picture = Image.new("RGB", (8, 8), (1, 2, 3))
    picture.paste("red", (0, 0, 4, 8))
    result = images.read(saved(picture, tmp_path, "a.png", transparency=(1, 2, 3)))
    assert result.getpixel((1, 1)) == (255, 0, 0)
    assert result.getpixel((6, 1)) == (255, 255, 255)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_grey_is_scaled_and_not_clipped(dtype, tmp_path):
    ramp = np.linspace(0, 65535, 256).round().astype(dtype)[None].repeat(4, axis=0)
    path = saved(Image.fromarray(ramp), tmp_path, "a.png" if dtype == np.uint16 else "a.tiff")
    values = np.asarray(images.read(path))[0, :, 0]
    assert np.array_equal(values, np.arange(256))


def test_float_picture_is_scaled():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    assert np.array_equal(np.asarray(images.read(Image.fromarray(ramp)))[0, :, 0], np.arange(256))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = saved(frames[0], tmp_path, "a.gif", save_all=True, append_images=frames[1:])
    with pytest.warns(MetadataWarning, match="several pictures"):
        assert images.read(path).getpixel((0, 0)) == (255, 0, 0)
    assert images.read(Image.open(path)).size == (8, 8)  # whoever opened it has chosen one


def test_camera_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees to show
    path = saved(gradient(), tmp_path, "a.png", exif=exif)
    result = images.read(path)
    assert difference(result, gradient().transpose(Image.Transpose.ROTATE_270)) == 0


def test_damaged_exif_costs_nothing(tmp_path):
    path = saved(gradient(), tmp_path, "a.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert difference(images.read(path), gradient()) == 0


def test_damaged_colour_profile_costs_nothing(tmp_path):
    path = saved(gradient(), tmp_path, "a.png", icc_profile=b"no profile")
    assert difference(images.read(path), gradient()) == 0


# ------------------------------------------------------------------- colours that are shown


def profile(space, curve, **primaries):
    """A small ICC profile: matrix and one curve for all channels, or a curve for grey."""

    def number(x):
        return struct.pack(">i", round(x * 65536))

    tags = {
        name.encode(): b"XYZ \0\0\0\0" + b"".join(map(number, xyz))
        for name, xyz in {"wtpt": (0.9642, 1, 0.8249), **primaries}.items()
    }
    names = [b"kTRC"] if space == b"GRAY" else [b"rTRC", b"gTRC", b"bTRC"]
    para = b"para\0\0\0\0" + struct.pack(">HH", 0 if len(curve) == 1 else 3, 0)
    tags |= dict.fromkeys(names, para + b"".join(map(number, curve)))
    tags |= {b"desc": b"mluc\0\0\0\0" + struct.pack(">II", 0, 12)}
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(data))
        body += data + b"\0" * (-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", 132 + len(table) - 4 + len(body), b"", 0x04000000, b"mntr",
                       space, b"XYZ ")  # fmt: skip
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + number(0.9642) + number(1) + number(0.8249)
    return head.ljust(128, b"\0") + table + body


CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # sRGB's, and Display P3's
P3 = profile(
    b"RGB ", CURVE, rXYZ=(0.5151, 0.2412, -0.0011), gXYZ=(0.2920, 0.6922, 0.0419),
    bXYZ=(0.1571, 0.0666, 0.7841),
)  # fmt: skip
LINEAR_GREY = profile(b"GRAY", (1.0,))
ORANGE, AS_SRGB = (230, 60, 40), (251, 31, 12)  # the same colour in both spaces


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "PA", "RGBX"])
@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tiff", None])
def test_a_colour_profile_holds_in_every_mode(mode, name, tmp_path):
    picture = Image.new("RGB", (8, 8), ORANGE)
    exact = picture.quantize(2) if mode in ("P", "PA") else picture  # with a palette of its own
    picture = exact.convert(mode)
    if name is None:
        picture.info["icc_profile"] = P3
    elif mode in ("PA", "RGBX") or (mode == "P" and name == "a.webp"):
        pytest.skip("no file of this kind")
    else:
        options = {"lossless": True} if name == "a.webp" else {}
        picture = saved(picture, tmp_path, name, icc_profile=P3, **options)
    assert difference(images.read(picture).getpixel((3, 3)), AS_SRGB) <= 2


def test_a_profile_holds_under_transparency(tmp_path):
    picture = Image.new("RGBA", (8, 8), (*ORANGE, 128))
    read = images.read(saved(picture, tmp_path, "a.png", icc_profile=P3)).getpixel((3, 3))
    assert difference(read, [c * 128 / 255 + 127 for c in AS_SRGB]) <= 2  # over white


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_profile_holds_for_grey(mode, tmp_path):
    picture = Image.new("L", (8, 8), 64)
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 64 * 257, np.uint16))
    elif mode == "LA":
        picture = picture.convert("LA")
    read = images.read(saved(picture, tmp_path, "a.png", icc_profile=LINEAR_GREY))
    assert difference(read.getpixel((3, 3)), (137, 137, 137)) <= 1  # 0.251 of the light


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("photometric", [0, 1])
def test_a_tiff_whose_0_is_white_is_not_read_as_its_negative(bits, photometric, tmp_path):
    kind = np.uint8 if bits == 8 else np.uint16
    dark = Image.fromarray(np.full((8, 8), 64 if bits == 8 else 64 * 257, kind))
    path = saved(dark, tmp_path, "a.tif", tiffinfo={262: photometric})
    with Image.open(path) as stored:
        assert stored.tag_v2[262] == photometric  # else this tests nothing
    value = {1: 64, 0: 64 if bits == 8 else 191}[photometric]  # PIL itself turns 8 bits on saving
    assert difference(images.read(path).getpixel((3, 3)), (value,) * 3) <= 1


def test_a_profile_of_another_kind_of_picture_costs_nothing(tmp_path):
    path = saved(gradient(), tmp_path, "a.png", icc_profile=LINEAR_GREY)
    assert difference(images.read(path), gradient()) == 0


def with_chunks(data, *chunks):
    """A PNG file with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def png_chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def png_bytes(picture=None):
    buffer = BytesIO()
    (picture or gradient()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("gamma", "more", "expected"),
    [
        (100_000, (), 137),  # linear: a viewer shows 64 of 255 as it shows 137 of sRGB
        (45_455, (), 64),  # sRGB's own
        (0, (), 64),
        (4_000_000_000, (), 64),  # absurd: left out, as viewers do
        (100_000, (png_chunk(b"sRGB", b"\0"),), 64),  # which goes first
    ],
)
def test_a_gamma_is_applied_as_viewers_do(gamma, more, expected):
    flat = png_bytes(Image.new("RGB", (8, 8), (64, 64, 64)))
    data = with_chunks(flat, png_chunk(b"gAMA", struct.pack(">I", gamma)), *more)
    assert difference(images.read(data).getpixel((3, 3)), (expected,) * 3) <= 1


# ---------------------------------------------------- a sound picture with broken metadata


BROKEN = [
    png_chunk(b"tEXt", b"a\0b", crc=7),
    png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 10**8)),
    png_chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 10**7)),
    png_chunk(b"pHYs", b"1"),
    png_chunk(b"gAMA", b"1"),
    png_chunk(b"sRGB", b""),
    png_chunk(b"tRNS", b"1"),
    png_chunk(b"cHRM", b"1"),
    png_chunk(b"tIME", b"", crc=1),
]


@pytest.mark.parametrize("chunk", BROKEN, ids=lambda chunk: chunk[4:8].decode())
@pytest.mark.filterwarnings("ignore::minikontext.errors.MetadataWarning")
def test_a_sound_png_is_not_refused_for_its_metadata(chunk, tmp_path):
    data = with_chunks(png_bytes(), chunk)
    assert difference(images.read(data), gradient()) == 0
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    assert difference(images.read(tmp_path / "a.png"), gradient()) == 0


def test_metadata_that_is_left_out_is_told():
    with pytest.warns(MetadataWarning, match="broken and is left out"):
        images.read(with_chunks(png_bytes(), BROKEN[0]))


def test_what_is_left_out_costs_no_transparency(tmp_path):
    picture = Image.new("P", (8, 8), 0)
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (0, 0, 4, 8))
    path = saved(picture, tmp_path, "a.png", transparency=1)
    with pytest.warns(MetadataWarning):
        read = images.read(with_chunks(path.read_bytes(), BROKEN[0]))
    assert read.getpixel((1, 1)) == (255, 255, 255) and read.getpixel((6, 1)) == (255, 0, 0)


@pytest.mark.parametrize("name", ["a.jpg", "a.webp"])
def test_the_pixels_of_a_bare_file_are_the_same(name, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "secret"
    path = saved(gradient(), tmp_path, name, exif=exif, icc_profile=b"secret", quality=90)
    data = containers.bare(path.read_bytes())
    assert b"secret" not in data and b"secret" in path.read_bytes()
    assert difference(images.read(data), images.read(path)) == 0


@pytest.mark.parametrize(
    ("marker", "body"),
    [
        (0xE0, b"JFIF\0"),
        (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\xff" * 40),
        (0xE2, b"MPF\0II*\0\x08\0\0\0\xff\xff" + b"\xff" * 40),
        (0xE2, b"ICC_PROFILE\0\x05\x02abc"),
        (0xED, b"Photoshop 3.0\0008BIM" + b"\xff" * 10),
        (0xEE, b"Adobe"),
    ],
)
@pytest.mark.filterwarnings("ignore::minikontext.errors.MetadataWarning")
def test_a_sound_jpeg_is_not_refused_for_its_metadata(marker, body):
    buffer = BytesIO()
    gradient().save(buffer, "JPEG")
    data = buffer.getvalue()
    broken = data[:2] + bytes([255, marker]) + struct.pack(">H", len(body) + 2) + body + data[2:]
    assert difference(images.read(broken), images.read(data)) == 0


def gif_with(more):
    buffer = BytesIO()
    gradient().save(buffer, "GIF")
    data = buffer.getvalue()
    at = 13 + (3 << (data[10] & 7) + 1)
    return data[:at] + more + data[at:]


@pytest.mark.parametrize("kind", ["chunks", "segments", "filling", "comments", "comment", "zeros",
                                  "words", "blanks"])  # fmt: skip
def test_a_file_of_endless_small_parts_is_refused(kind):
    jpeg = many_scans(0)
    data = {
        "chunks": lambda: with_chunks(png_bytes(), png_chunk(b"tEXt", b"a\0") * 120_000),
        "segments": lambda: jpeg[:2] + b"\xff\xfe\0\2" * 120_000 + jpeg[2:],
        "filling": lambda: jpeg[:2] + b"\xff" * 200_000 + jpeg[2:],
        "comments": lambda: gif_with(b"!\xfe\1x\0" * 120_000),
        "comment": lambda: gif_with(b"!\xfe" + b"\1x" * 120_000 + b"\0"),
        "zeros": lambda: gif_with(bytes(120_000)),
        "words": lambda: b"P6 4 4 #" + b"x" * 70_000 + b"\n255\n" + bytes(48),
        "blanks": lambda: b"P5 4" + b" " * 70_000 + b"4 255\n" + bytes(16),
    }[kind]()
    with pytest.raises(ImageError, match="more than 100000 parts"):
        images.read(data)


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    path = saved(gradient(), tmp_path, "a.png")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(ImageError, match=r"You may not read .*a\.png"):
        images.read(path)


def test_damaged_pixels_stay_an_error(tmp_path):
    data = bytearray(png_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    with pytest.raises(ImageError, match="damaged"):
        images.read(with_chunks(bytes(data), BROKEN[0]))


# ------------------------------------------------------------------------ HEIC, and endless work


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40


def test_heic_is_named(tmp_path):
    (tmp_path / "IMG_1.HEIC").write_bytes(HEIC)
    for source in (HEIC, tmp_path / "IMG_1.HEIC"):
        with pytest.raises(ImageError, match="HEIC picture: pip install pillow-heif"):
            images.read(source)


def test_heic_is_opened_where_an_opener_is_registered(monkeypatch):
    class Opener(ImageFile.ImageFile):
        format = "HEIF"

        def _open(self):
            self._size, self._mode = (4, 4), "RGB"

        def load(self):
            self.im = Image.new("RGB", (4, 4), "red").im
            return Image.Image.load(self)

    for name in ("OPEN", "MIME", "EXTENSION"):
        monkeypatch.setattr(Image, name, dict(getattr(Image, name)))
    monkeypatch.setattr(Image, "ID", list(Image.ID))
    Image.init()
    Image.register_open("HEIF", Opener, lambda head: head[4:8] == b"ftyp")
    assert images.read(HEIC).getpixel((1, 1)) == (255, 0, 0)


def many_scans(count, side=64):
    """A progressive JPEG whose last scan is repeated."""
    buffer = BytesIO()
    gradient(side, side).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_a_progressive_jpeg_is_read_and_an_endless_one_is_not(tmp_path):
    assert images.read(many_scans(0)).size == (64, 64)
    assert images.read(many_scans(50)).size == (64, 64)
    for source in (many_scans(2000), saved_bytes(many_scans(150), tmp_path)):
        with pytest.raises(ImageError, match="more than 100 scans"):
            images.read(source)


def saved_bytes(data, tmp_path):
    (tmp_path / "a.jpg").write_bytes(data)
    return str(tmp_path / "a.jpg")


@pytest.mark.parametrize("magic", ["P1", "P2", "P3"])
def test_numbers_in_letters_are_read_of_small_pictures_only(magic):
    levels = b"" if magic == "P1" else b"1 "
    head, count = magic.encode() + b" 4 2 " + levels, 24 if magic == "P3" else 8
    assert images.read(head + b"1 " * count).size == (4, 2)
    with pytest.raises(ImageError, match="each of its many pixels is read by itself"):
        images.read(magic.encode() + b" 2000 1001 " + levels + b"1 ")


def runs(width, height):
    """A BMP of rows of one run each, the rest of the row left out."""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, 0, 0, 0, 256, 0)
    head = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + head + bytes(range(256)) * 4
    return head + b"\1\1\0\0" * height


@pytest.mark.parametrize("kind", ["runs", "16 bits", "odd levels"])
def test_pixels_that_are_read_one_by_one_are_read_of_small_pictures_only(kind):
    """Ten thousand pixels a side in runs are 43 kB, and 20 seconds of a loop in Python."""
    make = {
        "runs": runs,
        "16 bits": lambda w, h: b"P6 %d %d 65535\n" % (w, h) + bytes(6 * min(w * h, 99)),
        "odd levels": lambda w, h: b"P5 %d %d 254\n" % (w, h) + bytes(min(w * h, 99)),
    }[kind]
    assert images.read(make(8, 4)).size == (8, 4)
    with pytest.raises(ImageError, match="each of its many pixels is read by itself"):
        images.read(make(2000, 1001))


def test_numbers_beyond_what_a_screen_shows_are_refused_and_dark_ones_stay_dark(tmp_path):
    for values in (np.float32([[0.5, 3.0]]), np.int32([[0, 70_000]]), np.int32([[-5, 900]])):
        with pytest.raises(ImageError, match="Bring it to 8 bits"):
            images.read(saved(Image.fromarray(values), tmp_path, "a.tiff"))
    dark = images.read(b"P5 2 1 65535\n" + struct.pack(">2H", 0, 255))
    assert list(dark.getdata()) == [(0, 0, 0), (1, 1, 1)]


def test_scans_are_counted_in_the_picture_alone():
    data = many_scans(3)
    exif = b"\xff\xe1" + struct.pack(">H", 2 + 400) + b"\xff\xda" * 200  # a preview's, or noise
    assert containers.count_scans(data, 1000) == containers.count_scans(
        data[:2] + exif + data[2:] + b"\xff\xda" * 500, 1000
    )
    assert containers.count_scans(many_scans(900), 10) == 11


# ------------------------------------------------------------------------- threads, and terminals


def test_reading_in_threads_leaves_warnings_as_they_were():
    data = png_bytes(gradient(200, 200))
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(images.read, [data] * 200))
    assert list(warnings.filters) == before


def test_a_list_of_filters_that_comes_and_goes_meanwhile_keeps_nothing():
    before = list(warnings.filters)
    quiet, user = _quiet(), warnings.catch_warnings()
    quiet.__enter__()
    user.__enter__()
    warnings.simplefilter("error")
    inner = list(warnings.filters)
    quiet.__exit__(None, None, None)
    assert len(warnings.filters) < len(inner)
    user.__exit__(None, None, None)
    assert list(warnings.filters) == before


def test_warnings_of_others_are_heard_while_a_picture_is_read():
    with pytest.warns(UserWarning, match="mine"), _quiet():
        warnings.warn("mine", UserWarning, stacklevel=1)


EVIL = "a\x1b[2J\n\u202ebc\u2028\x9b"


def test_a_name_is_never_printed_as_it_is(tmp_path):
    (tmp_path / f"{EVIL}.png").write_bytes(b"no picture")
    for source in (tmp_path / f"{EVIL}.png", f"missing{EVIL}", f"https://{EVIL}"):
        with pytest.raises(ImageError) as caught:
            images.read(source)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000)])
def test_extreme_sizes_are_read(size, tmp_path):
    path = saved(Image.new("RGB", size, "red"), tmp_path, "a.png")
    assert images.read(path).size == size


# ----------------------------------------------------------------------------------- bad input


def png_claiming(width, height):
    """A PNG of a few bytes whose header promises width × height pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [12_000, 20_000])
def test_decompression_bomb_is_refused_before_it_unpacks(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="too large|more than 120 million"):
            images.read(png_claiming(side, side))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_truncated_file(name, share, tmp_path):
    path = saved(gradient(200, 200), tmp_path, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match="damaged"):
        images.read(path)


@settings(max_examples=60, deadline=None)
@given(position=st.floats(0, 1), value=st.integers(0, 255))
def test_a_damaged_byte_raises_image_error_or_nothing(position, value):
    buffer = BytesIO()
    gradient().save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[min(int(position * len(data)), len(data) - 1)] = value
    with suppress(ImageError):
        assert images.read(bytes(data)).mode == "RGB"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"", "damaged"),
        (b"this is text", "damaged"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "damaged"),
        ("missing.png", "does not exist"),
        ("x" * 5000, "no usable name"),
        (".", "is a folder"),
        ("https://example.org/a.png", "web address"),
        (None, "got NoneType"),
        (7, "got int"),
        ([1, 2], "got list"),
        (np.zeros((4, 4, 3)), "expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "expected uint8"),
        (np.zeros((0, 4, 3), np.uint8), "expected uint8"),
        (Image.new("RGB", (0, 5)), "empty"),
    ],
)
def test_wrong_sources_say_what_was_expected(source, words):
    with pytest.raises(ImageError, match=words):
        images.read(source)


# -------------------------------------------------------------------------- images and tensors


def test_every_pixel_value_survives_the_tensor():
    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    tensor = images.to_tensor(Image.fromarray(values))
    assert tensor.shape == (1, 3, 16, 16)
    assert (tensor.min(), tensor.max(), tensor.dtype) == (-1, 1, torch.float32)
    assert difference(images.to_pil(tensor)[0], values) == 0


def test_tensor_keeps_rows_columns_and_channels_apart():
    picture = gradient(48, 32)
    tensor = images.to_tensor([picture, picture])
    assert tensor.shape == (2, 3, 32, 48)
    red, green, blue = picture.getpixel((40, 5))
    expected = torch.tensor([red, green, blue]) / 127.5 - 1
    assert torch.equal(tensor[1, :, 5, 40], expected)


def test_to_pil_clips_and_refuses_nan():
    picture = images.to_pil(torch.full((1, 3, 2, 2), 5.0, dtype=torch.bfloat16))[0]
    assert picture.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(NonFiniteError):
        images.to_pil(torch.full((1, 3, 2, 2), float("nan")))


def test_batches_need_one_size():
    with pytest.raises(SizeError, match="one size"):
        images.to_tensor([gradient(16, 16), gradient(16, 32)])
    with pytest.raises(SizeError):
        images.to_tensor([])
    with pytest.raises(SizeError, match="shape"):
        images.to_pil(torch.zeros(3, 8, 8))


# ------------------------------------------------------------------------------ the resize plan


def test_kontext_sizes_are_the_published_ones():
    sizes = images.KONTEXT_SIZES
    assert len(set(sizes)) == 17
    assert set(sizes) == {(height, width) for width, height in sizes}
    assert all(side % 16 == 0 for size in sizes for side in size)
    assert all(abs(width * height / 1024**2 - 1) < 0.02 for width, height in sizes)


@pytest.mark.parametrize("size", images.KONTEXT_SIZES)
def test_a_trained_size_is_used_as_it_is(size):
    plan = images.plan(size)
    assert (plan.working, plan.changed, plan.method) == (size, False, "none")


@pytest.mark.parametrize(
    ("size", "working"),
    [
        ((1024, 768), (1184, 880)),
        ((768, 1024), (880, 1184)),
        ((1920, 1080), (1392, 752)),
        ((512, 512), (1024, 1024)),
        ((1, 1), (1024, 1024)),
        ((20_000, 10), (1568, 672)),
        ((10, 20_000), (672, 1568)),
    ],
)
def test_nearest_aspect_ratio_wins(size, working):
    assert images.plan(size).working == working


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 300),
    height=st.integers(1, 300),
    multiple=st.sampled_from([2, 8, 16, 32]),
    mode=st.sampled_from(["kontext", "none"]),
)
def test_a_plan_always_fits_the_model_and_gives_the_size_back(width, height, multiple, mode):
    sizes = images.sizes_near(64, 64, multiple)
    plan = images.plan((width, height), mode, multiple, sizes)
    inside = plan.apply(gradient(width, height))
    assert inside.size == plan.working
    assert all(side % multiple == 0 and side > 0 for side in plan.working)
    assert plan.undo(inside).size == (width, height)


@pytest.mark.parametrize("size", [(1, 1), (63, 65), (64, 64), (100, 31)])
def test_padding_moves_no_pixel(size):
    picture = gradient(*size)
    plan = images.plan(size, "none")
    inside = plan.apply(picture)
    assert difference(inside.crop((0, 0, *size)), picture) == 0
    assert difference(plan.undo(inside), picture) == 0
    assert inside.getpixel((plan.working[0] - 1, 0)) == picture.getpixel((size[0] - 1, 0))


def test_resizing_keeps_the_content_in_place():
    picture = gradient(60, 66)
    plan = images.plan((60, 66), "kontext", 16, ((64, 64),))
    back = plan.undo(plan.apply(picture))
    inner = (slice(6, -6), slice(6, -6), slice(0, 2))  # the smooth channels, away from the border
    assert difference(np.asarray(back)[inner], np.asarray(picture)[inner]) <= 3


def test_a_change_is_said_and_no_change_is_not():
    with pytest.warns(ResizeWarning, match="100×50 resized to 96×48.*back to 100×50.*detail"):
        images.plan((100, 50), "kontext", 16, images.sizes_near(64, 64, 16)).warn()
    with pytest.warns(ResizeWarning, match="60×60 padded to 64×64.*cut back to 60×60"):
        images.plan((60, 60), "none").warn()
    with pytest.warns(ResizeWarning, match="stretched"):
        images.plan((500, 50), "kontext", 16, ((64, 64),)).warn()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images.plan((64, 64), "none").warn()


def test_sizes_near_are_centred_and_symmetric():
    sizes = images.sizes_near(64, 64, 16)
    assert (64, 64) in sizes
    assert set(sizes) == {(height, width) for width, height in sizes}
    assert list(sizes) == sorted(sizes, key=lambda size: size[0] / size[1])
    assert images.sizes_near(16, 16, 16) == ((16, 16),)


@pytest.mark.parametrize("size", [(0, 8), (8, -1), (8.5, 8), (True, 8), ("8", 8)])
def test_sizes_below_one_and_no_numbers(size):
    with pytest.raises(SizeError, match="whole numbers from 1"):
        images.plan(size)


def test_too_large_for_the_model():
    with pytest.raises(SizeError, match="more than the model can hold"):
        images.plan((20_000, 20_000), "none")
    assert images.plan((20_000, 20_000)).working == (1024, 1024)


def test_wrong_modes_lists_and_pictures():
    with pytest.raises(ConfigError, match="'kontext' or 'none'"):
        images.plan((8, 8), "crop")
    with pytest.raises(ConfigError, match="no multiple of 16"):
        images.plan((8, 8), "kontext", 16, ((60, 60),))
    with pytest.raises(SizeError, match="plan is for 64×64"):
        images.plan((64, 64), "none").apply(gradient(32, 32))
    with pytest.raises(SizeError, match="plan is for 64×64"):
        images.plan((60, 60), "none").undo(gradient(60, 60))


P3_POINTS = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
SRGB_POINTS = struct.pack(">8I", *containers.SRGB_POINTS)


@pytest.mark.parametrize(
    ("chunk", "told"),
    [(("cHRM", P3_POINTS), "cHRM"), (("cICP", b"\x0c\x10\0\1"), "cICP 12, 16"),
     (("cHRM", SRGB_POINTS), ""), (("cICP", b"\1\r\0\1"), ""), (("cHRM", b"1"), "")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["path", "bytes"])
def test_colours_that_no_profile_names_are_told(tmp_path, chunk, told, kind):
    path = saved(gradient(), tmp_path, "a.png")
    name, content = chunk
    path.write_bytes(with_chunks(png_bytes(), png_chunk(name.encode(), content)))
    source = path if kind == "path" else path.read_bytes()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert difference(images.read(source), gradient()) == 0
    said = [str(one.message) for one in said if "not sRGB" in str(one.message)]
    assert len(said) == bool(told) and all(f"({told}): they are taken for" in one for one in said)
    assert images.odd_colours(source) == told
    if content != b"1":  # a picture that somebody else has opened
        assert images.odd_colours(Image.open(path)) == ("primaries" if told == "cHRM" else "")


ODD_PROFILES = ("grey", "Lab", "half", "junk", "packed wrongly", "one part of two")


@pytest.mark.parametrize("how", ODD_PROFILES)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_a_profile_that_cannot_be_used_is_told(how, mode, tmp_path):
    picture = Image.new("RGB", (8, 8), ORANGE).quantize(2)
    picture = picture if mode == "P" else picture.convert("RGB").convert(mode)
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    odd = {"grey": LINEAR_GREY, "Lab": lab, "half": P3[:200], "junk": b"junk" * 50}.get(how, P3)
    name = "a.jpg" if how == "one part of two" and mode in ("RGB", "L") else "a.png"
    path = saved(picture, tmp_path, name, icc_profile=odd)
    data, fits = path.read_bytes(), (how, mode) == ("grey", "L")
    if name == "a.jpg":
        data = data.replace(b"ICC_PROFILE\0\1\1", b"ICC_PROFILE\0\1\2")
    elif how in ("packed wrongly", "one part of two"):
        at = data.find(b"iCCP")
        size = int.from_bytes(data[at - 4 : at], "big")
        chunk = png_chunk(b"iCCP", data[at + 4 : at + 14] + bytes(size - 10))
        data = data[: at - 4] + chunk + data[at + size + 8 :]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got = images.read(data).getpixel((3, 3))
    told = [str(one.message) for one in said if UNUSED in str(one.message)]
    assert len(told) == (not fits) and (fits or difference(got, picture.convert("RGB").getpixel(
        (3, 3))) <= 2)  # fmt: skip
    assert images.odd_colours(data) == ("" if fits else told[0].partition("(")[2].partition(")")[0])


def test_a_profile_of_jpeg_2000_and_of_bmp_is_told():
    """PIL does not read them: colours that they name are taken for sRGB."""
    files = {}
    for format_, options in (("JPEG2000", {}), ("BMP", {})):
        file = BytesIO()
        Image.new("RGB", (8, 8), ORANGE).save(file, format_, **options)
        files[format_] = file.getvalue()
    assert not any(map(images.odd_colours, files.values()))
    jp2 = files["JPEG2000"].replace(b"colr\1\0\0\0\0\0\x10", b"colr\2\0\0\0\0\0\x10")
    pixels = files["BMP"][54:]
    head = struct.pack("<IiiHHIIiiII", 124, 8, 8, 1, 24, 0, len(pixels), 1, 1, 0, 0) + bytes(16)
    bmp = {name: b"BM" + struct.pack("<IHHI", 138 + len(pixels), 0, 0, 138) + head + name
           + bytes(64) + pixels for name in (b"DEBM", b"BGRs")}  # fmt: skip
    for data, told in ((jp2, "colr of JPEG 2000"), (bmp[b"DEBM"], "a profile in BMP")):
        with pytest.warns(MetadataWarning, match=told):
            assert difference(images.read(data).getpixel((3, 3)), ORANGE) <= 1
    assert images.odd_colours(bmp[b"BGRs"]) == ""


def test_adobe_rgb_is_told_where_only_exif_says_it(tmp_path):
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    path = saved(gradient(), tmp_path, "a.jpg", exif=exif)
    with pytest.warns(MetadataWarning, match="not sRGB.*Adobe RGB in EXIF"):
        images.read(path)
    assert images.odd_colours(saved(gradient(), tmp_path, "b.jpg")) == ""
