"""How people ask: many phrasings for each edit operation, the last two held out of training.

The sentences stand in language.toml, in families: what is said to recolour a cat can be said of a
hat.
"""

from __future__ import annotations

import random
import re

from minikontext.toyworld.scene import (
    ACCESSORIES,
    BACKGROUNDS,
    COLOURS,
    EYES,
    LETTERS,
    PATTERNS,
    PLACES,
    SPECIES,
    STYLES,
    THINGS,
    TIMES,
)
from minikontext.toyworld.tables import Values, lines, read_families, read_table, said

HELD_OUT_PHRASINGS = 2

_STORED = read_table("language")
_FAMILIES = read_families(_STORED["families"])


def _phrasings(entry: Values) -> tuple[str, ...]:
    """What training hears for an operation, then the sentences that only tests ask."""
    unheard = lines(entry["unheard"])
    heard = dict.fromkeys(said(entry, _FAMILIES))
    return (*(phrasing for phrasing in heard if phrasing not in unheard), *unheard)


PHRASINGS = {operation: _phrasings(entry) for operation, entry in _STORED["operations"].items()}

# Small words around a request, which change nothing; most requests come without any.
POLITE = ("please {}", "{} please", "now {}", "{} now")
POLITE_SHARE = 0.2

# English as people write it: the templates stay simple and this mends what they get wrong.
_MENDS = (
    (r"\ba ((?:\w+ )?glasses)\b", r"\1"),
    (r"\ba orange\b", "an orange"),
    (r"\bin the beach\b", "on the beach"),
    (r"\bat day\b", "by day"),
    (r"\b(?:at|to) rain\b", "in the rain"),
)


def phrase(operation: str, choice: int, **words: str) -> str:
    """Phrasing number `choice` of an operation; the last `HELD_OUT_PHRASINGS` are for tests."""
    text = PHRASINGS[operation][choice].format(**words)
    for wrong, right in _MENDS:
        text = re.sub(wrong, right, text)
    return text


def ask(operation: str, words: dict[str, str], rng: random.Random, held_out: bool) -> str:
    """One way to ask for an edit, drawn at random, now and then with a polite word around it."""
    text = phrase(operation, rng.choice(phrasing_choices(operation, held_out)), **words)
    return rng.choice(POLITE).format(text) if rng.random() < POLITE_SHARE else text


def phrasing_choices(operation: str, held_out: bool) -> range:
    """The numbers of the phrasings that training may use, or those that it may not."""
    count = len(PHRASINGS[operation])
    first_held_out = count - HELD_OUT_PHRASINGS
    return range(first_held_out, count) if held_out else range(first_held_out)


def vocabulary() -> tuple[str, ...]:
    """Every word that any phrasing can contain, sorted; letters of signs are not among them."""
    phrasings = [*POLITE, *(phrasing for group in PHRASINGS.values() for phrasing in group)]
    text = " ".join(re.sub(r"{\w*}", " ", phrasing) for phrasing in phrasings)
    names = (*SPECIES, *COLOURS, *PATTERNS, *EYES, *ACCESSORIES, *BACKGROUNDS, *TIMES, *STYLES)
    words = set(re.findall(r"[a-z]+", text.lower())) | set(names) | set(THINGS) | set(PLACES)
    extra = {"an", "by", "in", "on", "with", "at", "and", "it", "the"}
    return tuple(sorted((words | extra) - {"none"} - set(LETTERS.lower()) | {"a", "i"}))
