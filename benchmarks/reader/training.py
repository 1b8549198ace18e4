"""Training the reader: cross-entropy on scenes of its own, spoiled, at all sizes; by step.

`python -m benchmarks.reader --train` trains it, goes on where it was interrupted, and
calibrates it on dev cases. Nothing of the editors' training is in it, and it is in none of theirs.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.reader.pictures import HARD, draw_scene, spoil
from minikontext.bench.reader.judgement import show
from minikontext.bench.reader.network import (
    QUESTIONS,
    UNSEEN,
    ReaderConfig,
    ReaderNetwork,
    answers,
)
from minikontext.runtime.bounds import Count, Rate, Seed, Share
from minikontext.runtime.device import mixed_precision
from minikontext.toyworld.scene import Scene
from minikontext.toyworld.sizes import TRAINED, Size
from minikontext.toyworld.sizes import UNSEEN as NEW
from minikontext.training.loop import Loop, LoopConfig, LossFunction
from minikontext.training.models import averaged
from minikontext.training.runs import alone

# A judge may know every size that editors are asked for, those that they were not trained on too.
SIZES: tuple[Size, ...] = (*TRAINED, *NEW)
# Where the character, the left and the right thing stand, as shares of the width: what the world
# says, told while the network learns to look there. The network itself knows no places.
COLUMNS = {
    "left": (0.26, 0.625, 0.875),
    "middle": (0.5, 0.125, 0.875),
    "right": (0.74, 0.125, 0.375),
}
WORN = {
    "hat": (0.0, 31.0, 4.0),
    "scarf": (1.0, 53.0, 5.0),
    "bow": (7.0, 36.5, 4.0),
    "glasses": (0.0, 42.0, 5.0),
}  # from the character's column to the right, from the stage's top down, and how broad; units


@dataclass(frozen=True)
class ReaderTraining:
    """The recipe. A step sees `groups` sizes, and `batch` pictures of each.

    Pictures are spoiled more and more during the first `easy` of the steps: shapes are learned
    sooner where they can be seen. During the first `shown` of them each question is told where to
    look, less and less.
    """

    reader: ReaderConfig = field(default_factory=ReaderConfig)
    steps: Count = 3600
    batch: Count = 20
    groups: Count = 2
    easy: Share = 0.4
    shown: Share = 0.5
    lr: Rate = 2e-3
    muon_lr: Rate = 4e-3
    seed: Seed = 24
    bf16: bool = True

    @property
    def loop(self) -> LoopConfig:
        """Schedule and speed, by step."""
        return LoopConfig(self.steps, self.lr, self.muon_lr, warmup=50, decay=0.6, ema=0.99,
                          save_minutes=2, log_every=25)  # fmt: skip


def draw_batch(step: int, group: int, recipe: ReaderTraining) -> tuple[Tensor, list[Scene]]:
    """Spoiled pictures (b, 3, h, w) in world units and their scenes; the same on every call."""
    rng = random.Random(f"reader/{recipe.seed}/{step}/{group}")
    size = rng.choice(SIZES)
    scenes = [draw_scene(rng) for _ in range(recipe.batch)]
    draw = torch.Generator().manual_seed(rng.randrange(2**40))
    strength = min(1.0, 0.1 + 0.9 * step / (recipe.easy * recipe.steps))
    return spoil(show(scenes, size), HARD.times(strength), draw), scenes


def right_answers(scenes: list[Scene]) -> dict[str, Tensor]:
    """The right answer to every question about every scene, (b,) each."""
    rows = [answers(scene) for scene in scenes]
    return {name: torch.tensor([row[name] for row in rows]) for name in QUESTIONS}


def spots(scene: Scene, height: int, width: int) -> dict[str, tuple[float, float, float]]:
    """Where (x, y) the answers to some questions are to be seen, if they are, and how broad.

    All in units. height, width: of the picture in units.
    """
    above = max(0, height - width) * 2 / 3  # a tall picture has its sky there
    at, *sides = (share * width for share in COLUMNS[scene.place])
    found = dict.fromkeys(("species", "place"), (at, above + 42.0, 7.0))
    found |= dict.fromkeys(("colour", "pattern"), (at, above + 46.0, 6.0))
    found["eyes"] = (at, above + 42.0, 4.0)
    if scene.accessory != "none":
        x, y, broad = WORN[scene.accessory]
        found |= dict.fromkeys(("accessory", "accessory_colour"), (at + x, above + y, broad))
    for name, x in zip(("left", "right"), sides, strict=True):
        if getattr(scene, name) != "none":
            found |= dict.fromkeys((name, f"{name}_colour"), (x, above + 48.0, 4.5))
    return found | {f"letter_{i}": (12.0 + 8 * i, 11.5, 2.5) for i in range(len(scene.sign))}


def reading_loss(logits: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Cross-entropy, summed over the questions; what a picture does not show is left out.

    The letters count half: they are four questions of the same kind.
    """
    total = torch.zeros(())
    for name, predicted in logits.items():
        seen = (right[name] != UNSEEN).sum().clamp(min=1)
        each = F.cross_entropy(predicted, right[name], ignore_index=UNSEEN, reduction="sum")
        total = total + each / seen * (0.5 if name.startswith("letter") else 1.0)
    return total


