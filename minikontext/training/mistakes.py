"""How near a picture is to a mistake: eyes, a pattern or a character that look like others.

What tells two pairs of eyes apart are a few pale pixels. A mean square hardly sees them, whoever
looks at the picture does. So the loss here looks along the way from the right picture to the wrong
one, in pixels or in latents. And pictures that have gone a part of that way are what an editor is
given late in a chain of edits: see `one_mistake`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.toyworld.render import render
from minikontext.toyworld.scene import CHOICES, Scene, sample_scene

MISTAKEN = ("eyes", "pattern", "accessory_colour", "colour", "species")
UNSEEN = 1e-2  # a smaller squared difference, pixels in [-1, 1] or latents, is hardly any
COMPARED = 16  # scenes in which values are compared, to say how alike they are


def mistaken(scenes: Sequence[Scene], seed: int) -> list[list[Scene]]:
    """The scenes with other eyes, with another pattern, and so on: a list for each of MISTAKEN.

    The other value is drawn, the more alike the oftener. Where the attribute cannot be seen, nor
    can the mistake.
    """
    rng = random.Random(seed)
    return [[mistake(scene, name, rng) for scene in scenes] for name in MISTAKEN]


def one_mistake(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one of the mistakes that change it at all."""
    names = [n for n in MISTAKEN if n != "accessory_colour" or scene.accessory != "none"]
    return mistake(scene, rng.choice(names), rng)


def mistake(scene: Scene, name: str, rng: random.Random) -> Scene:
    """The scene with another value of an attribute, drawn by likeness."""
    others = likeness(name, getattr(scene, name))
    return scene.change(**{name: rng.choices(list(others), list(others.values()))[0]})


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


def confusion_loss(made: Tensor, target: Tensor, mistakes: Tensor) -> Tensor:
    """The mean of `confusion`, small values squared; steps away from a mistake cost nothing."""
    towards = confusion(made, target, mistakes).relu()
    return F.smooth_l1_loss(towards, torch.zeros_like(towards), beta=0.25)
