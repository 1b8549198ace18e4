"""What is kept out of training: one rule for identities, combinations, sign words and phrasings."""

from __future__ import annotations

import zlib

SHARE = 10  # one in ten is held out


def held_out(kind: str, *values: str) -> bool:
    """Whether this identity, combination or word belongs to the test split.

    The rule is a checksum of the values' names: the same on every machine, in every version,
    and independent of the order in which the world is sampled.
    """
    return zlib.crc32("|".join((kind, *values)).encode()) % SHARE == 0