def looking_loss(looks: Tensor, scenes: list[Scene], size: tuple[int, int]) -> Tensor:
    """How far each question's first map is from a spot around its answer.

    looks: as `ReaderNetwork.ask` returns them. size: (height, width) in units.
    """
    rows, columns = looks.shape[-2:]
    y = (torch.arange(rows) + 0.5)[:, None] * size[0] / rows
    x = (torch.arange(columns) + 0.5)[None] * size[1] / columns
    order, total, count = list(QUESTIONS), torch.zeros(()), 0
    for i, scene in enumerate(scenes):
        found = spots(scene, *size)
        at = torch.tensor([found[name] for name in found])
        far = (x - at[:, 0, None, None]) ** 2 + (y - at[:, 1, None, None]) ** 2
        wanted = (-far / (2 * at[:, 2, None, None] ** 2)).flatten(1).softmax(-1)
        predicted = looks[i, [order.index(name) for name in found], 0].flatten(1)
        total, count = total - (wanted * predicted).sum(), count + len(found)
    return total / count


def training_loss(model: ReaderNetwork, recipe: ReaderTraining) -> LossFunction:
    """The loss of a step, as a function of its number alone."""

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        total, facts = torch.zeros(()), {"right": 0.0, "looking": 0.0}
        shown = max(0.0, 1 - step / (recipe.shown * recipe.steps))
        for group in range(recipe.groups):
            pixels, scenes = draw_batch(step, group, recipe)
            size = pixels.shape[-2:]
            with mixed_precision(pixels.device, recipe.bf16):
                logits, looks = model.ask(model.extract_features(pixels), size)
            right, look = right_answers(scenes), looking_loss(looks, scenes, size)
            total = total + (reading_loss(logits, right) + 4 * shown * look) / recipe.groups
            facts["right"] += _share_right(logits, right) / recipe.groups
            facts["looking"] += float(look.detach()) / recipe.groups
        return total, facts

    return loss


def _share_right(logits: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    hits = sum(int((v.argmax(1) == right[k]).sum()) for k, v in logits.items())
    return hits / sum(int((v != UNSEEN).sum()) for v in right.values())


def new_loop(model: ReaderNetwork, recipe: ReaderTraining, run: Path) -> Loop:
    """The loop of a training, at its start."""
    return Loop(model, recipe.loop, run)


def train(run: Path, recipe: ReaderTraining | None = None) -> ReaderNetwork:
    """Train a reader in the folder `run`, or go on there; returns its averaged weights.

    Raises TrainingError where another process trains in it.
    """
    recipe = recipe or ReaderTraining()
    torch.manual_seed(recipe.seed)
    model = ReaderNetwork(recipe.reader)
    with alone(run):
        loop = new_loop(model, recipe, run)
        loop.resume()
        loop.run(training_loss(model, recipe))
        averaged(loop, model)
    return model.requires_grad_(False)
