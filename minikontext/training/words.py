"""Before any picture: the toy's text encoder learns what sentences say, as T5 and CLIP did.

FLUX takes two text encoders that others trained, on text and on pictures with captions. The toy's
learns language alone, too: from its features, two linear layers tell which facts a sentence states,
"accessory=hat" or "recolour_thing/colour=red". The layers are thrown away, the encoder is kept.

An editor that is trained already can be given more words the same way: an encoder that knows the
grammar learns to answer any wording with the features that the editor's own encoder has for a plain
one. Transformer and autoencoder stay as they are, and do not notice.

No picture is drawn, nothing held out is asked for, and no judge is known.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor, nn

from minikontext.runtime.bounds import Level, Seed, Share
from minikontext.text import TextFeatures, ToyTextEncoder
from minikontext.toyworld import Case, grammar, wishes
from minikontext.toyworld.edits import SECOND_EDITION, sample_case
from minikontext.training.loop import LossFunction

RARE = 5  # a fact of fewer cases than this is left out
SIGN = "sign"  # a slot, and an attribute, that holds a word of any letters


@dataclass(frozen=True)
class WordsTraining:
    """Which sentences are read.

    cases: how many different ones; their words are drawn afresh in every batch. batch: sentences
    of a step. level, seed: of the world's cases. templates: of an imitation (`imitation_loss`), the
    share of sentences in the first edition's templates; the grammar words the others.
    """

    level: Level = 4
    seed: Seed = 0
    cases: Annotated[int, Interval(ge=8, le=2**24)] = 20_000
    batch: Annotated[int, Interval(ge=1, le=2**16)] = 256
    templates: Share = 0.2


def facts(case: Case) -> Iterator[str]:
    """What the sentence of a case states: its operations, their words, what the result shows."""
    for wish in case.wishes or (case,):
        yield wish.operation
        for slot, said in wish.words.items():
            if slot == SIGN:
                yield from (f"{slot}[{i}]={letter}" for i, letter in enumerate(said))
            elif slot != "caption":
                yield f"{wish.operation}/{slot}={said}"
        if len(case.contexts) < 2:  # else the pictures say what the result shows
            shown = (name for name in wish.claims if name != SIGN)
            yield from (f"{name}={getattr(case.target, name)}" for name in shown)


class FactReader(nn.Module):
    """A text encoder, and a linear layer on each of its two outputs that names facts."""

    def __init__(self, text: ToyTextEncoder, names: Sequence[str]) -> None:
        super().__init__()
        self.text, self.names = text, tuple(names)
        self.from_pooled = nn.Linear(text.config.pooled, len(names))
        self.from_tokens = nn.Linear(text.config.width, len(names))

    def forward(self, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of `tokenize` to logits from the pooled feature and from the tokens, (b, facts)."""
        features = self.text(token_ids)
        return self.from_pooled(features.pooled), self.from_tokens(features.tokens.mean(dim=1))


def sample_cases(config: WordsTraining) -> list[Case]:
    """The cases whose sentences are read: those of a stream of the training split."""
    draw = partial(wishes.sample_wishes, number=config.level, split="train", seed=config.seed)
    return [draw(i) for i in range(config.cases)]


def fact_names(cases: Sequence[Case]) -> list[str]:
    """Every fact that is not rare, sorted."""
    counts = Counter(name for case in cases for name in {*facts(case)})
    return sorted(name for name, count in counts.items() if count >= min(RARE, len(cases) // 4))


def words_loss(model: FactReader, cases: Sequence[Case], config: WordsTraining) -> LossFunction:
    """The loss of a step: binary cross-entropy of all facts, from both outputs, summed."""
    places = {name: i for i, name in enumerate(model.names)}

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"words/{config.seed}/{step}")
        drawn = [rng.choice(cases) for _ in range(config.batch)]
        said = model.text.tokenize([wishes.ask(case, rng) for case in drawn])
        right = torch.zeros(len(drawn), len(places))
        for row, case in zip(right, drawn, strict=True):
            row[[places[name] for name in facts(case) if name in places]] = 1
        device = model.from_pooled.weight.device
        right = right.to(device)
        pooled, tokens = model(said.to(device))
        whole = ((pooled.detach() > 0) == right.bool()).all(dim=1).float().mean()
        error = sum(F.binary_cross_entropy_with_logits(x, right) for x in (pooled, tokens))
        return error * len(places), {"understood": float(whole)}

    return loss


def single_cases(config: WordsTraining) -> list[Case]:
    """Cases of the training split that the first edition's templates can ask for.

    Some leave a colour open, as in "add a hat".
    """
    rng = random.Random(f"open/{config.seed}")
    drawn = (sample_case(i, config.level, "train", config.seed) for i in range(config.cases))
    return [grammar.loosened(case, rng) for case in drawn if case.operation not in SECOND_EDITION]


def plain(case: Case, rng: random.Random | None = None) -> str:
    """A case in a template: for all cases of an operation the same one, unless `rng` draws it.

    Templates name every colour: one that a case leaves open, where any is right, is red.
    """
    closed = replace(case, words={"colour": "red"} | case.words)
    return closed.phrased(rng or random.Random(case.operation))


@torch.no_grad()
def plain_features(teacher: ToyTextEncoder, cases: Sequence[Case]) -> TextFeatures:
    """What an encoder makes of the cases in `plain` words: (cases, m, width), (cases, pooled)."""
    token_ids = teacher.tokenize([plain(case) for case in cases]).to(teacher.position.device)
    found = [teacher(some) for some in token_ids.split(512)]
    return TextFeatures(*(torch.cat([getattr(one, name) for one in found])
                          for name in ("tokens", "pooled")))  # fmt: skip


def imitation_loss(
    text: ToyTextEncoder, teacher: ToyTextEncoder, cases: Sequence[Case], config: WordsTraining
) -> LossFunction:
    """The loss of a step: squared error of both features, each in variances of the teacher's.

    The teacher reads a case in `plain` words, `text` in words that are drawn anew in every step.
    """
    right = plain_features(teacher, cases)
    scales = {name: getattr(right, name).var(dim=0).mean() for name in ("tokens", "pooled")}

    def loss(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(f"imitation/{config.seed}/{step}")
        rows = [rng.randrange(len(cases)) for _ in range(config.batch)]
        said = text.tokenize([_worded(cases[i], rng, config.templates) for i in rows])
        found = text(said.to(text.position.device))
        errors = {
            name: F.mse_loss(getattr(found, name), getattr(right, name)[rows]) / scale
            for name, scale in scales.items()
        }
        return sum(errors.values()), {name: float(one.detach()) for name, one in errors.items()}

    return loss


def _worded(case: Case, rng: random.Random, templates: float) -> str:
    return plain(case, rng) if rng.random() < templates else wishes.ask(case, rng)
