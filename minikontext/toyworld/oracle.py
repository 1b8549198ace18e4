"""The oracle: reads a picture back into a scene and scores an edit exactly.

It knows the renderer, so it reads by synthesis: of all values that an attribute can take, the one
whose picture is nearest is the one that is shown. Nothing is judged by eye and nothing is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from minikontext.toyworld.edits import Case
from minikontext.toyworld.render import render, unit
from minikontext.toyworld.scene import (
    ATTRIBUTES,
    CHOICES,
    COLOURED,
    COLOURLESS,
    IDENTITY,
    LETTERS,
    MAX_SIGN,
    Scene,
)

# Attributes that are read together, because one cannot be seen without the other.
BLOCKS = (
    ("background", "time"),
    ("style",),
    ("place", "species"),
    ("colour",),
    ("pattern",),
    ("eyes",),
    ("accessory", "accessory_colour"),
    ("left", "left_colour"),
    ("right", "right_colour"),
    ("mark",),
)
MIN_PSNR_UNTOUCHED = 20.0  # dB, where nothing should have changed
MIN_PSNR_CHANGED = 14.0  # dB, against the picture the edit should have made
MIN_EXPLAINED = 0.5  # of the right picture's variance: in pale or dark ones PSNR is high for little
MIN_UNTOUCHED = 0.05  # of the picture: what a new style leaves alone by chance is no measure
NEARER = 0.5  # the right picture must be nearer than the best wrong one by this factor
SUSPICIOUS = 24.0  # dB in the worst window: below, something that nobody asked for may have changed
WINDOW, SHIFTS, BLUR = 8, 3, 2  # world units: a window's side, and what spoiling is tried


@dataclass(frozen=True)
class Score:
    """What the oracle found; `success` is all of `followed`, `preserved` and `identity`.

    `psnr_untouched` is measured where context and target agree (everywhere, without a context), in
    dB; it is NaN where hardly anything should stay. `read` is the scene that the picture shows.
    """

    followed: bool
    preserved: bool
    identity: bool
    psnr: float
    psnr_untouched: float
    untouched_share: float
    read: Scene

    @property
    def success(self) -> bool:
        """Instruction followed, the rest preserved, the character still itself."""
        return self.followed and self.preserved and self.identity


def as_array(image: Image.Image | np.ndarray) -> np.ndarray:
    """A picture as float32 (h, w, 3) in 0..255. Raises ValueError for another shape."""
    array = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"got an array of shape {array.shape}; the oracle reads (h, w, 3)")
    return array.astype(np.float32)


def psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two 0..255 pictures, on pixels `where`; at most 60."""
    error = (a.astype(np.float32) - b) ** 2
    mean = float(error.mean() if where is None else error[where].mean())
    return float(min(60.0, 10 * np.log10(255**2 / max(mean, 1e-9))))


@lru_cache(maxsize=1024)
def _shown(scene: Scene, height: int, width: int) -> np.ndarray:
    """A scene in a size, kept: answers to the same case are compared with the same scenes."""
    return render(scene, height, width)


def _distance(picture: np.ndarray, scene: Scene) -> float:
    return float(np.square(picture - _picture(scene, picture)).sum())


def _candidates(scene: Scene, block: Sequence[str]) -> Iterable[Scene]:
    for values in product(*(CHOICES[name] for name in block)):
        yield scene.change(**dict(zip(block, values, strict=True)))


def _read_block(picture: np.ndarray, scene: Scene, block: Sequence[str]) -> Scene:
    return min(
        set(_candidates(scene, block)) | {scene}, key=lambda s: (_distance(picture, s), str(s))
    )


def _read_sign(picture: np.ndarray, scene: Scene) -> Scene:
    """Try every length, then each letter in turn: letters do not overlap, so order is no matter."""
    best = min(
        (_spell(picture, scene.change(sign="I" * length)) for length in range(MAX_SIGN + 1)),
        key=lambda s: (_distance(picture, s), s.sign),
    )
    return min((best, scene), key=lambda s: (_distance(picture, s), s.sign != best.sign))


