"""Voters who are simulated, and an editor that is "baked": what notebook 09 shows of votes.

The paper calls *bakeyness* what a broad question ("which do you prefer?") rewards: colours turned
up, contrast, one look for everything. Here each question is a formula that we chose. It shows how a
question decides an order; it says nothing about people.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations

import numpy as np
from PIL import Image, ImageEnhance

from minikontext.bench.votes import Vote
from minikontext.toyworld import Case, Score

# How much a unit of each counts for a voter, in logits: colours beyond the right answer's (points
# of 100), how far they are from it, whether the request was followed and the rest preserved, and
# the share of letters that are right. Of letters only those vote whose request has some.
QUESTIONS: dict[str, dict[str, float]] = {
    "Which do you prefer?": {"vivid": 0.12, "followed": 0.5},
    "Which looks more real?": {"off": -0.12, "preserved": 0.5},
    "Which follows the request?": {"followed": 3.0},
    "Which has the better letters?": {"letters": 3.0},
}


def bake(picture: Image.Image, colour: float = 2.0, contrast: float = 1.2) -> Image.Image:
    """The same picture with its colours and its contrast turned up."""
    vivid = ImageEnhance.Color(picture.convert("RGB")).enhance(colour)
    return ImageEnhance.Contrast(vivid).enhance(contrast)


def saturation(picture: Image.Image) -> float:
    """Mean saturation, in points of 100."""
    return float(np.asarray(picture.convert("HSV"))[..., 1].mean()) / 2.55


def simulate(
    answers: Mapping[str, Sequence[tuple[Image.Image, Score]]], cases: Sequence[Case],
    bases: Sequence[Hashable], question: str, voters: int = 3, seed: int = 0,
) -> list[Vote]:  # fmt: skip
    """Votes of simulated people on all pairs of editors, case by case.

    answers: each editor's picture and score of every case. A voter takes the first of a pair with
    the probability sigmoid(liking of the first - liking of the second). About letters only those
    cases are asked whose request settles what a sign says.
    """
    rng, weights, votes = np.random.default_rng(seed), QUESTIONS[question], []
    for i, (case, base) in enumerate(zip(cases, bases, strict=True)):
        if "letters" in weights and not asks_for_letters(case):
            continue
        right = saturation(case.target_image()), case.target.sign
        liking = {name: _liking(*rows[i], *right, weights) for name, rows in answers.items()}
        for a, b in combinations(answers, 2):
            chance = 1 / (1 + np.exp(liking[b] - liking[a]))
            votes += [Vote(a, b, base) if u < chance else Vote(b, a, base)
                      for u in rng.random(voters)]  # fmt: skip
    return votes


def asks_for_letters(case: Case) -> bool:
    """Whether a request settles what a sign says."""
    return "sign" in case.claims and bool(case.target.sign)


def _liking(
    picture: Image.Image, score: Score, right: float, sign: str, weights: Mapping[str, float]
) -> float:
    beyond = saturation(picture) - right
    facts = {"vivid": beyond, "off": abs(beyond), "followed": score.followed,
             "preserved": score.preserved, "letters": _letters(score.read.sign, sign)}  # fmt: skip
    return sum(weight * facts[name] for name, weight in weights.items())


def _letters(read: str, wanted: str) -> float:
    """The share of a sign's letters that read as wanted, each at its place; 1 without a sign."""
    places = max(len(read), len(wanted))
    return sum(a == b for a, b in zip(read, wanted)) / places if places else 1.0
