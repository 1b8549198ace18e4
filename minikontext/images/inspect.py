"""What a picture says of how it was made, and whether its pixels have changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw

from minikontext import images
from minikontext.errors import ImageError, MetadataError, shorten_list
from minikontext.images import containers
from minikontext.images.provenance import GRID, Box, Note, Provenance, boxes, checksum_tiles
from minikontext.images.read import NOTE, content, remarks
from minikontext.images.resize import Size
from minikontext.runtime.log import printable

UNCHANGED, CHANGED, UNKNOWN = "unchanged", "changed", "unknown"
MAX_SHOWN = 10  # edits at either end of a history, regions, pictures of one edit


@dataclass(frozen=True)
class Inspection:
    """What a picture says about itself, and whether its pixels are those that were written.

    verdict: UNCHANGED, CHANGED or UNKNOWN; `reason` says it in a sentence.
    regions: the changed rectangles (left, top, right, bottom) in pixels, where they are known.
    """

    size: Size
    provenance: Provenance | None
    verdict: str
    reason: str
    regions: tuple[Box, ...] = ()

    def __str__(self) -> str:
        width, height = self.size
        lines = [f"picture: {width}×{height} pixels", *_history(self.provenance)]
        return "\n".join([*lines, f"pixels: {self.reason}", *(UNSIGNED if self.provenance else ())])


UNSIGNED = (
    "None of this is signed: anybody can write such metadata. The checksums show accidents and",
    "edits with other programs, not forgery.",
)


def inspect(file: str | Path | bytes | Image.Image) -> Inspection:
    """Read a picture's history and compare its pixels with the checksums of their tiles.

    Broken metadata is a verdict, not an error; so is a file of which a viewer may show something
    else than was checked, such as an animation. Raises ImageError for what is no picture.
    """
    picture = images.read(file)
    if not isinstance(file, Image.Image) and (odd := remarks(file)):
        found = _inspect(picture, file)
        if found.verdict != UNCHANGED:
            return found
        reason = f"cannot be checked: {', and '.join(odd)}. What was read is as it was written."
        return replace(found, verdict=UNKNOWN, reason=reason)
    return _inspect(picture, file)


def _inspect(picture: Image.Image, file: str | Path | bytes | Image.Image) -> Inspection:
    if NOTE not in picture.info:
        return Inspection(picture.size, None, UNKNOWN, NO_NOTE)
    try:
        note = Note.parse(picture.info[NOTE])
    except MetadataError as error:
        return Inspection(picture.size, None, UNKNOWN, f"cannot be checked. {error}")
    return Inspection(picture.size, note.provenance, *_compare(note, picture, file))


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
    pairs = zip(note.tiles, checksum_tiles(picture))
    changed = [was != now for was, now in pairs]
    if not any(changed):
        return UNCHANGED, "as they were written.", ()
    if _has_loss(file):
        return UNKNOWN, "cannot be checked: the file was saved anew in a format with loss.", ()
    if all(changed):
        return CHANGED, "changed everywhere.", ((0, 0, *picture.size),)
    found = regions(changed, picture.size)
    return CHANGED, f"changed in {shorten_list(map(_show, found), MAX_SHOWN)}.", found


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
    """Whether a file holds JPEG, AVIF, HEIC or lossy WebP; one in memory may know its format."""
    if isinstance(file, Image.Image):
        return file.format in ("JPEG", "MPO", "AVIF", "HEIF")
    data = content(file)
    if data[8:12] == b"WEBP":
        return next((n == b"VP8 " for n, _ in containers.webp_chunks(data) if n[:3] == b"VP8"
                     and n != b"VP8X"), False)  # fmt: skip
    return data.startswith(containers.JPEG) or data[4:8] == b"ftyp"


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
def _history(provenance: Provenance | None) -> list[str]:
    if provenance is None or not provenance.edits:
        return ["history: none"]
    lines = ["history, first edit to last:"]
    if provenance.left_out:
        lines.append(f"  (there was no room for the {provenance.left_out} edits before)")
    before, hidden = "", len(provenance.edits) - 2 * MAX_SHOWN
    for index, edit in enumerate(provenance.edits):
        number = provenance.left_out + 1 + index
        if hidden <= 0 or not MAX_SHOWN <= index < MAX_SHOWN + hidden:
            lines += _describe(number, edit, before if number > 1 else None)
        elif index == MAX_SHOWN:
            lines.append(f"  ({hidden} edits are not shown here)")
        before = edit.pixels
    return lines


def _describe(number: int, edit: Provenance, before: str | None) -> list[str]:
    prompt = "(the prompt was withheld)" if edit.private else f"“{printable(edit.prompt)}”"
    settings = [f"seed {edit.seed}", f"{edit.steps} steps", edit.guidance]
    config = f", config {edit.config_fingerprint[:12]}" if edit.config_fingerprint else ""
    weights = f"weights {edit.weights} ({edit.weights_fingerprint[:12] or 'no checksum'}{config})"
    settings = (x for x in (*settings, weights, edit.computed, edit.software) if x)
    lines = [prompt, ", ".join(printable(x, 100) for x in settings)]
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
    others = [f"a picture {other[:12]}" for other in others]
    return ", and ".join([text, *([shorten_list(others, MAX_SHOWN)] if others else [])])
