"""A session of edits: what was asked of which picture, as one file from which it can be redone."""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Len, MaxLen
from PIL import Image, ImageDraw
from tqdm.auto import tqdm

from minikontext import images
from minikontext.course.verdict import Verdict
from minikontext.editing.defaults import Defaults
from minikontext.editing.output import KontextOutput
from minikontext.errors import ConfigError, WeightsWarning, warn
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.bounds import Scale, Seed, Share, Side, Steps
from minikontext.runtime.config import build_config, read_json

FORMAT = "minikontext-session-1"
RED = (255, 20, 20)  # the cue that the toy world draws
RING, BRUSH = 1 / 32, 1 / 16  # widths of the lines, in shares of the picture's longer side
MOST_PIXELS = 2 * images.MAX_PIXELS  # of all pictures of a file together
MARKS, EDITS = 100, 1_000  # at most: of an edit, and of a session
FINE = 512  # pixels: on smaller pictures a line is drawn four times as large, then shrunk

Point = tuple[Share, Share]


@dataclass(frozen=True)
class Mark:
    """A visual cue on a picture, in shares of its sides.

    An ellipse lies between two corners; a brush's stroke goes through all points.
    """

    kind: Literal["ellipse", "brush"]
    points: Annotated[tuple[Point, ...], Len(1, 10_000)]


@dataclass(frozen=True)
class Wish:
    """One edit, as it was asked for.

    parent: the number of the edit whose result is edited; -1 is the picture of the start.
    others: names of further pictures. pixels: the checksum of the result, once there is one.
    """

    prompt: str
    parent: int = -1
    others: Annotated[tuple[str, ...], MaxLen(64)] = ()
    marks: Annotated[tuple[Mark, ...], MaxLen(MARKS)] = ()
    seed: Seed = 0
    steps: Steps | None = None
    guidance_scale: Scale | None = None
    true_cfg_scale: Scale | None = None
    width: Side | None = None
    height: Side | None = None
    pixels: str = ""


@dataclass(frozen=True)
class Turn:
    """One finished edit. `before` is what it started from, with the marks.

    verdict: what became of the wish; None where there was no picture, or more than one.
    """

    wish: Wish
    before: Image.Image | None
    output: KontextOutput
    seconds: float = 0.0
    verdict: Verdict | None = None

    @property
    def prompt(self) -> str:
        """The words of the wish."""
        return self.wish.prompt

    @property
    def parent(self) -> int:
        """The number of the turn that it started from, -1 for the start."""
        return self.wish.parent


@dataclass
class Session:
    """A picture to start from (or none), further pictures by name, and all edits so far."""

    start: Image.Image | None
    pictures: Mapping[str, Image.Image] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=list)

    def result(self, number: int) -> Image.Image | None:
        """The result of a turn; -1 is the start."""
        return self.turns[number].output.images[0] if number >= 0 else self.start

    def used(self) -> list[Image.Image]:
        """Every picture that plays a part: the start, further ones, the results."""
        names = dict.fromkeys(name for turn in self.turns for name in turn.wish.others)
        results = [turn.output.images[0] for turn in self.turns]
        return [*filter(None, [self.start]), *(self.pictures[name] for name in names), *results]

    def title(self, number: int) -> str:
        """What a result is called: its number and words, and its seed among those of one wish."""
        if number < 0:
            return "start"
        wish, several = self.turns[number].wish, len(self.alike(number)) > 1
        return f"{number + 1}. {f'seed {wish.seed}: ' if several else ''}{wish.prompt}"

    def alike(self, number: int) -> list[int]:
        """The numbers of the turns that differ from one in the seed at most."""
        wishes = [replace(turn.wish, seed=0, pixels="") for turn in self.turns]
        return [i for i, wish in enumerate(wishes) if number >= 0 and wish == wishes[number]]

    def edit(
        self, pipe: KontextPipeline, wish: Wish, callback: Callable[..., object] | None = None
    ) -> Turn:
        """Do what a wish says. Raises as the pipeline does, Cancelled, and ConfigError if full."""
        if len(self.turns) >= EDITS:
            raise ConfigError(f"A session holds {EDITS:,} edits at most. Open the picture anew.")
        began, before = time.perf_counter(), self.result(wish.parent)
        before = drawn(before, wish.marks) if before else None
        output = pipe(
            wish.prompt,
            image=self._contexts(wish, before),
            seed=wish.seed,
            num_inference_steps=wish.steps,
            guidance_scale=wish.guidance_scale,
            true_cfg_scale=wish.true_cfg_scale,
            width=wish.width,
            height=wish.height,
            callback=callback,
            progress=False,
        )
        wish = replace(wish, pixels=output.provenance[0].pixels)
        return Turn(wish, before, output, time.perf_counter() - began)

    def _contexts(self, wish: Wish, before: Image.Image | None) -> Any:
        """A result alone goes on from its latents; with marks or others, from its pixels."""
        if wish.parent >= 0 and not (wish.marks or wish.others):
            return self.turns[wish.parent].output
        first = [] if before is None else [before]
        return [*first, *(self.pictures[name] for name in wish.others)] or None

    def encode(self, pipe: KontextPipeline) -> bytes:
        """The session as a JSON file; `replay` makes its pictures again."""
        used = dict.fromkeys(name for turn in self.turns for name in turn.wish.others)
        content = {
            "format": FORMAT,
            "weights": " + ".join([pipe.name, *map(str, pipe.loras)]),
            "fingerprint": pipe.weights_fingerprint,
            "start": _text(self.start),
            "pictures": {name: _text(self.pictures[name]) for name in used},
            "edits": [asdict(turn.wish) for turn in self.turns],
        }
        return json.dumps(content, indent=1).encode()

    def save(self, path: str | Path, pipe: KontextPipeline) -> Path:
        """Write the session. Raises OutputError."""
        files.write_bytes(path, self.encode(pipe))
        return Path(path)


