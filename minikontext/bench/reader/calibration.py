"""How far may a picture lie from a drawing of what it shows? Chosen on dev cases.

Right answers, mildly spoiled as a decoder or a file format would, must pass; the planted wrong
answers of `bench.wrong_answers` show on the same cases what the limits stop. Only right answers
set them: each of the six distances gets the same quantile, the lowest at which ACCEPTED of the
right answers pass all six.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext.bench.reader.judgement import Reading, apart, look
from minikontext.bench.reader.network import Limits, ReaderNetwork
from minikontext.bench.reader.pictures import MILD, show, spoil
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.sizes import TRAINED, Size

ACCEPTED = 0.997  # of the spoiled right answers
CASES = 1500


def dev_cases(count: int, seed: int = 24) -> list[Case]:
    """Cases of the dev split, on which every choice is made."""
    return [sample_case(i, 4, "dev", seed) for i in range(count)]


def spoiled_right(cases: Sequence[Case]) -> Iterator[tuple[Case, Tensor, Size]]:
    """The right answer to every case, in world units, mildly spoiled, and the size it was drawn in.

    Each in a size of its own.
    """
    for i, case in enumerate(cases):
        size = random.Random(f"calibration/{i}").choice(TRAINED)
        draw = torch.Generator().manual_seed(i)
        yield case, spoil(show([case.target], size), MILD, draw), size


def right_distances(network: ReaderNetwork, cases: Sequence[Case]) -> Tensor:
    """How far spoiled right answers lie from the drawing of what they show, (cases, 3, 2)."""
    found = []
    for case, pixels, size in tqdm(list(spoiled_right(cases)), "right answers"):
        reading: Reading = look(network, pixels)
        found.append(apart(network, reading, case.target, size))
    return torch.stack(found)


def choose_limits(right: Tensor, accepted: float = ACCEPTED) -> Limits:
    """The lowest limits, one quantile for all six, within which a share of the answers lies."""
    rows = right.flatten(1).numpy()
    ranks = np.argsort(np.argsort(rows, axis=0), axis=0).max(1)  # the rank that each answer needs
    rank = int(np.sort(ranks)[int(np.ceil(accepted * len(rows))) - 1])
    limits = np.sort(rows, axis=0)[rank]
    return Limits(*(float(np.ceil(limit * 1e5) / 1e5) for limit in limits))


def calibrated(network: ReaderNetwork, count: int = CASES) -> ReaderNetwork:
    """The network with limits chosen on dev cases."""
    limits = choose_limits(right_distances(network, dev_cases(count)))
    network.config = replace(network.config, limits=limits)
    return network
