"""The reader's limits, chosen on dev cases: halfway between right answers and bad ones.

Right answers are mildly spoiled, as a decoder or a file format would; bad ones are blurred,
shifted, noisy, tinted, or half the input. A limit of a picture's distance, or of what remains of
the input, lies halfway between what nearly all right answers need and what nearly all bad ones
exceed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

from benchmarks.reader.pictures import MILD, spoil
from minikontext.bench.reader.judgement import drawn, left_over, predict, show
from minikontext.bench.reader.network import Limits, ReaderNetwork, distances
from minikontext.toyworld.edits import Case, sample_case
from minikontext.toyworld.sizes import TRAINED, Size

LEAST = 0.01
SURE = 0.997  # of the right answers show every value with the odds that are asked for
NEAR = 0.95  # of the right answers are nearer than where the way to the bad ones begins
BAD = 0.05  # of the bad ones are nearer than where it ends
CASES = 600

# What is wrong in every pixel. Strengths are those at which nobody would call it the same picture.
LOOKS: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "blurred": lambda x, dice: F.avg_pool2d(F.avg_pool2d(x, 5, 1, 2), 5, 1, 2),
    "shifted": lambda x, dice: x.roll(2, -1),
    "noisy": lambda x, dice: (x + 0.2 * torch.randn(x.shape, generator=dice)).clamp(0, 1),
}
TINTS: dict[str, Callable[[Tensor], Tensor]] = {
    "pale": lambda x: 0.25 + x / 2,
    "red": lambda x: (x + torch.tensor([0.24, 0, 0])[:, None, None]).clamp(0, 1),
}


def dev_cases(count: int, seed: int = 24) -> list[Case]:
    """Cases of the dev split, on which every choice is made."""
    return [sample_case(i, 4, "dev", seed) for i in range(count)]


def right_answers(cases: Sequence[Case]) -> Iterator[tuple[Case, Size, Tensor, torch.Generator]]:
    """Cases, each with a size, its right answer drawn there, in world units, and dice."""
    for i, case in enumerate(tqdm(cases, "calibrating")):
        size = random.Random(f"calibration/{i}").choice(TRAINED)
        yield case, size, show([case.target], size), torch.Generator().manual_seed(i)


def measures(network: ReaderNetwork, cases: Sequence[Case]) -> dict[str, np.ndarray]:
    """What right and bad answers need, by name.

    "doubt": how unlikely a spoiled right answer's least likely value is, (n,). "right", "looks",
    "tints": distances of such answers from their drawing, (n, 7). "left": what remains of the input
    in spoiled right answers, "half" in those that are half the input, (n,).
    """
    found: dict[str, list] = {n: [] for n in ("doubt", "right", "looks", "tints", "left", "half")}
    for case, size, right, dice in right_answers(cases):
        own, reading = drawn(network, case.target, size), predict(network, spoil(right, MILD, dice))
        found["doubt"].append(1 - reading.least(case.target))
        found["right"].append(distances(reading.seen, own).tolist())
        wrong = {"looks": [bad(right, dice) for bad in LOOKS.values()]}
        wrong["tints"] = [bad(right) for bad in TINTS.values()]
        for kind, pictures in wrong.items():
            found[kind] += [distances(predict(network, x).seen, own).tolist() for x in pictures]
        if case.before and case.before != case.target:
            half = predict(network, (right + show([case.before], size)) / 2)
            for name, one in (("left", reading), ("half", half)):
                found[name].append(left_over(network, one, case, case.target, size))
    return {name: np.array(values) for name, values in found.items()}


def choose_limits(needs: dict[str, np.ndarray]) -> Limits:
    """The limits that `measures` lead to. A value less likely than LEAST is never taken for right.

    The distances of features are scaled together, so that their proportions stay those of right
    answers; the distance of colours is against the tinted ones, for which it is there.
    """
    right, looks, tints = (needs[name] for name in ("right", "looks", "tints"))
    near = np.quantile(right, NEAR, axis=0)
    scaled = ((some / near)[:, 1:].max(1) for some in (right, looks))
    slack = np.exp(_halfway(*map(np.log, scaled)))  # of features: in proportion
    colour, left = _halfway(right[:, 0], tints[:, 0]), _halfway(needs["left"], needs["half"])
    doubt = max(LEAST, float(1 - np.quantile(needs["doubt"], SURE)))
    return Limits(doubt, left, colour, *(float(x) for x in slack * near[1:]))


def _halfway(right: np.ndarray, bad: np.ndarray) -> float:
    """The middle between what most right answers need and what most bad ones exceed."""
    return float(np.quantile(right, NEAR) + np.quantile(bad, BAD)) / 2


def calibrated(network: ReaderNetwork, count: int = CASES) -> ReaderNetwork:
    """The network with limits chosen on dev cases."""
    limits = choose_limits(measures(network, dev_cases(count)))
    network.config = replace(network.config, limits=limits)
    return network
