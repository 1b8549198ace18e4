"""One statistics engine for every table and every printed claim; "not decided" is an answer.

Three seeds of a case are not three cases, and cases that start from one base scene are alike. So an
observation names its cluster, and what is drawn again is the cluster with all that is in it:

- `interval`: the cluster bootstrap, percentile method (Davison and Hinkley 1997, section 3.8;
  Field and Welsh 2007). Clusters of one are the usual bootstrap.
- `intraclass`: how alike a cluster's observations are (Fisher 1925; unequal sizes as in Donner
  1986), and `design_effect`: by how much a naive variance is too small (Kish 1965).
- `p_value`: are two editors equally good on the same cases? With one pair a cluster this is
  McNemar's exact test (McNemar 1947); otherwise the signs of whole clusters are flipped, of which
  McNemar's is the special case.
- `paired`, `unpaired`: the difference of two editors as a `Comparison`, and whether it is decided.
- `rate`: k of n independent tries with Wilson's interval (Wilson 1927), good near 0 and 1, too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from minikontext.errors import ConfigError

CONFIDENCE = 0.95
DRAWS = 4000
NOT_DECIDED = "not decided"
Values = Sequence[float] | np.ndarray
Clusters = Sequence[Hashable] | None  # None: every observation is its own


def interval(values: Values, clusters: Clusters = None) -> tuple[float, float]:
    """Where the mean of observations lies with 95 % confidence; (0, 0) of none."""
    sums, counts = _by_cluster(values, clusters)
    return _middle(_drawn_means(sums, counts, seed=0)) if len(sums) else (0.0, 0.0)


def percent_interval(values: Values, clusters: Clusters = None) -> tuple[float, float]:
    """The same in percent with one decimal, as tables show it."""
    low, high = interval(values, clusters)
    return round(100 * low, 1), round(100 * high, 1)


def intraclass(values: Values, clusters: Sequence[Hashable]) -> float:
    """Correlation of observations of one cluster, from an analysis of variance: 1 is "the same".

    Can be a little below 0; 0.0 where nothing varies or no cluster has two observations.
    """
    sums, counts = _by_cluster(values, clusters)
    k, n = len(counts), counts.sum()
    if k < 2 or n <= k:
        return 0.0
    y, mean = np.asarray(values, dtype=float), sums.sum() / n
    between = (counts * (sums / counts - mean) ** 2).sum()
    within = (((y - mean) ** 2).sum() - between) / (n - k)
    between, size = between / (k - 1), (n - (counts**2).sum() / n) / (k - 1)
    whole = between + (size - 1) * within
    return float((between - within) / whole) if whole > 0 else 0.0


def design_effect(values: Values, clusters: Sequence[Hashable]) -> float:
    """By how much clusters widen the variance of the mean: n / this is the number that counts."""
    _, counts = _by_cluster(values, clusters)
    return 1 + ((counts**2).sum() / counts.sum() - 1) * max(0.0, intraclass(values, clusters))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact p: of pairs that differ, each side wins half if both are equally good."""
    n, k = only_first + only_second, min(only_first, only_second)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


def p_value(differences: Values, clusters: Clusters = None) -> float:
    """How often a difference at least as large comes about if both are equally good: two-sided."""
    sums, counts = _by_cluster(differences, clusters)
    if (counts == 1).all() and set(sums) <= {-1.0, 0.0, 1.0}:
        return mcnemar(int((sums == 1).sum()), int((sums == -1).sum()))
    signs = np.random.default_rng(0).choice((-1.0, 1.0), size=(DRAWS, len(sums)))
    extreme = np.abs(signs @ sums) >= abs(sums.sum()) - 1e-9
    return float((1 + extreme.sum()) / (1 + DRAWS))  # itself is one of the ways to flip


@dataclass(frozen=True)
class Comparison:
    """The first mean minus the second, its 95 % interval, and p; `clusters` were drawn again.

    What is decided needs both: an interval without 0 and, for pairs, p below 0.05.
    """

    difference: float
    low: float
    high: float
    p: float | None
    observations: int
    clusters: int

    @property
    def decided(self) -> bool:
        """Whether one is better than the other, as far as these cases tell."""
        apart = self.low > 0 or self.high < 0
        return apart and (self.p is None or self.p < 1 - CONFIDENCE)

    def not_worse(self, margin: float) -> bool:
        """Whether the first is at most `margin` below the second: "as often as", decided."""
        return self.low > -margin

    def word(self) -> str:
        """The first beside the second in a word: "better", "worse" or "not decided"."""
        return ("better" if self.difference > 0 else "worse") if self.decided else NOT_DECIDED

    def verdict(self, first: str, second: str) -> str:
        """Who is better, in a sentence with its numbers in points, or that it is not decided."""
        numbers = f"95 %: {100 * self.low:+.1f} to {100 * self.high:+.1f}"
        numbers += "" if self.p is None else f"; p = {self.p:.2g}"
        numbers += f"; {self.observations} observations in {self.clusters} clusters"
        points = 100 * self.difference
        if not self.decided:
            return f"{first} or {second}: {NOT_DECIDED} ({points:+.1f} points; {numbers})."
        side = "above" if points > 0 else "below"
        return f"{first} is {abs(points):.1f} points {side} {second} ({numbers})."


