"""What the reader says of an edited picture: was it followed, is the rest preserved, who is it?

Reading settles the attributes; it does not see pixels. So the picture is also laid beside a drawing
of what was read, in the reader's own features: a mirrored, shifted, faded or smeared picture reads
like the right one and lies far from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minikontext.bench.reader.network import (
    HOME,
    ILLEGIBLE,
    UNSEEN,
    ReaderNetwork,
    Seen,
    answers,
    distances,
    hidden_colours,
    load_network,
    remains,
    scene_of,
    to_units,
)
from minikontext.errors import WeightsError
from minikontext.toyworld.edits import Case
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import ATTRIBUTES, IDENTITY, Scene
from minikontext.toyworld.sizes import Size


@dataclass(frozen=True)
class Verdict:
    """What the reader found; `success` is all of `followed`, `preserved` and `identity`.

    `read` is the scene that the picture shows, with the benefit of the doubt: see `seen_as`.
    `confidence` is the probability of its least certain answer, `distance` how far the picture lies
    from a drawing of it, `remains` how much of the input is left in it; of both, 1 is the limit.
    """

    followed: bool
    preserved: bool
    identity: bool
    read: Scene
    confidence: float
    distance: float
    remains: float

    @property
    def success(self) -> bool:
        """Instruction followed, the rest preserved, the character still itself."""
        return self.followed and self.preserved and self.identity


@dataclass(frozen=True)
class Reading:
    """The likeliest scene, the probability of every answer to every question, and what was seen."""

    scene: Scene
    odds: dict[str, Tensor]
    seen: Seen

    def least(self, scene: Scene) -> float:
        """The lowest probability among a scene's answers; what it does not show does not count."""
        seen = {name: answer for name, answer in answers(scene).items() if answer != UNSEEN}
        return min(float(self.odds[name][answer]) for name, answer in seen.items())


class Reader:
    """The second judge: a network that reads scenes, and limits for how a picture may look.

    Raises WeightsError for a network that was not calibrated.
    """

    def __init__(self, network: ReaderNetwork) -> None:
        if network.config.limits is None:
            raise WeightsError("A reader without limits. Calibrate it: see data/reader/README.md.")
        self.network, self.limits = network, network.config.limits

    def read(self, picture: Image.Image | np.ndarray) -> Scene:
        """The scene that a picture of any size shows."""
        return predict(self.network, as_pixels(picture)).scene

    def judge(self, picture: Image.Image | np.ndarray, case: Case) -> Verdict:
        """Judge an edited picture against its case; any size is accepted.

        Followed: every claim reads as in the target, and little of the input is left. Identity:
        species, pattern, eyes, and the colour where the style shows it. Preserved: every other
        attribute reads as in the target, and the picture is what it reads as. On free attributes
        any value is right.
        """
        reading, size = predict(self.network, as_pixels(picture)), size_of(picture)
        wanted = case.target.change(**{n: getattr(reading.scene, n) for n in case.free})
        found = seen_as(reading, wanted, self.limits.doubt)
        far = distances(reading.seen, drawn(self.network, found, size)) / self.limits.as_tensor()
        left = left_over(self.network, reading, case, wanted, size) / self.limits.remains
        wrong = {n for n in ATTRIBUTES if getattr(found, n) != getattr(wanted, n)}
        return Verdict(
            followed=not wrong & {*case.claims} and left <= 1,
            preserved=not wrong - {*case.claims, *IDENTITY} and float(far.max()) <= 1,
            identity=not wrong & {*IDENTITY},
            read=found,
            confidence=round(reading.least(found), 4),
            distance=round(float(far.max()), 4),
            remains=round(left, 4),
        )


def seen_as(reading: Reading, wanted: Scene, doubt: float) -> Scene:
    """The scene that was read, with the benefit of the doubt.

    The wanted value is taken wherever its probability is at least `doubt`, and where a picture of
    the wanted scene would not show it.
    """
    right, predicted = answers(wanted), answers(reading.scene)
    for name, answer in right.items():
        if answer != UNSEEN and float(reading.odds[name][answer]) >= doubt:
            predicted[name] = answer
    found = scene_of({name: max(0, answer) for name, answer in predicted.items()})
    found = found.change(**{name: getattr(wanted, name) for name in hidden_colours(wanted)})
    unread = wanted.style in ILLEGIBLE and len(found.sign) == len(wanted.sign)
    return found.change(sign=wanted.sign) if unread else found


def draw(scenes: Sequence[Scene], size: Size) -> Tensor:
    """Scenes as pixels (b, 3, h, w) in 0..1, drawn in a size = (width, height)."""
    drawn = np.stack([render(scene, size[1], size[0]) for scene in scenes])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def show(scenes: Sequence[Scene], size: Size) -> Tensor:
    """Scenes drawn in a size and brought to world units, (b, 3, h, w) in 0..1."""
    return to_units(draw(scenes, size))


@torch.no_grad()
def predict(network: ReaderNetwork, pixels: Tensor) -> Reading:
    """Read one picture, (1, 3, h, w) in 0..1."""
    pixels = to_units(pixels)
    maps = network.extract_features(pixels)
    logits, _ = network.ask(maps, pixels.shape[-2:])
    odds = {name: values[0].softmax(-1) for name, values in logits.items()}
    return Reading(
        scene_of({name: int(p.argmax()) for name, p in odds.items()}), odds, (pixels, maps)
    )


@torch.no_grad()
def drawn(network: ReaderNetwork, scene: Scene, size: tuple[int, int]) -> Seen:
    """A scene drawn in a size = (width, height), and its feature maps."""
    pixels = show([scene], size)
    return pixels, network.extract_features(pixels)


def left_over(
    network: ReaderNetwork, reading: Reading, case: Case, wanted: Scene, size: tuple[int, int]
) -> float:
    """How much of the input is left in an answer; 0 where there is none, or nothing to change."""
    if case.before is None or case.before == wanted:
        return 0.0
    before = drawn(network, case.before, size)
    return remains(reading.seen, drawn(network, wanted, size), before)


def as_pixels(picture: Image.Image | np.ndarray) -> Tensor:
    """A picture as (1, 3, h, w) in 0..1. Raises ValueError for an array that is no picture."""
    array = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(f"got an array of shape {array.shape}; the reader reads (h, w, 3)")
    return torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None] / 255


def size_of(picture: Image.Image | np.ndarray) -> tuple[int, int]:
    """Width and height of a picture."""
    if isinstance(picture, Image.Image):
        return picture.size
    return picture.shape[1], picture.shape[0]


# ---------------------------------------------------------------- one line for others


@lru_cache
def load(folder: Path = HOME) -> Reader:
    """The reader of a folder, by default the shipped one; loaded once. Raises WeightsError."""
    return Reader(load_network(folder))


def read(picture: Image.Image | np.ndarray) -> Scene:
    """The scene that a picture shows, by the shipped reader."""
    return load().read(picture)


def judge(picture: Image.Image | np.ndarray, case: Case) -> Verdict:
    """The shipped reader's verdict on an edited picture."""
    return load().judge(picture, case)
