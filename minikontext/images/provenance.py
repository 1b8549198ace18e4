"""How a picture was made: written into its file, carried on by every further edit, and checked.

A file holds one JSON note: {"minikontext": 1, "edits": [first … last], "size": …, "tiles": …}, in
a text chunk of PNG or in EXIF's user comment of JPEG and WebP. Nothing in it is signed: the
checksums show accidents and edits with other programs, not forgery.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

import minikontext
from minikontext import images
from minikontext.errors import MetadataError, MetadataWarning, OutputError, warn
from minikontext.images.read import MAX_NOTE, NOTE
from minikontext.images.resize import Size
from minikontext.runtime.config import parse_json
from minikontext.runtime.files import replacing

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
VERSION = 1
GRID = 8  # columns and rows of tiles that have a checksum of their own
DIGITS = 8  # hex digits of a tile's checksum: enough for accidents
MAX_EXIF = 60_000  # characters; JPEG holds no more than 65 533 bytes in one place
JPEG_QUALITY = 95
TEXTS = ("prompt", "negative_prompt", "seed", "steps", "guidance", "weights", "computed",
         "software")  # fmt: skip
HASHES = ("weights_fingerprint", "config_fingerprint", "pixels")
FLAGS = ("private", "cut", "withheld")
MAX_CONTEXTS = 64
MAX_EDITS = 200  # that are carried on; of those before only the number
Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels, as in PIL


@dataclass(frozen=True)
class Provenance:
    """How a picture was made, last edit first: what is needed to make it again. Empty: not known.

    weights:  their name, and each LoRA's with its scale and the beginning of its file's SHA-256.
    config_fingerprint: of sizes, scale factors, vocabulary and defaults.
    computed: how the weights lay in memory, and how contexts were seen.
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
    weights_fingerprint: str = ""
    config_fingerprint: str = ""
    computed: str = ""
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
    provenance: Provenance | None = None