def paired(first: Values, second: Values, clusters: Clusters = None) -> Comparison:
    """Two editors on the same observations in the same order: case for case, seed for seed.

    Raises ConfigError for lists of other lengths, or empty ones.
    """
    if len(first) != len(second) or not len(first):
        raise ConfigError(
            f"A paired comparison needs the same cases twice: got {len(first)} and {len(second)} "
            "observations. Use unpaired() for different cases."
        )
    apart = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    sums, counts = _by_cluster(apart, clusters)
    low, high = _middle(_drawn_means(sums, counts, seed=0))
    p = p_value(apart, clusters)
    return Comparison(float(apart.mean()), low, high, p, len(apart), len(sums))


def unpaired(
    first: Values, second: Values, clusters: Clusters = None, others: Clusters = None
) -> Comparison:
    """Two editors on different cases; `clusters` and `others` are those of each.

    Wider than `paired` wherever the same cases are hard for both. Raises ConfigError for no cases.
    """
    if not len(first) or not len(second):
        raise ConfigError("An unpaired comparison needs observations of both, got none of one.")
    one, two = _by_cluster(first, clusters), _by_cluster(second, others)
    drawn = _drawn_means(*one, seed=0) - _drawn_means(*two, seed=1)
    apart = float(np.mean(first) - np.mean(second))
    return Comparison(
        apart, *_middle(drawn), None, len(first) + len(second), len(one[0]) + len(two[0])
    )


def of_rates(first: Rate, second: Rate) -> Comparison:
    """Two shares of which only k and n are known, as if measured on different cases.

    Newcombe's hybrid score interval (1998, method 10). Wider than `paired` would be; for stored
    results without outcomes. n counts cases: seeds of a case are no cases.
    """
    one, two = ((r.percent, r.low, r.high) for r in (first, second))
    apart = one[0] - two[0]
    low = apart - math.hypot(one[0] - one[1], two[2] - two[0])
    high = apart + math.hypot(one[2] - one[0], two[0] - two[1])
    shares = (value / 100 for value in (apart, low, high))
    return Comparison(*shares, None, first.of + second.of, first.of + second.of)


@dataclass(frozen=True)
class Rate:
    """k of n in percent, with Wilson's 95 % interval."""

    count: int
    of: int
    percent: float
    low: float
    high: float


def rate(hits: Iterable[bool]) -> Rate:
    """How often something is so; of nothing it is 0 of 0."""
    hits = [bool(hit) for hit in hits]
    return wilson(sum(hits), len(hits))


def wilson(k: float, n: int) -> Rate:
    """k of n independent tries."""
    if not n:
        return Rate(0, 0, 0.0, 0.0, 100.0)
    z, p = 1.96, k / n
    middle, width = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + side * width) / (1 + z * z / n) for side in (-1, 1))
    shares = (round(100 * value, 2) for value in (p, max(low, 0.0), min(high, 1.0)))
    return Rate(round(k), n, *shares)


def grouped(keys: Sequence[str], hits: Sequence[bool]) -> dict[str, Rate]:
    """A rate for each key, in order of appearance."""
    groups: dict[str, list[bool]] = {}
    for key, hit in zip(keys, hits, strict=True):
        groups.setdefault(key, []).append(hit)
    return {key: rate(values) for key, values in groups.items()}


def _by_cluster(values: Values, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
    """Sum and number of the observations of every cluster, (k,) each, in order of appearance."""
    y = np.asarray(values, dtype=float)
    names = range(len(y)) if clusters is None else clusters
    if len(names) != len(y):
        raise ConfigError(f"Got {len(y)} observations and the clusters of {len(names)}.")
    numbers = {name: i for i, name in enumerate(dict.fromkeys(names))}
    rows = np.fromiter((numbers[name] for name in names), dtype=int, count=len(y))
    return np.bincount(rows, y, len(numbers)), np.bincount(rows, minlength=len(numbers))


def _drawn_means(sums: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Means (DRAWS,) of as many clusters as there are, drawn again with replacement."""
    k = len(sums)
    times = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), size=DRAWS)
    return (times @ sums) / (times @ counts)


def _middle(drawn: np.ndarray) -> tuple[float, float]:
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(drawn, (tail, 100 - tail))
    return float(low), float(high)
