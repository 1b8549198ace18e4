"""What an editor makes of training cases: latents with its own small errors, kept for a training.

A decoder is trained on them as they are; `chains` makes contexts of them.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import safetensors_io
from minikontext.runtime.bounds import Count, Level, Seed, Steps
from minikontext.toyworld import Case, Scene
from minikontext.training.data import training_case

BATCH = 64


@dataclass(frozen=True)
class AnswersConfig:
    """What a config's [answers] says: an editor, a folder or a shipped name, and its cases.

    level, seed: of the cases. count: how many. steps: of sampling.
    """

    editor: str
    level: Level
    count: Count
    seed: Seed = 0
    steps: Steps = 4


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
    cases = (training_case(i, config.level, config.seed) for i in itertools.count())
    # Where something is free, other answers are right as well.
    told = (case for case in cases if not case.free and len(case.contexts) == 1)
    chosen = list(itertools.islice(told, config.count))
    mark = f"{pipe.weights_fingerprint[:12]}-{config.level}-{config.seed}-{config.steps}"
    path = folder / f"answers-{mark}-{config.count}.safetensors"
    if not path.exists():
        safetensors_io.save({"latents": answer(pipe, chosen, config.steps)}, path, torch.bfloat16)
    return Answers(safetensors_io.load(path)["latents"], [case.target for case in chosen])


def answer(pipe: KontextPipeline, cases: list[Case], steps: int) -> Tensor:
    """The latents (n, c, h, w) that an editor makes of cases; seeds are the cases' numbers."""
    made: list[Tensor] = []
    for first in tqdm(range(0, len(cases), BATCH), desc="the editor answers"):
        some = cases[first : first + BATCH]
        seeds = list(range(first, first + len(some)))
        given = [case.context_images() for case in some]
        prompts = [case.prompt for case in some]
        out = pipe(prompts, image=given, seed=seeds, num_inference_steps=steps, progress=False)
        made.append(out.latents.cpu())
    return torch.cat(made)
