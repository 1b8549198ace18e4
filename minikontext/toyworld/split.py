"""What is kept out of training: one rule for identities, combinations, sign words and phrasings.

First edition: `held_out`, one in ten, for the weights and benches that ship today. Second edition:
`split_of`, which every stream of the lineage asks. Its test set holds everything that the first
one held out, so old cases stay unseen; a further share is dev, on which all choices are made; and
whole pairs of attributes are kept out, which no neighbour one attribute away gives away.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

SHARE = 10  # one in ten is held out
DEV_SHARE = 20  # of the rest, one in twenty is dev

Pair = tuple[str, str, str, str]  # attribute, value, attribute, value

# Pairs of values that training never shows together, though it shows each with all others.
PAIRS: dict[Pair, str] = {
    ("pattern", "spotted", "species", "frog"): "test",
    ("style", "neon", "time", "night"): "test",
    ("accessory", "scarf", "species", "robot"): "test",
    ("species", "bunny", "background", "desert"): "test",
    ("eyes", "sleepy", "species", "bear"): "dev",
    ("style", "comic", "time", "sunset"): "dev",
    ("accessory", "glasses", "species", "ghost"): "dev",
    ("species", "chick", "background", "snow"): "dev",
}
SPLITS = ("train", "dev", "test")


def held_out(kind: str, *values: str) -> bool:
    """Whether this identity, combination or word belongs to the first edition's test split.

    The rule is a checksum of the values' names: the same on every machine, in every version,
    and independent of the order in which the world is sampled.
    """
    return zlib.crc32("|".join((kind, *values)).encode()) % SHARE == 0


def split_of(kind: str, *values: str) -> str:
    """Where a key belongs: "train", "dev" or "test" (second edition).

    Keys are those of `Case.keys`: ("identity", …), ("combination", …), ("word", …), ("pair", …).
    Raises ValueError for a pair that is not one of PAIRS.
    """
    if kind == "pair":
        if values not in PAIRS:
            raise ValueError(f"{values}: not a pair that is held out; those are {[*PAIRS]}")
        return PAIRS[values]
    if held_out(kind, *values):
        return "test"
    dev = zlib.crc32("|".join(("dev", kind, *values)).encode()) % DEV_SHARE == 0
    return "dev" if dev else "train"


def split_of_all(keys: Iterable[tuple[str, ...]]) -> str:
    """Where something with several keys belongs: the split that is furthest from training."""
    return max((split_of(*key) for key in keys), key=SPLITS.index, default="train")


def pairs_of(scene: object) -> list[tuple[str, ...]]:
    """The keys ("pair", …) of the pairs of PAIRS that a scene shows."""
    return [("pair", *pair) for pair in PAIRS if _shows(scene, pair)]


def _shows(scene: object, pair: Pair) -> bool:
    return getattr(scene, pair[0]) == pair[1] and getattr(scene, pair[2]) == pair[3]


def scene_keys(scene: object) -> list[tuple[str, ...]]:
    """Everything that `split_of` asks about one picture: its identity, word and pairs."""
    word = [("word", scene.sign)] if len(scene.sign) > 1 else []
    return [("identity", *scene.identity), *word, *pairs_of(scene)]
