"""The oracle: reads a picture back into a scene and scores an edit exactly.

It knows the renderer, so it reads by synthesis: of all values that an attribute can take, the one
whose picture is nearest is the one that is shown. Nothing is judged by eye and nothing is learned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from PIL import Image

from minikontext.toyworld.edits import Case
from minikontext.toyworld.render import UNITS, render
from minikontext.toyworld.scene import (
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
MIN_UNTOUCHED = 0.05  # of the picture: what a new style leaves alone by chance is no measure
NEARER = 0.5  # the right picture must be nearer than the best wrong one by this factor


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

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {**asdict(self), "success": self.success}


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
def _shown(scene: Scene) -> np.ndarray:
    """A scene at 64 x 64, kept: answers to the same case are compared with the same scenes."""
    return render(scene)


def _distance(picture: np.ndarray, scene: Scene) -> float:
    size = picture.shape[:2]
    shown = _shown(scene) if size == (UNITS, UNITS) else render(scene, *size)
    return float(np.square(picture - shown).sum())


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

    Followed: every claimed attribute reads as in the target, and where the target differs from the
    context the picture is nearer to the target by a clear factor. Preserved: the rest is unchanged.
    Identity: the character's species, colour, pattern and eyes read as they should, the colour only
    in styles that show it.
    """
    array = as_array(picture)
    identity = [n for n in IDENTITY if n != "colour" or case.target.style not in COLOURLESS]
    attributes = (*case.claims, *case.free, *identity)
    found = read(array, case.target, attributes)
    wanted = case.target.change(**{name: getattr(found, name) for name in case.free})
    right = render(wanted, *array.shape[:2]).astype(np.float32)
    changed = _changed(case, right)
    outside = ~changed if case.contexts and not case.free else np.ones_like(changed)
    inside = changed if case.contexts else np.ones_like(changed)
    followed = all(getattr(found, name) == getattr(wanted, name) for name in case.claims)
    close = psnr(array, right, inside) >= MIN_PSNR_CHANGED if inside.any() else True
    enough = outside.mean() >= MIN_UNTOUCHED
    untouched = psnr(array, right, outside) if enough else float("nan")
    within = np.abs(array - right).max(-1) <= 24
    return Score(
        followed=followed and close and _nearer(array, right, case, changed),
        preserved=not untouched < MIN_PSNR_UNTOUCHED,
        identity=all(getattr(found, n) == getattr(wanted, n) for n in identity),
        psnr=psnr(array, right),
        psnr_untouched=untouched,
        untouched_share=float(within[outside].mean()) if enough else float("nan"),
        read=found,
    )


def _changed(case: Case, right: np.ndarray) -> np.ndarray:
    """Where the right answer differs from the first context, (h, w)."""
    if not case.contexts:
        return np.ones(right.shape[:2], dtype=bool)
    before = render(case.contexts[0], *right.shape[:2]).astype(np.float32)
    return np.abs(before - right).max(-1) > 4


def _nearer(array: np.ndarray, right: np.ndarray, case: Case, changed: np.ndarray) -> bool:
    """Whether the change happened: there, the answer is clearly nearer than the input."""
    if not case.contexts or not changed.any():
        return True
    before = render(case.contexts[0], *right.shape[:2]).astype(np.float32)
    to_right, to_input = (np.square(array - other)[changed].sum() for other in (right, before))
    return bool(to_right < NEARER * to_input)