def replay(
    path: str | Path, pipe: KontextPipeline | None = None, most: int = 10_000
) -> list[KontextOutput]:
    """Do all edits of a session's file again, and return their results in order.

    pipe: by default the shipped weights that the file names. A result whose pixels are not those of
    the session is told in a warning: other weights or another kind of machine made it.
    most: sampling steps, of all edits together; one at four times the weights' pixels counts as
    four. A file may ask for days of work, in 1000 edits or in one of 16 384 pixels a side.
    Raises ConfigError for a file that is no session, that asks for weights of your own, for more
    than `most` steps, or whose pictures have more than MOST_PIXELS together.
    """
    found = _read(Path(path))
    if pipe is None:
        if not re.fullmatch(r"[\w-]+", found.weights):  # no path: that is the caller's to say
            raise ConfigError(f"{path} was made with {found.weights!r}: say replay(path, pipe).")
        pipe = KontextPipeline.from_pretrained(found.weights)
    if pipe.weights_fingerprint != found.fingerprint:
        warn(WeightsWarning(f"{path} was made with other weights, named {found.weights!r}."))
    if (steps := sum(_work(wish, pipe.defaults) for wish in found.edits)) > most:
        raise ConfigError(
            f"{path} asks for {steps:,} steps in {len(found.edits)} edits, as many as their sizes "
            f"count; expected {most:,} at most. For more: replay(path, pipe, most={steps})."
        )
    start, *others = _pictures([found.start, *found.pictures.values()])
    session = Session(start, dict(zip(found.pictures, others)))
    for wish in tqdm(found.edits, "replay", leave=False):
        session.turns.append(session.edit(pipe, wish))
    pixels = [turn.wish.pixels for turn in session.turns]
    apart = [i + 1 for i, wish in enumerate(found.edits) if wish.pixels not in ("", pixels[i])]
    if apart:
        numbers = ", ".join(map(str, apart))
        warn(WeightsWarning(f"Not the pixels of the session: edit {numbers} of {len(pixels)}."))
    return [turn.output for turn in session.turns]


@dataclass(frozen=True)
class _File:
    format: str
    weights: str
    fingerprint: str
    start: str | None
    pictures: dict[str, str]
    edits: Annotated[tuple[Wish, ...], MaxLen(EDITS)]


def _read(path: Path) -> _File:
    values = read_json(path, ConfigError, "Export the session again.")
    if values.get("format") != FORMAT:
        raise ConfigError(f"{path} is no session: expected the format {FORMAT!r}.")
    found: _File = build_config(_File, values)
    for i, wish in enumerate(found.edits):
        if not -1 <= wish.parent < i:
            raise ConfigError(f"{path}: edit {i + 1} starts from edit {wish.parent + 1}.")
        if lost := set(wish.others) - set(found.pictures):
            raise ConfigError(f"{path}: edit {i + 1} needs a picture {min(lost)!r}: not there.")
    return found


def _text(picture: Image.Image | None) -> str | None:
    return picture and base64.b64encode(images.png_bytes(picture)).decode()


def _work(wish: Wish, usual: Defaults) -> int:
    """The steps of an edit; larger pictures than the weights' own count for as much more."""
    width, height = wish.width or usual.width, wish.height or usual.height
    larger = math.ceil(width * height / (usual.width * usual.height))
    return (wish.steps or usual.num_inference_steps) * larger


def _pictures(texts: Sequence[str | None]) -> list[Image.Image | None]:
    """All pictures of a file; a small file can hold very large ones. Raises ConfigError."""
    found: list[Image.Image | None] = []
    for text in texts:
        found.append(_picture(text))
        if sum(one.width * one.height for one in found if one) > MOST_PIXELS:
            most = MOST_PIXELS // 10**6
            raise ConfigError(f"The session's pictures have more than {most} million pixels.")
    return found


def _picture(text: str | None) -> Image.Image | None:
    try:
        return images.read(base64.b64decode(text, validate=True)) if text is not None else None
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"A picture of the session cannot be read: {error}") from error


def one_more(marks: Sequence[Mark], values: Any) -> list[Mark]:
    """The marks with another, as a page tells it. Raises ConfigError for none, or one too many."""
    if len(marks) >= MARKS:
        raise ConfigError(f"An edit takes {MARKS} marks at most. Press Edit, or Clear.")
    return [*marks, build_config(Mark, values)]


def drawn(picture: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """A picture with red marks on it; itself if there are none."""
    if not marks:
        return picture
    scale = 4 if max(picture.size) <= FINE else 1
    width, height = (side * scale for side in picture.size)
    mask = Image.new("L", (width, height))
    for mark in marks:
        points = [(x * width, y * height) for x, y in mark.points]
        _draw(ImageDraw.Draw(mask), mark.kind, points, max(width, height))
    marked = images.as_rgb(picture).copy()
    marked.paste(RED, mask=mask.resize(picture.size, Image.Resampling.BOX))
    return marked


def _draw(
    pen: ImageDraw.ImageDraw, kind: str, points: list[tuple[float, float]], side: int
) -> None:
    if kind == "ellipse":
        xs, ys = zip(*points)
        pen.ellipse((min(xs), min(ys), max(xs), max(ys)), outline=255, width=round(side * RING))
        return
    half = max(0.5, side * BRUSH / 2)
    pen.line(points, fill=255, width=round(2 * half))
    for x, y in points:  # round ends and corners
        pen.ellipse((x - half, y - half, x + half, y + half), fill=255)
