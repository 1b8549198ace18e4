"""The statistics engine: its intervals hold what they promise, and naive ones do not."""

import numpy as np
import pytest

from minikontext.bench import compare
from minikontext.errors import ConfigError

SEEDS = 3


def clustered(rng, cases=200, seeds=SEEDS, spread=0.35):
    """Outcomes of cases over seeds: each case has a chance of its own. Their true mean is 0.5."""
    chance = np.clip(0.5 + spread * rng.choice((-1, 1), size=cases), 0, 1)
    drawn = rng.random((seeds, cases)) < chance
    return drawn.ravel().astype(float), [*range(cases)] * seeds


def test_the_clustered_interval_covers_and_the_naive_one_is_too_narrow(monkeypatch):
    monkeypatch.setattr(compare, "DRAWS", 400)
    rng, held, naive, widths = np.random.default_rng(7), 0, 0, []
    for _ in range(250):
        values, cases = clustered(rng, cases=120)
        (low, high), (lower, higher) = compare.interval(values, cases), compare.interval(values)
        held += low <= 0.5 <= high
        naive += lower <= 0.5 <= higher
        widths.append((high - low) / (higher - lower))
    assert 0.915 <= held / 250 <= 0.98
    assert naive / 250 < 0.88
    effect = 1 + (SEEDS - 1) * 4 * 0.35**2  # the design effect of this world, by hand
    assert np.mean(widths) == pytest.approx(effect**0.5, rel=0.05)


def test_intraclass_correlation_and_design_effect_by_hand():
    values, cases = clustered(np.random.default_rng(0), cases=20_000)
    assert compare.intraclass(values, cases) == pytest.approx(4 * 0.35**2, abs=0.02)
    assert compare.design_effect(values, cases) == pytest.approx(1.98, abs=0.05)
    assert compare.intraclass([1, 1, 0, 0], "aabb") == 1
    assert compare.intraclass([1, 0, 1, 0], "aabb") == pytest.approx(-1)
    assert compare.intraclass([1, 1], "ab") == compare.intraclass([1, 1, 1, 1], "aabb") == 0
    three = list(np.random.default_rng(1).random(50) < 0.5) * 3  # the same bits, three times
    assert compare.design_effect(three, [*range(50)] * 3) == pytest.approx(3)


def test_three_seeds_of_a_case_are_not_three_cases():
    one = list(np.random.default_rng(3).random(100) < 0.8)
    copies = compare.interval(one * 3, [*range(100)] * 3)
    assert copies == compare.interval(one)
    narrow = compare.interval(one * 3)
    assert narrow[1] - narrow[0] < 0.65 * (copies[1] - copies[0])


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [(0, 0, 1), (5, 5, 1), (0, 5, 0.0625), (6, 0, 0.03125), (1, 9, 0.021484375), (121, 59, 4.3e-6)],
)
def test_mcnemar_against_the_binomial_by_hand(first, second, p):
    assert compare.mcnemar(first, second) == pytest.approx(p, rel=0.05)
    assert compare.mcnemar(second, first) == compare.mcnemar(first, second)


def test_flipping_clusters_of_one_is_mcnemar():
    apart = [1] * 9 + [-1] * 2 + [0] * 50
    exact = compare.p_value(apart)
    assert exact == compare.mcnemar(9, 2)
    doubled = compare.p_value([x for x in apart for _ in range(2)], [i // 2 for i in range(122)])
    assert doubled == pytest.approx(exact, abs=0.015)  # each case twice says no more


def test_a_clear_difference_is_decided_and_noise_is_not():
    rng = np.random.default_rng(0)
    base = rng.random(1000) < 0.7
    better = base | (rng.random(1000) < 0.2)
    found = compare.paired(better, base)
    assert found.decided and found.low > 0 and found.p < 1e-6 and found.not_worse(0)
    assert "points above old" in found.verdict("new", "old")
    other = base.copy()
    for value, some in ((False, 22), (True, 18)):  # loses 22 cases and wins 18 others
        other[rng.permutation(np.flatnonzero(base != value))[:some]] = value
    unclear = compare.paired(other, base)
    assert not unclear.decided and compare.NOT_DECIDED in unclear.verdict("a", "b")
    assert unclear.not_worse(0.05) and not unclear.not_worse(0)
    assert unclear.p == compare.mcnemar(18, 22)


def test_false_decisions_are_as_rare_as_promised(monkeypatch):
    monkeypatch.setattr(compare, "DRAWS", 400)
    rng, wrong, naive = np.random.default_rng(11), 0, 0
    for _ in range(200):
        chance = np.clip(0.5 + 0.45 * rng.choice((-1, 0, 1), size=(2, 80)), 0, 1)
        a, b = (rng.random((4, 80)) < chance[:, None]).reshape(2, -1).astype(float)
        clusters = [*range(80)] * 4
        wrong += compare.paired(a, b, clusters).decided
        naive += compare.paired(a, b).decided
    assert wrong <= 20 and naive > 25


def test_pairs_are_decided_where_the_same_numbers_unpaired_are_not():
    rng = np.random.default_rng(5)
    base = rng.random(400) < 0.5
    better = base | (rng.random(400) < 0.08)
    pairs, apart = compare.paired(better, base), compare.unpaired(better, base)
    assert pairs.difference == pytest.approx(apart.difference)
    assert pairs.decided and not apart.decided and apart.p is None
    assert apart.high - apart.low > 2 * (pairs.high - pairs.low)


def test_mistakes_are_refused():
    with pytest.raises(ConfigError, match="got 2 and 3"):
        compare.paired([1, 0], [1, 0, 1])
    with pytest.raises(ConfigError, match="clusters of 1"):
        compare.interval([1, 0], ["a"])
    with pytest.raises(ConfigError, match="none of one"):
        compare.unpaired([1], [])
    assert compare.interval([]) == (0, 0) and compare.percent_interval([1, 1]) == (100, 100)


def test_shares_without_outcomes_are_decided_only_where_they_lie_far_apart():
    high, low = compare.wilson(91, 100), compare.wilson(70, 100)
    assert compare.of_rates(high, low).word() == "better"
    assert compare.of_rates(low, high).word() == "worse"
    near = compare.of_rates(compare.wilson(91, 100), compare.wilson(88, 100))
    assert near.word() == "not decided" and near.difference == pytest.approx(0.03)
    assert "p =" not in near.verdict("a", "b")  # there is none without pairs
    # Newcombe 1998, table II (a), method 10: 56/70 - 48/80 lies between 0.0524 and 0.3339
    found = compare.of_rates(compare.wilson(56, 70), compare.wilson(48, 80))
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=2e-4)
