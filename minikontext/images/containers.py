"""What surrounds the pixels in a file: chunks, segments, scans. Nothing here decodes a picture."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice, takewhile

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
GIF, PPM = b"GIF8", tuple(b"P%d" % number for number in range(1, 7))
JP2 = b"\0\0\0\x0cjP  "
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# The chunks and segments without which the same pixels would look otherwise.
PNG_KEPT = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sRGB")
JPEG_DROPPED = {0xFE, 0xEF, *range(0xE0, 0xEE)}  # comments and APP0 to 15, but not Adobe's APP14
ADOBE, ADOBE_BYTES = 0xEE, 16  # how colours are stored; shorter ones say nothing
WEBP_DROPPED = (b"EXIF", b"XMP ", b"ICCP")

# In the pixels' data a marker is FF with anything behind it but 0, FF or a restart.
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
SOS, EOI = 0xDA, 0xD9
MAX_PARTS, MAX_FILLING = 100_000, 1 << 16  # parts of a file; bytes between two of them


def is_heic(head: bytes) -> bool:
    """Whether a file that begins like this is HEIC, as phones write it."""
    return head[4:8] == b"ftyp" and (head[8:12] in HEIC or any(b in head[16:64] for b in HEIC))


def bare(data: bytes) -> bytes | None:
    """The same picture without metadata, for a file whose metadata is broken; None if unknown."""
    if data.startswith(PNG):
        colour = data[25] if len(data) > 25 else 0
        return PNG + b"".join(_png_piece(*chunk, colour) for chunk in png_chunks(data))
    if data.startswith(JPEG):
        return _bare_jpeg(data)
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _bare_webp(data)
    return None


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The chunks of a PNG file: name, content, checksum. Those that are whole."""
    position = len(PNG)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 <= len(data):
            yield name, data[position + 8 : end], data[end : end + 4]
        position = end + 4


def _png_piece(name: bytes, body: bytes, crc: bytes, colour: int) -> bytes:
    lengths = {b"gAMA": (4,), b"sRGB": (1,)}
    lengths[b"tRNS"] = {0: (2,), 2: (6,), 3: range(1, 257)}.get(colour, ())
    if name not in PNG_KEPT or len(body) not in lengths.get(name, (len(body),)):
        return b""
    if name[:1].islower():  # Only what is critical proves by its checksum that it is sound.
        crc = struct.pack(">I", zlib.crc32(name + body))
    return struct.pack(">I", len(body)) + name + body + crc


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG file: marker, where it begins and ends, its pixels' data included."""
    position = 2
    while match := MARKER.search(data, position):
        begin, kind = match.start(), data[match.start() + 1]
        if kind == EOI or begin + 4 > len(data):
            return
        end = begin + 2 + int.from_bytes(data[begin + 2 : begin + 4], "big")
        if kind == SOS:
            following = MARKER.search(data, end)
            end = following.start() if following else len(data)
        yield kind, begin, end
        position = max(end, begin + 2)


PPM_BLANKS = re.compile(rb"#[^\r\n]*")


def gif_blocks(data: bytes) -> Iterator[int]:
    """Where pieces of a GIF file begin that are no pixels, up to its second picture."""
    at, pictures = 13, 0
    at += 3 << (data[10] & 7) + 1 if len(data) > 10 and data[10] & 128 else 0
    while at < len(data) and data[at] != 0x3B and pictures < 2:
        shows = data[at] == 0x2C  # else an extension, or nothing
        if not shows and data[at] != 0x21:
            yield at
            at += 1
            continue
        pictures += shows
        colours = data[at + 9] if shows and at + 9 < len(data) else 0
        at += 11 + (3 << (colours & 7) + 1 if colours & 128 else 0) if shows else 2
        while at < len(data) and data[at]:
            if not shows:
                yield at
            at += 1 + data[at]
        at += 1


