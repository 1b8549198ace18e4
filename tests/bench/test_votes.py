"""Votes to strengths: the model is recovered, and a crowd around one picture decides nothing."""

import numpy as np
import pytest

from minikontext.bench import votes
from minikontext.bench.votes import Vote
from minikontext.errors import ConfigError

ELO = {"good": 1150.0, "fair": 1000.0, "poor": 850.0}


def cast(rng, pictures=150, each=3, mood=0.0):
    """Votes of all pairs; with a mood, all voters of a picture lean to one side together."""
    found, names = [], list(ELO)
    for picture in range(pictures):
        swing = dict(zip(names, mood * rng.normal(size=3)))
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                chance = 1 / (1 + 10 ** ((ELO[b] + swing[b] - ELO[a] - swing[a]) / 400))
                for won in rng.random(each) < chance:
                    found.append(Vote(a, b, picture) if won else Vote(b, a, picture))
    return found


def test_the_strengths_that_made_the_votes_are_found_whatever_their_order():
    found = cast(np.random.default_rng(0), pictures=1500)
    rated = votes.ratings(found)
    assert list(rated) == ["good", "fair", "poor"]
    assert {n: r.elo for n, r in rated.items()} == pytest.approx(ELO, abs=25)
    assert all(r.low < ELO[n] < r.high for n, r in rated.items())
    again = votes.ratings(found[::-1])
    assert {n: r.elo for n, r in again.items()} == pytest.approx(
        {n: r.elo for n, r in rated.items()}
    )


def test_two_editors_alone_are_their_odds():
    found = [Vote("a", "b", i) for i in range(30)] + [Vote("b", "a", i) for i in range(10)]
    apart = votes.beside(found, "a", "b")
    odds = (30 + votes.PRIOR) / (10 + votes.PRIOR)
    assert apart.difference == pytest.approx(400 * np.log10(odds), abs=0.1) and apart.decided
    assert votes.beside(found, "b", "a").word() == "worse"


def test_more_voters_on_the_same_pictures_do_not_narrow_what_the_pictures_decide():
    """With a mood of the picture, ten times the voters leave the interval nearly as it is."""
    few, many = (cast(np.random.default_rng(1), 60, each, mood=400.0) for each in (4, 40))
    wide = [votes.beside(v, "good", "fair") for v in (few, many)]
    naive = votes.beside([Vote(v.winner, v.loser, i) for i, v in enumerate(many)], "good", "fair")
    widths = [c.high - c.low for c in (*wide, naive)]
    assert widths[1] > 0.75 * widths[0] and widths[2] < 0.5 * widths[1]


def test_who_never_lost_is_strong_and_not_infinite():
    rated = votes.ratings([Vote("a", "b", i) for i in range(50)])
    assert np.isfinite([rated["a"].elo, rated["a"].high]).all() and rated["a"].elo > rated["b"].elo
    with pytest.raises(ConfigError, match="no votes"):
        votes.ratings([])
