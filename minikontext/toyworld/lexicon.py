"""The lexicon: every concept of the toy world with the words that people use for it.

`WORLD` is what can be drawn, `SPEECH` how people ask, `ABSENT` what they often ask for and the
world does not have: slot -> concept -> surface forms. lexicon.toml, which holds them, says more.
"""

from __future__ import annotations

import re
from functools import cache

from minikontext.toyworld.split import held_out
from minikontext.toyworld.tables import read_table

Table = dict[str, dict[str, tuple[str, ...]]]


def _table(source: dict[str, dict[str, str]]) -> Table:
    """Forms written with commas between them, as tuples."""
    return {
        slot: {concept: tuple(re.split(r",\s+", forms.strip())) for concept, forms in rows.items()}
        for slot, rows in source.items()
    }


_STORED = read_table("lexicon")
WORLD, SPEECH, ABSENT = (_table(_STORED[name]) for name in ("world", "speech", "absent"))


def forms(slot: str, concept: str, unheard: bool | None = None) -> tuple[str, ...]:
    """The forms of a concept: all of them, or only those that training hears (or does not hear).

    Raises KeyError for a slot or concept that the table lacks.
    """
    rows = WORLD[slot][concept] if slot in WORLD else SPEECH[slot][concept]
    if unheard is None:
        return rows
    return tuple(form for form in rows if is_unheard(slot, concept, form) == unheard)


def is_unheard(slot: str, concept: str, form: str) -> bool:
    """Whether a form is kept for tests; a concept's plain name never is."""
    table = WORLD if slot in WORLD else SPEECH
    return form != table[slot][concept][0] and held_out("form", slot, concept, form)


def split_words(text: str) -> list[str]:
    """Lower-case words with inner hyphens and apostrophes kept; a possessive 's is dropped."""
    found = re.findall(r"[a-z0-9]+(?:[-'][a-z0-9]+)*", text.lower())
    return [word.removesuffix("'s") for word in found]


@cache
def words() -> tuple[str, ...]:
    """Every word of a form that training hears, sorted."""
    found = set()
    for slot, rows in (WORLD | SPEECH).items():
        for concept in rows:
            found.update(*map(split_words, forms(slot, concept, unheard=False)))
    return tuple(sorted(found))


@cache
def absent_words() -> tuple[tuple[str, str], ...]:
    """Single words for what the world has not, each with the nearest that it has, sorted."""
    pairs = [(form, near) for rows in ABSENT.values() for near, found in rows.items() if near
             for form in found if split_words(form) == [form] and form not in words()]  # fmt: skip
    return tuple(sorted(dict(reversed(pairs)).items()))
