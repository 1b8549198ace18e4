"""Pictures that are damaged, huge, odd or lie about themselves, and the past that they tell."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from mutate import broken_bytes, broken_json, odd
from PIL import Image

from minikontext import images
from minikontext.errors import ImageError, MinikontextError
from minikontext.images import inspect, provenance

MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16")
WRITERS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "ICO", "JPEG2000")


def gradient(side=24):
    rows, columns = np.mgrid[0:side, 0:side]
    return Image.fromarray(np.stack([rows * 9, columns * 9, rows + columns], -1).astype(np.uint8))


def in_mode(mode):
    if mode == "I;16":
        return Image.fromarray(np.asarray(gradient().convert("L")).astype(np.uint16) * 257)
    return gradient().convert(mode)


@pytest.fixture(scope="module")
def sound():
    """One small file of every format and mode that PIL writes, animations and tags included."""
    made = []
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 100
    for kind in WRITERS:
        for mode in MODES:
            picture = in_mode(mode)
            for more in ({}, {"exif": exif, "icc_profile": b"no profile"}):
                file = io.BytesIO()
                try:
                    picture.save(file, kind, **more)
                except (OSError, ValueError, TypeError, KeyError):  # not every format has each mode
                    continue
                made.append(file.getvalue())
    frames = [gradient().rotate(90 * i) for i in range(3)]
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        made.append(file.getvalue())
    return made


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks, depth=8, colour=2, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    end = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


def absurd(rng):
    """A few bytes that promise a picture without measure, or text without end."""
    side = rng.choice((0, 1, 10_000, 11_000, 16_383, 20_000, 65_535, 2**31 - 1, 2**32 - 1))
    other = rng.choice((0, 1, side, 65_535))
    text = zlib.compress(b"x" * rng.choice((10, 2**20, 2**26)))
    return rng.choice(
        (
            lambda: png(side, other, depth=rng.choice((1, 8, 16)), colour=rng.choice((0, 2, 3, 6))),
            lambda: png(8, 8, chunk(b"zTXt", b"a\0\0" + text), data=b"\0" * 200),
            lambda: png(8, 8, chunk(b"iTXt", b"a\0\1\0\0\0" + text), data=b"\0" * 200),
            lambda: png(8, 8, chunk(b"iCCP", b"a\0\0" + text), data=b"\0" * 200),
            lambda: b"GIF89a" + struct.pack("<HH", side % 65_536, other % 65_536) + b"\x80" * 9,
            lambda: b"P6 %d %d 255\n" % (side, other),
            lambda: b"P3 %d %d 255\n1 2 3" % (side, other),
            lambda: b"BM" + struct.pack("<IIIIii", 99, 0, 54, 40, side % 2**31, other % 2**31),
            lambda: b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + rng.randbytes(6) + b"ANIM",
            lambda: _tiff(rng, side, other),
            lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        )
    )()


def _tiff(rng, width, height):
    """A TIFF whose tags are counted by a liar."""
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, rng.choice((1, 2**31)), 8), (277, 3, 1, rng.choice((1, 300)))]
    tags += [(278, 4, 1, height), (279, 4, rng.choice((1, 2**31)), 2**31 - 1)]
    body = b"".join(struct.pack("<HHII", *(x % 2**32 for x in tag)) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + b"\0\0\0\0"


def test_a_picture_file(feed, sound):
    def make(rng, folder):
        kind = rng.random()
        data = absurd(rng) if kind < 0.1 else broken_bytes(rng, rng.choice(sound), 2)
        if rng.random() < 0.4:
            return data
        path = folder / f"picture.{rng.choice(('png', 'jpg', 'gif', 'txt'))}"
        path.write_bytes(data)
        return path

    def run(given, out):
        picture = images.read(given)
        assert picture.mode == "RGB" and picture.width * picture.height <= images.MAX_PIXELS

    feed("image file", make, run, mebibytes=900)


def test_an_object_that_may_be_a_picture(feed):
    def array(rng):
        kind = rng.choice((np.uint8, np.float32, np.int64, bool, object, np.uint16))
        return np.zeros([rng.choice((0, 1, 3, 4, 7)) for _ in range(rng.randrange(5))], kind)

    def make(rng, folder):
        return rng.choice((array, odd, odd, lambda rng: Image.new(rng.choice(MODES), (0, 3))))(rng)

    feed("image object", make, lambda given, out: images.read(given), accepts=0)


def test_what_a_picture_tells_of_its_past(feed):
    """The metadata of a picture may be anybody's: it is read, refused, or carried on."""
    made = provenance.Provenance("make the hat red", seed="1", steps="8", weights="toy")
    sound = [provenance.encode(gradient(), made, suffix) for suffix in (".png", ".jpg", ".webp")]
    note = json.loads(provenance.Note(made, (24, 24), ("0" * 8,) * 64).text())

    def make(rng, folder):
        path = folder / "picture.png"
        if rng.random() < 0.4:
            path.write_bytes(broken_bytes(rng, rng.choice(sound), 2))
        else:
            text = broken_json(rng, note).decode("latin-1")
            file = io.BytesIO()
            info = provenance.PngImagePlugin.PngInfo()
            info.add_itxt(provenance.NOTE, text)
            gradient().save(file, "PNG", pnginfo=info)
            path.write_bytes(file.getvalue())
        return path

    def run(path, out):
        try:
            inspect.inspect(path)
        except MinikontextError:
            provenance.read(path)
            raise
        provenance.save(images.read(path), out / "again.png", made)

    feed("provenance", make, run)


# ------------------------------------------------------------------------------------- regressions


@pytest.mark.parametrize("side", [12_000, 20_000, 65_535, 2**31 - 1])
def test_a_decompression_bomb_is_refused_for_its_size(side):
    with pytest.raises(ImageError, match="too large|million|damaged"):
        images.read(png(side, side))


def test_16_bits_take_no_more_than_the_picture_itself(feed):
    """Once every pixel became several 8-byte numbers at the same time."""
    import tracemalloc

    values = np.full((2000, 2000), 7, np.uint16)
    tracemalloc.start()
    images.read(Image.fromarray(values))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * values.size, f"{peak / values.size:.1f} bytes a pixel"
