"""How a picture was made: written into its file, carried on by every further edit, and checked.

A file holds one JSON note: {"minikontext": 1, "edits": [first … last], "size": …, "tiles": …}, in
a text chunk of PNG or in EXIF's user comment of JPEG and WebP. Nothing in it is signed: the
checksums show accidents and edits with other programs, not forgery.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageDraw, PngImagePlugin

import minikontext
from minikontext import images
from minikontext.errors import ImageError, MetadataError, MetadataWarning, OutputError
from minikontext.files import replacing
from minikontext.images import MAX_NOTE, NOTE, Size

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
VERSION = 1

GRID = 8  # columns and rows of tiles that have a checksum of their own
DIGITS = 8  # hex digits of a tile's checksum: enough for accidents
MAX_EXIF = 60_000  # characters; JPEG holds no more than 65 533 bytes in one place
JPEG_QUALITY = 95

TEXTS = ("prompt", "negative_prompt", "seed", "steps", "guidance", "weights", "software")
HASHES = ("weights_sha256", "pixels")
FLAGS = ("private", "cut", "withheld")
MAX_CONTEXTS = 64

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as in PIL


@dataclass(frozen=True)
class Provenance:
    """How a picture was made, last edit first: what is needed to make it again. Empty: not known.

    private:  the prompts were withheld when the file was written.
    cut:      a text was too long for the file and was shortened.
    withheld: a safety filter put a grey card in the place of the result.
    contexts: checksum of every picture that the edit looked at; "" for latents without a picture.
    pixels:   checksum of the result; "" where it was written with loss.
    history:  the edits before this one, first to last, as the first context told them.
    left_out: how many edits before these had no room in a file.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: str = ""
    steps: str = ""
    guidance: str = ""
    weights: str = ""
    weights_sha256: str = ""
    software: str = f"minikontext {minikontext.__version__}"
    private: bool = False
    cut: bool = False
    withheld: bool = False
    contexts: tuple[str, ...] = ()
    pixels: str = ""
    history: tuple[Provenance, ...] = ()
    left_out: int = 0

    @property
    def known(self) -> bool:
        """Whether it tells of an edit at all."""
        return any((self.prompt, self.seed, self.weights))

    @property
    def edits(self) -> tuple[Provenance, ...]:
        """Every known edit, first to last, this one included."""
        return (*self.history, *([replace(self, history=(), left_out=0)] if self.known else []))


@dataclass(frozen=True)
class Source:
    """A picture that an edit looks at: the checksum of its pixels, and how it was made if known."""

    pixels: str = ""
    made: Provenance | None = None