def _spell(picture: np.ndarray, scene: Scene) -> Scene:
    for i in range(len(scene.sign)):
        words = (scene.sign[:i] + letter + scene.sign[i + 1 :] for letter in LETTERS)
        scene = min((scene.change(sign=w) for w in words), key=lambda s: _distance(picture, s))
    return scene


def read(picture: Image.Image | np.ndarray, guess: Scene, attributes: Iterable[str]) -> Scene:
    """The scene that a picture shows, looking only at `attributes`; the others are as in `guess`.

    Goes through the attributes block by block, twice, each time keeping the value whose rendered
    picture is nearest in squared error.
    """
    array, wanted = as_array(picture), set(attributes)
    wanted |= {f"{name}_colour" for name in COLOURED if name in wanted}
    blocks = [tuple(a for a in block if a in wanted) for block in BLOCKS]
    scene = guess
    for _ in range(2):
        before = scene
        for block in filter(None, blocks):
            scene = _read_block(array, scene, block)
        scene = _read_sign(array, scene) if "sign" in wanted else scene
        if scene == before:
            break
    return scene


def score(picture: Image.Image | np.ndarray, case: Case) -> Score:
    """Score an edited picture against its case; any picture of any size is accepted.

    What is measured in pixels at 64 x 64 is measured in world units, so it grows with the picture.

    Followed: every claimed attribute reads as in the target, the picture shows most of what a right
    one shows, and where the target differs from the context it is nearer to the target by a clear
    factor. Preserved: the rest is unchanged,
    both in PSNR and in that no scene with something else changed, and no mirrored, shifted,
    blurred or tinted one, explains the picture clearly better. Identity: the character's species,
    colour, pattern and eyes read as they should, the colour only in styles that show it.
    """
    array = as_array(picture)
    identity = [n for n in IDENTITY if n != "colour" or case.target.style not in COLOURLESS]
    attributes = (*case.claims, *case.free, *identity)
    found = read(array, case.target, attributes)
    wanted = case.target.change(**{name: getattr(found, name) for name in case.free})
    pixels = _compare(array, wanted, case)
    followed = all(getattr(found, name) == getattr(wanted, name) for name in case.claims)
    return Score(
        followed=followed and pixels.edited,
        preserved=pixels.preserved and _nothing_else(array, found, wanted, attributes),
        identity=all(getattr(found, n) == getattr(wanted, n) for n in identity),
        psnr=pixels.psnr,
        psnr_untouched=pixels.psnr_untouched,
        untouched_share=pixels.untouched_share,
        read=found,
    )


def succeeds(picture: Image.Image | np.ndarray, case: Case) -> bool:
    """`score(picture, case).success`, but nothing is read where the pixels alone rule it out."""
    array = as_array(picture)
    if not case.free:
        pixels = _compare(array, case.target, case)
        if not (pixels.edited and pixels.preserved):
            return False
    return score(array, case).success


class _Pixels(NamedTuple):
    """What is known without reading: whether the change happened, and whether the rest stayed."""

    edited: bool
    preserved: bool
    psnr: float
    psnr_untouched: float
    untouched_share: float


def _compare(array: np.ndarray, wanted: Scene, case: Case) -> _Pixels:
    right = _picture(wanted, array)
    changed = _changed(case, right)
    outside = ~changed if case.contexts and not case.free else np.ones_like(changed)
    inside = changed if case.contexts else np.ones_like(changed)
    close = psnr(array, right, inside) >= MIN_PSNR_CHANGED if inside.any() else True
    enough = outside.mean() >= MIN_UNTOUCHED
    untouched = psnr(array, right, outside) if enough else float("nan")
    within = np.abs(array - right).max(-1) <= 24
    return _Pixels(
        edited=close and _explained(array, right) and _nearer(array, right, case, changed),
        preserved=not untouched < MIN_PSNR_UNTOUCHED,
        psnr=psnr(array, right),
        psnr_untouched=untouched,
        untouched_share=float(within[outside].mean()) if enough else float("nan"),
    )