def checksum(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB pixels, in hex digits; no matter in which file it is."""
    size = f"{image.width}x{image.height}".encode()
    return hashlib.sha256(size + images.as_rgb(image).tobytes()).hexdigest()


def source(picture: Image.Image) -> Source:
    """Describe a picture that `images.read` gave; metadata that is broken is a MetadataWarning."""
    try:
        return Source(checksum(picture), of(picture))
    except MetadataError as error:
        warn(MetadataWarning(f"The history is not carried on. {error}"))
        return Source(checksum(picture))


def after(provenance: Provenance, sources: Sequence[Source]) -> Provenance:
    """Put an edit behind the history of its first picture; of the others keep the checksum."""
    before = (sources[0].provenance if sources else None) or Provenance()
    contexts = tuple(source.pixels for source in sources)
    return replace(provenance, contexts=contexts, history=before.edits, left_out=before.left_out)


# ------------------------------------------------------------------------------------ the note
@dataclass(frozen=True)
class Note:
    """What stands in a file: how the picture was made, and checksums of `size` pixels by tiles.

    tiles: GRID × GRID of them, or fewer for the smallest pictures; none if written with loss.
    """

    provenance: Provenance
    size: Size
    tiles: tuple[str, ...] = ()

    def text(self) -> str:
        """Give the note as JSON in ASCII, which every format can hold."""
        edits, left_out = self.provenance.edits, self.provenance.left_out
        fields: dict[str, Any] = {NOTE: VERSION, "edits": list(map(_to_json, edits))}
        fields |= {"left_out": left_out, "size": self.size, "tiles": "".join(self.tiles)}
        return json.dumps(fields)

    @classmethod
    def parse(cls, text: str) -> Note:
        """Read a note from a file that anybody may have written.

        Raises MetadataError that says what is wrong with it.
        """
        fields = _parse_json(text)
        stored = _field(fields, "edits", list)
        edits = [_from_json(edit) for edit in stored[-MAX_EDITS:]]
        provenance = edits.pop() if edits else Provenance()
        left_out = _count(fields, "left_out") + max(0, len(stored) - MAX_EDITS)
        size = _field(fields, "size", list)
        if len(size) != 2 or not all(type(side) is int and 0 < side < 1 << 24 for side in size):
            raise _broken(f"size is {size!r:.60}")
        provenance = replace(provenance, history=tuple(edits), left_out=left_out)
        return cls(provenance, (size[0], size[1]), _tiles_from(_field(fields, "tiles", str), size))


def _to_json(edit: Provenance) -> dict[str, Any]:
    names = (*TEXTS, *HASHES, *FLAGS, "contexts")
    return {name: value for name in names if (value := getattr(edit, name))}


def _parse_json(text: str) -> dict[str, Any]:
    if len(text) > MAX_NOTE:
        raise _broken(f"it is longer than {MAX_NOTE} characters")
    try:
        fields = parse_json(text)
    except ValueError as error:
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
    if "weights_sha256" in edit:  # the name in version 0.1 of what never was a file's SHA-256
        edit = edit | {"weights_fingerprint": edit["weights_sha256"]}
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


def checksum_tiles(image: Image.Image) -> tuple[str, ...]:
    """A short checksum of every tile, by which a change can be found."""
    return tuple(checksum(image.crop(box))[:DIGITS] for box in boxes(image.size))


# ------------------------------------------------------------------------------------- writing
def save(
    image: Image.Image,
    path: str | Path,
    provenance: Provenance | None = None,
    private: bool | None = None,
    quality: int | None = None,
    new: bool = False,
) -> Path:
    """Write a picture that says how it was made, whole or not at all; give back its path.

    The name says the format: .png and .webp keep every pixel, .jpg does not, nor does .webp with a
    quality (1 to 100; JPEG's default is 95). `provenance` is by default what `image` itself tells.
    private: write no prompts, of no edit; None asks the environment, MINIKONTEXT_NO_PROMPT=1.
    new: replace no file; where the name is taken, even at the last moment, add -2, -3 … to it.
    Raises OutputError for other names and places that cannot be written.
    """
    path = Path(path)
    check_format(path, quality)
    data = encode(image, provenance, path.suffix, private, quality)
    for number in itertools.count(1):
        name = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if new and name.exists():
            continue
        try:
            with replacing(name, new) as temporary:
                temporary.write_bytes(data)
            return name
        except OutputError:
            if not new or not name.exists():
                raise


def encode(
    image: Image.Image,
    provenance: Provenance | None = None,
    suffix: str = ".png",
    private: bool | None = None,
    quality: int | None = None,
) -> bytes:
    """Give the bytes of the file that `save` writes, for a download button or a widget."""
    provenance = (source(image).provenance or Provenance()) if provenance is None else provenance
    if _no_prompts() if private is None else private:
        provenance = without_prompts(provenance)
    format_ = check_format(Path(f"_{suffix}"), quality)
    image = image.convert("RGB")
    image.info = {}  # Nothing that another program knew about the picture comes along.
    note = _fitting(_note(image, provenance, is_lossy(suffix, quality)), format_)
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


def without_prompts(provenance: Provenance) -> Provenance:
    """Take the prompts out of every edit."""
    history = tuple(without_prompts(edit) for edit in provenance.history)
    words = {"prompt": "", "negative_prompt": "", "private": provenance.known}
    return replace(provenance, history=history, **words)


def _no_prompts() -> bool:
    return os.environ.get("MINIKONTEXT_NO_PROMPT", "0") not in ("", "0")


def _note(image: Image.Image, provenance: Provenance, lossy: bool) -> Note:
    if lossy:
        return Note(replace(provenance, pixels=""), image.size)
    return Note(replace(provenance, pixels=checksum(image)), image.size, checksum_tiles(image))


def _fitting(note: Note, format_: str) -> Note:
    """Leave out the oldest edits, then shorten the longest text, until the file can hold it."""
    limit = MAX_EXIF if format_ == "JPEG" else MAX_NOTE
    while len(note.text()) > limit:
        note = replace(note, provenance=_shorter(note.provenance))
    return note


def _shorter(provenance: Provenance) -> Provenance:
    if provenance.history:
        return replace(provenance, history=provenance.history[1:], left_out=provenance.left_out + 1)
    longest = max(TEXTS, key=lambda name: len(getattr(provenance, name)))
    text = getattr(provenance, longest)
    return replace(provenance, cut=True, **{longest: text[: len(text) // 2]})


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
    for name in (*TEXTS, "weights_fingerprint"):
        if value := getattr(note.provenance, name):
            value = value.encode("utf-8", "replace").decode()  # Half a surrogate pair fits nowhere.
            info.add_text("Software" if name == "software" else name, value)
    return info


def _exif(note: Note) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = note.provenance.software
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = (
        b"ASCII\0\0\0" + note.text().encode("ascii")
    )
    return exif


# ------------------------------------------------------------------------- reading and checking
def attach(image: Image.Image, provenance: Provenance) -> Image.Image:
    """Let a picture in memory carry how it was made, so that its next edit knows; return it."""
    image.info[NOTE] = _fitting(Note(provenance, image.size), "PNG").text()
    return image


def of(image: Image.Image) -> Provenance | None:
    """Tell how a picture from `images.read` or a pipeline was made; None if it does not say.

    Raises MetadataError if it does, but the metadata is broken.
    """
    text = image.info.get(NOTE)
    return Note.parse(text).provenance if isinstance(text, str) else None


def read(file: object) -> Provenance:
    """Read how a picture in a file was made; empty if it does not say.

    Raises ImageError for what is no picture, and MetadataError for metadata that is broken.
    """
    return of(images.read(file)) or Provenance()
