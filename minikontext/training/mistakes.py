"""How near a picture is to a mistake: eyes, a pattern or a character that look like others.

What tells two pairs of eyes apart are a few pale pixels. A mean square hardly sees them, whoever
looks at the picture does. So the loss here looks along the way from the right picture to the wrong
one, in pixels or in latents. The same way leads to characters that the world does not have, half
plain and half spotted: see `between`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.toyworld.edits import Case
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import CHOICES, Scene, sample_scene
from minikontext.toyworld.split import held_out

MISTAKEN = ("eyes", "pattern", "accessory_colour", "colour", "species")
BETWEEN = ("eyes", "pattern", "colour", "species")  # what may be half-way to something else
UNSEEN = 1e-2  # a smaller squared difference, pixels in [-1, 1] or latents, is hardly any
COMPARED = 16  # scenes in which values are compared, to say how alike they are


def mistaken(scenes: Sequence[Scene], seed: int) -> list[list[Scene]]:
    """The scenes with other eyes, with another pattern, and so on: a list for each of MISTAKEN.

    The other value is drawn, the more alike the oftener. Where the attribute cannot be seen, nor
    can the mistake.
    """
    rng = random.Random(seed)
    return [[mistake(scene, name, rng) for scene in scenes] for name in MISTAKEN]


def mistake(scene: Scene, name: str, rng: random.Random) -> Scene:
    """The scene with another value of an attribute, drawn by likeness; no held-out character."""
    given = likeness(name, getattr(scene, name)).items()
    others = {scene.change(**{name: value}): alike for value, alike in given}
    known = {other: alike for other, alike in others.items() if not _unknown(other)}
    return rng.choices(list(known), list(known.values()))[0] if known else scene


def between(case: Case, rng: random.Random) -> tuple[Scene, Scene]:
    """Context and target of an edit with another character, one to all of BETWEEN exchanged.

    A pair on the way there shows a character that there is not, and the edit leaves it as it is.
    Where it does not, or has another number of contexts, both scenes come back unchanged.
    """
    if len(case.contexts) != 1 or case.contexts[0].identity != case.target.identity:
        return (case.contexts or (case.target,))[0], case.target
    names = rng.sample(BETWEEN, rng.randint(1, len(BETWEEN)))
    other = case.target
    for name in names:
        other = mistake(other, name, rng)
    values = {name: getattr(other, name) for name in names}
    return case.contexts[0].change(**values), other


def _unknown(scene: Scene) -> bool:
    """Whether the character is held out, and no editor may see it."""
    return held_out("identity", *scene.identity)


@cache
def likeness(name: str, value: str) -> dict[str, float]:
    """How alike the other values of an attribute look: 1 over the mean squared difference."""
    rng = random.Random(0)
    scenes = [sample_scene(rng).change(style="plain") for _ in range(COMPARED)]

    def look(value: str) -> np.ndarray:
        return np.stack([render(scene.change(**{name: value})) for scene in scenes]) / 255

    right = look(value)
    others = [other for other in CHOICES[name] if other != value]
    return {other: 1 / float(np.square(look(other) - right).mean()) for other in others}


def confusion(made: Tensor, target: Tensor, mistakes: Tensor) -> Tensor:
    """How far something made is on the way from the target to each mistake, (b, k).

    made, target (b, c, h, w), pixels or latents; mistakes (b, k, c, h, w): what each would change.
    0: not at all. From 0.5 on the mistake is nearer, and is what the oracle reads. Contrast is no
    matter: in a pale picture the way is short.
    """
    way = ((made - target)[:, None] * mistakes).sum((2, 3, 4))
    return way / mistakes.pow(2).sum((2, 3, 4)).clamp(min=UNSEEN)


def confusion_loss(
    made: Tensor, target: Tensor, mistakes: Tensor, squared_below: float = 0.25
) -> Tensor:
    """The mean of `confusion`, values below `squared_below` squared.

    Steps away from a mistake count as well: who exaggerates goes astray in a chain of edits, too.
    """
    way = confusion(made, target, mistakes)
    return F.smooth_l1_loss(way, torch.zeros_like(way), beta=squared_below)


def local_error(
    made: Tensor, target: Tensor, mistakes: Tensor, visible: float = 4 / 127.5
) -> Tensor:
    """The squared error where each mistake would show, over the mistake's own, (b, k).

    Shapes as for `confusion`, which sees only what leads to the mistake: a detail can be blurred or
    miss its edges and not look like any other. The oracle wants the right picture nearer by a clear
    factor; from 1 on, an error that leads neither to the mistake nor away from it is too large.
    """
    shown = (mistakes.abs().amax(2) > visible).to(made.dtype)
    error = ((made - target).pow(2).sum(1)[:, None] * shown).sum((2, 3))
    return error / mistakes.pow(2).sum((2, 3, 4)).clamp(min=UNSEEN)
