"""Hard pictures: those in which a decoder takes a detail for another, found before it trains on.

In most pictures a trained decoder shows the right eyes; there is nothing left to learn from them.
So it is asked about many pictures once, and trains on the few that it confuses, again and again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext import files
from minikontext.autoencoder import AutoEncoder
from minikontext.errors import ConfigError
from minikontext.toyworld import Scene
from minikontext.training import data
from minikontext.training.autoencoder import AutoEncoderTraining, mistakes, sample_picture
from minikontext.training.mistakes import confusion

BATCH = 64


@dataclass(frozen=True)
class HardConfig:
    """What a config's [hard] says: the `count` hardest of `pool` pictures, drawn with `seed`."""

    pool: int
    count: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.count <= self.pool:
            raise ConfigError(f"hard: count={self.count} is not from 1 to pool={self.pool}")


def stored_hard(
    config: HardConfig, model: AutoEncoder, dials: AutoEncoderTraining, folder: Path
) -> list[Scene]:
    """The scenes that a config asks for; found once, their numbers are kept in `folder`."""
    mark = (config.pool, config.count, config.seed, dials.sign_share, dials.fine_share)
    path = folder / f"hard-{'-'.join(map(str, mark))}.json"
    if not path.exists():
        numbers = hardest(config, model, dials)
        with files.replacing(path) as temporary:
            temporary.write_text(json.dumps(numbers) + "\n")
    return [_scene(number, config, dials) for number in json.loads(path.read_text())]


def hardest(config: HardConfig, model: AutoEncoder, dials: AutoEncoderTraining) -> list[int]:
    """The numbers of the pictures that an autoencoder confuses most, the hardest first."""
    found: list[Tensor] = []
    for first in tqdm(range(0, config.pool, BATCH), desc="looking for hard pictures"):
        numbers = range(first, min(first + BATCH, config.pool))
        scenes = [_scene(number, config, dials) for number in numbers]
        found.append(hardness(model, scenes, config.seed * 1_000_003 + first))
    return torch.cat(found).argsort(descending=True, stable=True)[: config.count].tolist()


@torch.no_grad()
def hardness(model: AutoEncoder, scenes: list[Scene], seed: int) -> Tensor:
    """How far each picture is on the way to its worst mistake when it is decoded again, (n,)."""
    device = next(model.parameters()).device
    x = data.pixels(scenes)
    decoded = model.decoder(model.moments(x.to(device))[0]).float().cpu()
    return confusion(decoded, x, mistakes(scenes, x, seed)).amax(1)


def _scene(number: int, config: HardConfig, dials: AutoEncoderTraining) -> Scene:
    return sample_picture(number, config.seed, dials.sign_share, dials.fine_share)
