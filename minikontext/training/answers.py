"""What an editor makes of training cases, of one or of several in a row, kept for a training.

The latents have its own errors; in a row they grow. A decoder is trained on them as they are;
`chains` makes contexts of them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import weights
from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Scene, sample_scene
from minikontext.toyworld.edits import OPERATIONS, make_case
from minikontext.toyworld.scene import level as scene_level
from minikontext.training.data import training_case

BATCH = 64
TRIES = 40  # to go on from a scene; some have hardly anything left that is not held out
# No context, a new picture or a new character: nothing that could fade would be handed on.
AFRESH = (
    "text_to_image", "style_reference", "character_reference", "replace_character",
    "recolour_character", "change_pattern", "change_eyes",
)  # fmt: skip


@dataclass(frozen=True)
class AnswersConfig:
    """What a config's [answers] says: an editor, a folder or a shipped name, and its cases.

    level, seed: of the cases. count: how many. steps: of sampling. turns: edits in a row, each from
    the answer before; every `turns`-th of the cases starts anew.
    """

    editor: str
    level: int
    count: int
    seed: int = 0
    steps: int = 4
    turns: int = 1

    def __post_init__(self) -> None:
        if self.turns < 1 or self.count % self.turns:
            raise ConfigError(f"answers: count={self.count} is no multiple of turns={self.turns}")


@dataclass(frozen=True)
class Answers:
    """What an editor made of training cases: normalised latents (n, c, h, w), and what is right."""

    latents: Tensor
    scenes: list[Scene]

    def some(self, count: int, rng: random.Random) -> tuple[Tensor, list[Scene]]:
        """A random few."""
        rows = [rng.randrange(len(self.scenes)) for _ in range(count)]
        return self.latents[rows].float(), [self.scenes[row] for row in rows]


def open_editor(place: str, autoencoder: AutoEncoder, device: torch.device) -> KontextPipeline:
    """The editor of a folder or a shipped name. Raises ConfigError if its latents are others."""
    pipe = KontextPipeline.from_pretrained(place, device=device, dtype="float32")
    if not pipe.autoencoder.same_latents(autoencoder):
        raise ConfigError(f"{place} was trained on another encoder's latents; name another editor")
    return pipe


def stored_answers(config: AnswersConfig, pipe: KontextPipeline, folder: Path) -> Answers:
    """The answers that a config asks for; made once, and kept in `folder`."""
    rows = [[case] for case in told_cases(config)] if config.turns == 1 else [
        chain(i, config.level, config.turns, config.seed)
        for i in range(config.count // config.turns)
    ]  # fmt: skip
    mark = f"{pipe.weights_sha256[:12]}-{config.level}-{config.seed}-{config.steps}-{config.turns}"
    path = folder / f"answers-{mark}-{config.count}.safetensors"
    if not path.exists():
        weights.save({"latents": answer(pipe, rows, config.steps)}, path, torch.bfloat16)
    return Answers(weights.load(path)["latents"], [case.target for row in rows for case in row])


def told_cases(config: AnswersConfig) -> list[Case]:
    """Training cases with one context and one right answer."""
    cases = (training_case(i, config.level, config.seed) for i in itertools.count())
    # Where something is free, other answers are right as well.
    told = (case for case in cases if not case.free and len(case.contexts) == 1)
    return list(itertools.islice(told, config.count))


def answer(pipe: KontextPipeline, rows: list[list[Case]], steps: int) -> Tensor:
    """The latents (n, c, h, w) that an editor makes of rows of cases, one row after the other.

    Each case of a row starts from the latents that the one before ended with. All rows are equally
    long; seeds are the cases' numbers.
    """
    turns, made = len(rows[0]), []
    for first in tqdm(range(0, len(rows), BATCH), desc="the editor answers"):
        some = rows[first : first + BATCH]
        given: list = [row[0].context_images() for row in some]
        answers = []
        for turn in range(turns):
            seeds = [turns * (first + i) + turn for i in range(len(some))]
            prompts = [row[turn].prompt for row in some]
            out = pipe(prompts, image=given, seed=seeds, num_inference_steps=steps, progress=False)
            given = [[out[i]] for i in range(len(some))]
            answers.append(out.latents.cpu())
        made.append(torch.stack(answers, 1).flatten(0, 1))
    return torch.cat(made)


def chain(index: int, level: int, turns: int, seed: int = 0) -> list[Case]:
    """Chain number `index`: each edit starts from the scene of the one before; none is held out.

    Raises ConfigError for a level without such edits.
    """
    for start in itertools.count():
        rng = random.Random(f"{seed}/chain/{index}/{start}")
        cases = list(itertools.islice(_edits(rng, level), turns))
        if len(cases) == turns:
            return cases


def _edits(rng: random.Random, level: int) -> Iterator[Case]:
    """Edits in a row, until none can be found for the scene."""
    scene = sample_scene(rng, level)
    known = scene_level(level).operations
    names = [name for name in OPERATIONS if name in known and name not in AFRESH]
    if not names:
        raise ConfigError(f"chains: level {level} has no edits that leave the character as it is")
    while True:
        tries = (make_case(rng.choice(names), rng, scene, level) for _ in range(TRIES))
        fits = (c for c in tries if c.contexts == (scene,) and not c.unseen and c.target != scene)
        case = next(fits, None)
        if case is None:
            return
        yield case
        scene = case.target
