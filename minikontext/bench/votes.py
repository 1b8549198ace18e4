"""Pairwise votes to strengths: Bradley-Terry on the ELO scale, with intervals.

People who see two answers side by side say which is better. The model (Bradley and Terry 1952):
A wins against B with the probability 1 / (1 + 10^((elo_B - elo_A) / 400)). Its likelihood is
fitted at once (Hunter 2004), not vote by vote as in chess, so the order of the votes is no matter.
What is drawn again for an interval is a base picture with all its votes: votes on one picture are
no independent opinions.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from minikontext.bench import compare
from minikontext.errors import ConfigError

MEAN = 1000.0  # ELO has no zero of its own
DRAWS, ROUNDS = 1000, 300
PRIOR = 0.5  # of a win of each over each, so that who never lost is not infinitely strong


@dataclass(frozen=True)
class Vote:
    """One choice between the answers of two editors; `cluster` is the base picture."""

    winner: str
    loser: str
    cluster: Hashable


@dataclass(frozen=True)
class Rating:
    """A strength with its 95 % interval; only differences mean something."""

    elo: float
    low: float
    high: float


def ratings(votes: Sequence[Vote]) -> dict[str, Rating]:
    """Every editor's strength, the strongest first. Raises ConfigError for no votes."""
    names, best, drawn = _fitted(votes)
    lows, highs = np.percentile(drawn, (2.5, 97.5), axis=0)
    found = {n: Rating(*map(float, row)) for n, *row in zip(names, best, lows, highs, strict=True)}
    return dict(sorted(found.items(), key=lambda item: -item[1].elo))


def beside(votes: Sequence[Vote], first: str, second: str) -> compare.Comparison:
    """The first's ELO less the second's, from the same draws: decided, or not."""
    names, best, drawn = _fitted(votes)
    a, b = names.index(first), names.index(second)
    low, high = np.percentile(drawn[:, a] - drawn[:, b], (2.5, 97.5))
    clusters = len({vote.cluster for vote in votes})
    apart = float(best[a] - best[b])
    return compare.Comparison(apart, float(low), float(high), None, len(votes), clusters)


def strengths(wins: np.ndarray) -> np.ndarray:
    """ELO (..., n) of wins (..., n, n), row over column, by Hunter's iteration."""
    n = wins.shape[-1]
    wins = wins + PRIOR * (1 - np.eye(n))
    games, won = wins + wins.swapaxes(-1, -2), wins.sum(-1)
    p = np.ones(won.shape)
    for _ in range(ROUNDS):
        p = won / (games / (p[..., :, None] + p[..., None, :])).sum(-1)
        p = p / np.exp(np.log(p).mean(-1, keepdims=True))
    return MEAN + 400 / math.log(10) * np.log(p)


def _fitted(votes: Sequence[Vote]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, their ELO (n,), and the ELO of each draw of the clusters (draws, n)."""
    if not votes:
        raise ConfigError("Got no votes; a strength needs one at least.")
    names = sorted({name for vote in votes for name in (vote.winner, vote.loser)})
    clusters = list(dict.fromkeys(vote.cluster for vote in votes))
    place, row = ({x: i for i, x in enumerate(xs)} for xs in (names, clusters))
    wins = np.zeros((len(clusters), len(names), len(names)))
    for vote in votes:
        wins[row[vote.cluster], place[vote.winner], place[vote.loser]] += 1
    k = len(clusters)
    times = np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), size=DRAWS)
    drawn = strengths(np.einsum("dk,kij->dij", times, wins))
    return names, strengths(wins.sum(0)), drawn
