"""How unlikely may a right value be, and how far a picture from its drawing? Chosen on dev cases.

Right answers, mildly spoiled as a decoder or a file format would, set the limits; the planted wrong
answers of `bench.wrong_answers` show on the same cases what the limits stop.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from minikontext.bench.reader.judgement import apart, look
from minikontext.bench.reader.network import Limits, ReaderNetwork
from minikontext.bench.reader.pictures import MILD, show, spoil
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.sizes import TRAINED, Size

LEAST = 0.01
SURE = 0.997  # of the spoiled right answers show every value with the odds that are asked for
NEAR = 0.95  # of them are near enough: the furthest are further than any decoder goes
CASES = 1000


def dev_cases(count: int, seed: int = 24) -> list[Case]:
    """Cases of the dev split, on which every choice is made."""
    return [sample_case(i, 4, "dev", seed) for i in range(count)]


def spoiled_right(cases: Sequence[Case]) -> Iterator[tuple[Case, Tensor, Size]]:
    """The right answer to every case, in world units, mildly spoiled, and the size it was drawn in.

    Each in a size of its own.
    """
    for i, case in enumerate(cases):
        size = random.Random(f"calibration/{i}").choice(TRAINED)
        dice = torch.Generator().manual_seed(i)
        yield case, spoil(show([case.target], size), MILD, dice), size


def right_measures(network: ReaderNetwork, cases: Sequence[Case]) -> np.ndarray:
    """What each spoiled right answer needs, (cases, 7): the larger, the more.

    First how unlikely its least likely right value is, then its distances from its own drawing.
    """
    found = []
    for case, pixels, size in tqdm(list(spoiled_right(cases)), "right answers"):
        reading = look(network, pixels)
        far = apart(network, reading, case.target, size).flatten()
        found.append([1 - reading.least(case.target), *far.tolist()])
    return np.array(found)


def choose_limits(needs: np.ndarray, sure: float = SURE, near: float = NEAR) -> Limits:
    """The strictest limits that shares of the answers keep: `sure` the odds, `near` the distances.

    The six distances have one rank. A value less likely than LEAST is never taken for right.
    """
    unlikely = np.quantile(needs[:, 0], sure)
    far = needs[:, 1:]
    ranks = np.argsort(np.argsort(far, axis=0), axis=0).max(1)  # the rank that each answer needs
    rank = int(np.sort(ranks)[int(np.ceil(near * len(far))) - 1])
    return Limits(max(LEAST, float(1 - unlikely)), *(float(x) for x in np.sort(far, axis=0)[rank]))


def calibrated(network: ReaderNetwork, count: int = CASES) -> ReaderNetwork:
    """The network with limits chosen on dev cases."""
    limits = choose_limits(right_measures(network, dev_cases(count)))
    network.config = replace(network.config, limits=limits)
    return network
