"""How near a picture is to a mistake: eyes, a pattern or an accessory that look like others.

What tells two pairs of eyes apart are a few pale pixels. A mean square hardly sees them, whoever
looks at the picture does. So the loss here looks along the way from the right picture to the wrong
one, in pixels or in latents.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.toyworld.scene import CHOICES, Scene

MISTAKEN = ("eyes", "pattern", "accessory_colour")
UNSEEN = 1e-2  # a smaller squared difference, pixels in [-1, 1] or latents, is hardly any


def mistaken(scenes: Sequence[Scene], seed: int) -> list[list[Scene]]:
    """The scenes with other eyes, with another pattern, with another colour of glasses or hat.

    The other value is drawn. Where the attribute cannot be seen, nor can the mistake.
    """
    rng, found = random.Random(seed), []
    for name in MISTAKEN:
        others = [[v for v in CHOICES[name] if v != getattr(scene, name)] for scene in scenes]
        changed = [s.change(**{name: rng.choice(o)}) for s, o in zip(scenes, others, strict=True)]
        found.append(changed)
    return found


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