def checksum(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, in hex digits; no matter in which file it is."""
    size = f"{image.width}x{image.height}".encode()
    return hashlib.sha256(size + images.as_rgb(image).tobytes()).hexdigest()


def source(picture: Image.Image) -> Source:
    """Describe a picture that `images.read` gave; metadata that is broken is a MetadataWarning."""
    try:
        return Source(checksum(picture), of(picture))
    except MetadataError as error:
        warnings.warn(MetadataWarning(f"The history is not carried on. {error}"), stacklevel=2)
        return Source(checksum(picture))


def after(made: Provenance, sources: Sequence[Source]) -> Provenance:
    """Put an edit behind the history of its first picture; of the others keep the checksum."""
    before = (sources[0].made if sources else None) or Provenance()
    contexts = tuple(source.pixels for source in sources)
    return replace(made, contexts=contexts, history=before.edits, left_out=before.left_out)


# ------------------------------------------------------------------------------------ the note


@dataclass(frozen=True)
class Note:
    """What stands in a file: how the picture was made, and checksums of `size` pixels by tiles.

    tiles: GRID × GRID of them, or fewer for the smallest pictures; none if written with loss.
    """

    made: Provenance
    size: Size
    tiles: tuple[str, ...] = ()

    def text(self) -> str:
        """Give the note as JSON in ASCII, which every format can hold."""
        fields: dict[str, Any] = {NOTE: VERSION, "edits": [_to_json(e) for e in self.made.edits]}
        fields |= {"left_out": self.made.left_out, "size": self.size, "tiles": "".join(self.tiles)}
        return json.dumps(fields)

    @classmethod
    def parse(cls, text: str) -> Note:
        """Read a note from a file that anybody may have written.

        Raises MetadataError that says what is wrong with it.
        """
        fields = _parse_json(text)
        edits = [_from_json(edit) for edit in _field(fields, "edits", list)]
        made = edits.pop() if edits else Provenance()
        left_out = _count(fields, "left_out")
        size = _field(fields, "size", list)
        if len(size) != 2 or not all(type(side) is int and 0 < side < 1 << 24 for side in size):
            raise _broken(f"size is {size!r:.60}")
        made = replace(made, history=tuple(edits), left_out=left_out)
        return cls(made, (size[0], size[1]), _tiles_from(_field(fields, "tiles", str), size))


def _to_json(edit: Provenance) -> dict[str, Any]:
    names = (*TEXTS, *HASHES, *FLAGS, "contexts")
    return {name: value for name in names if (value := getattr(edit, name))}


def _parse_json(text: str) -> dict[str, Any]:
    if len(text) > MAX_NOTE:
        raise _broken(f"it is longer than {MAX_NOTE} characters")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"it is no JSON ({str(error)[:80]})") from error
    if not isinstance(fields, dict) or type(version := fields.get(NOTE)) is not int:
        raise _broken("it lacks its version")
    if version != VERSION:
        raise MetadataError(
            f"The metadata has version {version}, and this minikontext reads version {VERSION}. "
            "Use the one that wrote it."
        )
    return fields


def _from_json(edit: object) -> Provenance:
    if not isinstance(edit, dict):
        raise _broken(f"an edit is {edit!r:.60}")
    texts = {name: _field(edit, name, str, "") for name in TEXTS}
    hashes = {name: _hash(_field(edit, name, str, ""), name) for name in HASHES}
    flags = {name: _field(edit, name, bool, False) for name in FLAGS}
    contexts = _field(edit, "contexts", list, [])
    if len(contexts) > MAX_CONTEXTS:
        raise _broken(f"an edit has {len(contexts)} contexts")
    contexts = tuple(_hash(context, "contexts") for context in contexts)
    return Provenance(**texts, **hashes, **flags, contexts=contexts)


def _field(fields: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = fields.get(name, default)
    if type(value) is not kind:
        raise _broken(f"{name} is {value!r:.60}")
    return value


def _count(fields: dict[str, Any], name: str) -> int:
    value = _field(fields, name, int, 0)
    if not 0 <= value < 1 << 31:
        raise _broken(f"{name} is {value!r:.60}")
    return value


def _hash(value: object, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"([0-9a-f]{64})?", value):
        raise _broken(f"{name} is {value!r:.60}")
    return value


def _tiles_from(text: str, size: Sequence[int]) -> tuple[str, ...]:
    tiles = tuple(text[i : i + DIGITS] for i in range(0, len(text), DIGITS))
    wanted = len(boxes((size[0], size[1])))
    if tiles and (len(tiles) != wanted or not re.fullmatch(r"([0-9a-f]{8})+", text)):
        raise _broken(f"tiles are {text!r:.60}")
    return tiles


def _broken(what: str) -> MetadataError:
    return MetadataError(
        f"The metadata of minikontext in this file is broken: {what}. The picture itself may be "
        "fine; use a copy that no other program has saved."
    )


def boxes(size: Size) -> list[Box]:
    """List the tiles of a picture (width, height), row by row: GRID × GRID, none of them empty."""
    columns, rows = (_edges(side) for side in size)
    return [
        (left, top, right, bottom)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(columns)
    ]


def _edges(side: int) -> list[int]:
    count = min(GRID, side)
    return [i * side // count for i in range(count + 1)]


def _tiles(image: Image.Image) -> tuple[str, ...]:
    return tuple(checksum(image.crop(box))[:DIGITS] for box in boxes(image.size))


# ------------------------------------------------------------------------------------- writing


def save(
    image: Image.Image,
    path: str | Path,
    made: Provenance | None = None,
    private: bool | None = None,
    quality: int | None = None,
) -> Path:
    """Write a picture that says how it was made, whole or not at all; give back its path.

    The name says the format: .png and .webp keep every pixel, .jpg does not, nor does .webp with a
    quality (1 to 100; JPEG's default is 95). `made` is by default what `image` itself tells.
    private: write no prompts, of no edit; None asks the environment, MINIKONTEXT_NO_PROMPT=1.
    Raises OutputError for other names and places that cannot be written.
    """
    path = Path(path)
    check_format(path, quality)
    with replacing(path) as temporary:
        temporary.write_bytes(encode(image, made, path.suffix, private, quality))
    return path


def encode(
    image: Image.Image,
    made: Provenance | None = None,
    suffix: str = ".png",
    private: bool | None = None,
    quality: int | None = None,
) -> bytes:
    """Give the bytes of the file that `save` writes, for a download button or a widget."""
    made = (source(image).made or Provenance()) if made is None else made
    made = withhold(made) if (_no_prompts() if private is None else private) else made
    format_ = check_format(Path(f"_{suffix}"), quality)
    image = image.convert("RGB")
    image.info = {}  # Nothing that another program knew about the picture comes along.
    note = _fitting(_note(image, made, is_lossy(suffix, quality)), format_)
    buffer = BytesIO()
    image.save(buffer, format=format_, **_options(note, format_, quality))
    return buffer.getvalue()


def check_format(path: Path, quality: int | None = None) -> str:
    """Give the format of a result's name. Raises OutputError for names and qualities of no use."""
    format_ = FORMATS.get(path.suffix.lower())
    if format_ is None:
        raise OutputError(
            f"Results are written as {', '.join(FORMATS)}, which keep how they were made; "
            f"got {path}. Try {path}.png"
        )
    if quality is not None and (format_ == "PNG" or not 1 <= quality <= 100):
        raise OutputError(f"Got quality={quality} for {format_}. JPEG and WebP take 1 to 100.")
    return format_


def is_lossy(suffix: str, quality: int | None = None) -> bool:
    """Whether such a file changes pixels on writing, so that nobody can check them later."""
    return FORMATS.get(suffix.lower()) == "JPEG" or quality is not None


def withhold(made: Provenance) -> Provenance:
    """Take the prompts out of every edit."""
    history = tuple(withhold(edit) for edit in made.history)
    return replace(made, prompt="", negative_prompt="", private=made.known, history=history)


def _no_prompts() -> bool:
    return os.environ.get("MINIKONTEXT_NO_PROMPT", "0") not in ("", "0")


def _note(image: Image.Image, made: Provenance, lossy: bool) -> Note:
    if lossy:
        return Note(replace(made, pixels=""), image.size)
    return Note(replace(made, pixels=checksum(image)), image.size, _tiles(image))


def _fitting(note: Note, format_: str) -> Note:
    """Leave out the oldest edits, then shorten the longest text, until the file can hold it."""
    limit = MAX_EXIF if format_ == "JPEG" else MAX_NOTE
    while len(note.text()) > limit:
        note = replace(note, made=_shorter(note.made))
    return note


def _shorter(made: Provenance) -> Provenance:
    if made.history:
        return replace(made, history=made.history[1:], left_out=made.left_out + 1)
    longest = max(TEXTS, key=lambda name: len(getattr(made, name)))
    text = getattr(made, longest)
    return replace(made, cut=True, **{longest: text[: len(text) // 2]})


def _options(note: Note, format_: str, quality: int | None) -> dict[str, Any]:
    if format_ == "PNG":
        return {"pnginfo": _chunks(note)}
    options = {"exif": _exif(note), "quality": quality or JPEG_QUALITY}
    if format_ == "JPEG":
        return options | {"subsampling": "4:4:4"}  # Small coloured parts would bleed.
    return options | {"lossless": quality is None}


def _chunks(note: Note) -> PngImagePlugin.PngInfo:
    """Write the note, and for other programs the last edit in words of their own."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(NOTE, note.text())
    for name in (*TEXTS, "weights_sha256"):
        if value := getattr(note.made, name):
            value = value.encode("utf-8", "replace").decode()  # Half a surrogate pair fits nowhere.
            info.add_text("Software" if name == "software" else name, value)
    return info


def _exif(note: Note) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = note.made.software
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        b"ASCII\0\0\0" + note.text().encode("ascii")
    )
    return exif


# ------------------------------------------------------------------------- reading and checking


def attach(image: Image.Image, made: Provenance) -> Image.Image:
    """Let a picture in memory carry how it was made, so that its next edit knows; return it."""
    image.info[NOTE] = _fitting(Note(made, image.size), "PNG").text()
    return image


def of(image: Image.Image) -> Provenance | None:
    """Tell how a picture from `images.read` or a pipeline was made; None if it does not say.

    Raises MetadataError if it does, but the metadata is broken.
    """
    text = image.info.get(NOTE)
    return Note.parse(text).made if isinstance(text, str) else None


def read(file: object) -> Provenance:
    """Read how a picture in a file was made; empty if it does not say.

    Raises ImageError for what is no picture, and MetadataError for metadata that is broken.
    """
    return of(images.read(file)) or Provenance()


UNCHANGED, CHANGED, UNKNOWN = "unchanged", "changed", "unknown"


@dataclass(frozen=True)
class Inspection:
    """What a picture says about itself, and whether its pixels are those that were written.

    verdict: UNCHANGED, CHANGED or UNKNOWN; `reason` says it in a sentence.
    regions: the changed rectangles (left, top, right, bottom) in pixels, where they are known.
    """

    size: Size
    made: Provenance | None
    verdict: str
    reason: str
    regions: tuple[Box, ...] = ()

    def __str__(self) -> str:
        width, height = self.size
        lines = [f"picture: {width}×{height} pixels", *_history(self.made)]
        return "\n".join([*lines, f"pixels: {self.reason}", *(UNSIGNED if self.made else ())])


UNSIGNED = (
    "None of this is signed: anybody can write such metadata. The checksums show accidents and",
    "edits with other programs, not forgery.",
)


def inspect(file: str | Path | bytes | Image.Image) -> Inspection:
    """Read a picture's history and compare its pixels with the checksums of their tiles.

    Broken metadata is a verdict, not an error. Raises ImageError for what is no picture.
    """
    picture = images.read(file)
    if NOTE not in picture.info:
        return Inspection(picture.size, None, UNKNOWN, NO_NOTE)
    try:
        note = Note.parse(picture.info[NOTE])
    except MetadataError as error:
        return Inspection(picture.size, None, UNKNOWN, f"cannot be checked. {error}")
    return Inspection(picture.size, note.made, *_compare(note, picture, file))


NO_NOTE = (
    "cannot be checked: the file has no metadata of minikontext. It was not made by it, or the "
    "metadata was taken out, as many programs and web sites do."
)


def _compare(
    note: Note, picture: Image.Image, file: str | Path | bytes | Image.Image
) -> tuple[str, str, tuple[Box, ...]]:
    """Say what became of the pixels: verdict, reason and regions."""
    if not note.tiles:
        return UNKNOWN, "cannot be checked: they were written with loss, without checksums.", ()
    if picture.size != note.size:
        was, now = ("×".join(map(str, size)) for size in (note.size, picture.size))
        return CHANGED, f"resized or cut from {was} to {now}; which of them is not known.", ()
    pairs = zip(note.tiles, _tiles(picture))
    changed = [was != now for was, now in pairs]
    if not any(changed):
        return UNCHANGED, "as they were written.", ()
    if _has_loss(file):
        return UNKNOWN, "cannot be checked: the file was saved anew in a format with loss.", ()
    if all(changed):
        return CHANGED, "changed everywhere.", ((0, 0, *picture.size),)
    found = regions(changed, picture.size)
    return CHANGED, f"changed in {', '.join(map(_show, found))}.", found


def regions(changed: Sequence[bool], size: Size) -> tuple[Box, ...]:
    """Join changed tiles that touch by a side; give the rectangle around each group."""
    tiles, left = boxes(size), {i for i, is_changed in enumerate(changed) if is_changed}
    columns, found = min(GRID, size[0]), []
    while left:
        group, edge = set(), {min(left)}
        while edge:
            group |= edge
            left -= edge
            edge = {j for i in edge for j in _neighbours(i, columns)} & left
        lefts, tops, rights, bottoms = zip(*(tiles[i] for i in group))
        found.append((min(lefts), min(tops), max(rights), max(bottoms)))
    return tuple(found)


def _neighbours(i: int, columns: int) -> set[int]:
    sides = {i - 1} if i % columns else set()
    return sides | ({i + 1} if (i + 1) % columns else set()) | {i - columns, i + columns}


def _show(box: Box) -> str:
    left, top, right, bottom = box
    return f"columns {left} to {right - 1}, rows {top} to {bottom - 1}"


def _has_loss(file: str | Path | bytes | Image.Image) -> bool:
    """Whether a file holds JPEG or lossy WebP; a picture in memory may know its own format."""
    if isinstance(file, Image.Image):
        return file.format in ("JPEG", "MPO")
    data = Path(file).read_bytes() if isinstance(file, (str, Path)) else bytes(file)
    return data[:2] == b"\xff\xd8" or (data[8:12] == b"WEBP" and _is_vp8(data))


def _is_vp8(data: bytes) -> bool:
    """Walk the chunks of a WebP file up to its picture: "VP8 " is lossy, "VP8L" is not."""
    position = 12
    while position + 8 <= len(data):
        kind, size = data[position : position + 4], data[position + 4 : position + 8]
        if kind in (b"VP8 ", b"VP8L"):
            return kind == b"VP8 "
        length = int.from_bytes(size, "little")
        position += 8 + length + length % 2
    return False


def mark_regions(picture: Image.Image, found: Sequence[Box]) -> Image.Image:
    """Show what changed: the changed rectangles framed in red, everything else pale."""
    if not found:
        raise ImageError("No changed region is known: there is nothing to mark.")
    shown = Image.blend(picture, Image.new("RGB", picture.size, "white"), 0.6)
    shown.info = {}  # A drawing about the picture has not been made as the picture was.
    pen, width = ImageDraw.Draw(shown), max(1, min(picture.size) // 200)
    for left, top, right, bottom in found:
        shown.paste(picture.crop((left, top, right, bottom)), (left, top))
        pen.rectangle((left, top, right - 1, bottom - 1), outline="red", width=width)
    return shown


# ---------------------------------------------------------------------------- a history in words


def _history(made: Provenance | None) -> list[str]:
    if made is None or not made.edits:
        return ["history: none"]
    lines = ["history, first edit to last:"]
    if made.left_out:
        lines.append(f"  (there was no room for the {made.left_out} edits before)")
    before = ""
    for number, edit in enumerate(made.edits, start=made.left_out + 1):
        lines += _describe(number, edit, before if number > 1 else None)
        before = edit.pixels
    return lines


def _describe(number: int, edit: Provenance, before: str | None) -> list[str]:
    prompt = "(the prompt was withheld)" if edit.private else f"“{printable(edit.prompt)}”"
    settings = [f"seed {edit.seed}", f"{edit.steps} steps", edit.guidance]
    weights = f"weights {edit.weights} ({edit.weights_sha256[:12] or 'no checksum'})"
    lines = [prompt, ", ".join(printable(x) for x in (*settings, weights, edit.software) if x)]
    if edit.negative_prompt:
        lines.append(f"away from “{printable(edit.negative_prompt)}”")
    lines.append(_origin(edit.contexts, before))
    if edit.withheld:
        lines.append("a safety filter withheld the result: a grey card is in its place")
    if edit.cut:
        lines.append("a text was too long for the file and is cut")
    margin = f"  {number}. "
    return [(margin if i == 0 else " " * len(margin)) + line for i, line in enumerate(lines)]


def _origin(contexts: Sequence[str], before: str | None) -> str:
    """What an edit started from; `before` is the checksum that the edit before left, if any."""
    if not contexts:
        return "from words alone"
    first, *others = contexts
    if before is None:
        text = f"from a picture {first[:12]}" if first else "from latents"
    elif first and first == before:
        text = "from the result before"
    elif first and before:
        text = f"from a picture {first[:12]}: the result before, changed in between"
    else:
        text = "from the result before, of which no checksum is known"
    return ", and ".join([text, *(f"a picture {other[:12]}" for other in others)])


def printable(text: str, limit: int = 500) -> str:
    """Make a text from a file harmless for a terminal: no control characters, not endless."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text[:limit])
    return shown if len(text) <= limit else f"{shown} … ({len(text)} characters)"