def has_too_many_parts(data: bytes) -> bool:
    """Whether a PNG, JPEG, GIF or PPM file has more parts, or more filling, than any needs."""
    if data.startswith(PPM):  # four words; comments and blanks are read byte by byte
        return len(data) > MAX_FILLING and len(PPM_BLANKS.sub(b" ", data[:MAX_FILLING]).split()) < 4
    if data.startswith((PNG, GIF)):
        parts = png_chunks(data) if data.startswith(PNG) else gif_blocks(data)
        return next(islice(parts, MAX_PARTS, None), None) is not None
    last = 2
    for index, (_, begin, end) in enumerate(jpeg_segments(data)):
        if index >= MAX_PARTS or begin - last > MAX_FILLING:
            return True
        last = end
    return False


def count_scans(data: bytes, most: int) -> int:
    """How often a JPEG file goes over its pixels; counting ends above `most`."""
    scans = 0
    for kind, _, _ in jpeg_segments(data):
        scans += kind == SOS
        if scans > most:
            break
    return scans


def _bare_jpeg(data: bytes) -> bytes:
    kept = [JPEG]  # joined once: a file may have very many segments
    for kind, begin, end in jpeg_segments(data):
        if kind == SOS:  # From here on as it is: a file that is cut off stays so.
            kept.append(data[begin:])
            break
        if kind not in JPEG_DROPPED and (kind != ADOBE or end - begin >= ADOBE_BYTES):
            kept.append(data[begin:end])
    return b"".join(kept)


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a WebP file, those that are whole: name and content."""
    position = 12
    while position + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, position)
        if position + 8 + length <= len(data):
            yield name, data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _bare_webp(data: bytes) -> bytes:
    pieces = []
    for name, body in webp_chunks(data):
        if name == b"VP8X" and body:  # Its flags announce what is left out here.
            body = bytes([body[0] & ~0x2C]) + body[1:]
        if name not in WEBP_DROPPED:
            pieces.append(name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    content = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(content)) + content


# White, red, green and blue of sRGB as cHRM has them: x and y, times 100 000.
SRGB_POINTS = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)


def odd_colours(data: bytes) -> str:
    """By what a file says that its colours are not sRGB, where no profile says it; else nothing.

    PNG's cICP (which goes before a profile) and cHRM, and the nclx of AVIF and HEIC: primaries and
    curve by their numbers in H.273, of which 1 and 13 are sRGB's.
    """
    if data.startswith(PNG):
        before = takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data))
        chunks = {name: body for name, body, _ in before}
        if (cicp := chunks.get(b"cICP", b"")[:2]) and cicp != b"\1\r":
            return f"cICP {cicp[0]}, {cicp[-1]}"
        points = chunks.get(b"cHRM", b"")
        known = cicp or chunks.keys() & {b"sRGB", b"iCCP"} or len(points) != 32
        return "" if known or is_srgb(struct.unpack(">8I", points)) else "cHRM"
    if data.startswith(JP2):
        at = data.find(b"colr")  # a number of a known space, or a profile, which PIL does not read
        kind = data[at + 4 : at + 11] if at > 0 else b"\1"
        known = kind[:1] == b"\1" and kind[-1:] in (b"\1", b"\x10", b"\x11", b"\x12")
        return "" if known else "colr of JPEG 2000"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in (108, 124):
        return "a profile in BMP" if data[70:74] in (b"DEBM", b"KNIL") else ""
    at = data.find(b"colrnclx") if data[4:8] == b"ftyp" and b"colrprof" not in data else -1
    if at < 0 or len(data) < at + 12:
        return ""
    primaries, curve = struct.unpack_from(">2H", data, at + 8)
    usual = primaries in (1, 2) and curve in (1, 2, 6, 13)
    return "" if usual else f"nclx {primaries}, {curve}"


def has_profile(data: bytes) -> bool:
    """Whether the beginning of a PNG or JPEG file holds a profile, or a part of one."""
    if data.startswith(PNG):
        return any(name == b"iCCP" for name, *_ in png_chunks(data))
    return data.startswith(JPEG) and b"ICC_PROFILE\0" in data


def is_srgb(points: Sequence[float]) -> bool:
    """Whether eight coordinates, times 100 000, are those of sRGB but for rounding."""
    return all(abs(got - own) < 500 for got, own in zip(points, SRGB_POINTS, strict=True))