def _explained(array: np.ndarray, right: np.ndarray) -> bool:
    """Whether the picture shows most of what the right one shows, and not only its mean colour."""
    missing, there = (float(np.square(right - x).sum()) for x in (array, right.mean((0, 1))))
    return missing <= (1 - MIN_EXPLAINED) * there


def _picture(scene: Scene, array: np.ndarray) -> np.ndarray:
    """A scene in the size of a picture, float32 (h, w, 3)."""
    return _shown(scene, *array.shape[:2]).astype(np.float32)


def _changed(case: Case, right: np.ndarray) -> np.ndarray:
    """Where the right answer differs from the context that is edited, (h, w)."""
    if not case.contexts:
        return np.ones(right.shape[:2], dtype=bool)
    return np.abs(_picture(case.before, right) - right).max(-1) > 4


def _nearer(array: np.ndarray, right: np.ndarray, case: Case, changed: np.ndarray) -> bool:
    """Whether the change happened: there, the answer is clearly nearer than the input."""
    if not case.contexts or not changed.any():
        return True
    before = _picture(case.before, right)
    return _better(array[changed], right[changed], before[changed])


def _nothing_else(array: np.ndarray, found: Scene, wanted: Scene, known: Sequence[str]) -> bool:
    """Whether no other change, of what has not been read yet, explains the picture better.

    Most pictures are so near everywhere that nothing can be hidden in them, and need no reading.
    """
    if found != wanted or _worst_window(array, _picture(wanted, array)) >= SUSPICIOUS:
        return True  # what was read has its own verdicts
    right = _picture(wanted, array)
    if any(_better(array, spoiled, right) for spoiled in _spoiled(array, right)):
        return False
    others = _with_another(array, wanted, set(ATTRIBUTES) - set(IDENTITY) - set(known))
    return not any(_explains(array, other, right) for other in others)


def _with_another(array: np.ndarray, wanted: Scene, rest: set[str]) -> Iterable[Scene]:
    """The nearest scene for each block of attributes, small things first: they change unseen."""
    if "sign" in rest:
        yield _read_sign(array, wanted)
    for block in reversed(BLOCKS):
        if names := [name for name in block if name in rest]:
            yield _read_block(array, wanted, names)


def _spoiled(array: np.ndarray, right: np.ndarray) -> Iterable[np.ndarray]:
    """The right picture mirrored, shifted, blurred, and in the scored one's contrast and cast."""
    scale = unit(*right.shape[:2])
    yield right[:, ::-1]
    steps = [round(i * scale) for i in range(-SHIFTS, SHIFTS + 1)]
    yield from (np.roll(right, step, axis=(0, 1)) for step in product(steps, steps) if any(step))
    blur = ImageFilter.GaussianBlur(BLUR * scale)
    yield np.asarray(Image.fromarray(right.astype(np.uint8)).filter(blur)).astype(np.float32)
    mean, other = right.mean((0, 1)), array.mean((0, 1))
    gain = ((right - mean) * (array - other)).mean((0, 1)) / (right.var((0, 1)) + 1e-6)
    yield other + gain * (right - mean)


def _explains(array: np.ndarray, other: Scene, right: np.ndarray) -> bool:
    """Whether another scene is clearly nearer, where it differs from the right picture."""
    picture = _picture(other, array)
    where = np.abs(picture - right).max(-1) > 4
    return _better(array[where], picture[where], right[where])


def _better(array: np.ndarray, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether a picture is nearer than another one by a clear factor, in squared error."""
    to_one, to_other = (np.square(array - picture).sum() for picture in (one, other))
    return bool(to_one < NEARER * to_other)


def _worst_window(array: np.ndarray, right: np.ndarray) -> float:
    """PSNR in dB of the square window with the largest error."""
    error = np.square(array - right).mean(-1).astype(np.float64)
    sums = np.pad(error.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    n = min(max(1, round(WINDOW * unit(*error.shape))), *error.shape)
    windows = sums[n:, n:] - sums[:-n, n:] - sums[n:, :-n] + sums[:-n, :-n]
    return float(10 * np.log10(255**2 / max(windows.max() / n**2, 1e-9)))
