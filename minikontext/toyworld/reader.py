"""The reader of wishes, for messages only: what of a prompt the toy world cannot give.

No model sees what is found here. A prompt can name what the world does not have ("add a dog"), or
ask for a change of what the picture does not show ("remove the flower" where there is none). Both
would end in a picture that says nothing about it; the reader says it in words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import NamedTuple

from minikontext.errors import PromptWarning
from minikontext.toyworld.grammar import template_words, vocabulary
from minikontext.toyworld.lexicon import ABSENT, SPEECH, WORLD, split_words
from minikontext.toyworld.scene import MAX_SIGN, Scene

# What the world has instead, by the kind of what it lacks.
PLURAL = {
    "species": "characters",
    "accessory": "things to wear",
    "thing": "things beside the character",
    "colour": "colours",
    "pattern": "patterns",
    "background": "backgrounds",
    "time": "times and weathers",
    "style": "styles",
}
NOTHING_LIKE_IT = {
    "pose": "Characters stand still and keep their face; they can move to the left or right.",
    "body": "Characters have no parts to add or change but colour, pattern and eyes.",
    "size": "Nothing changes its size; characters can move to the left, middle or right.",
    "number": "There is one character in a picture, with one thing on either side.",
}


class AbsentWord(PromptWarning):
    """A word for something that the toy world does not have, with the nearest that it has."""

    def __init__(self, word: str, kind: str, nearest: str = "") -> None:
        self.word, self.kind, self.nearest = word, kind, nearest
        if kind in NOTHING_LIKE_IT:
            says = f"The toy world cannot show {word!r}. {NOTHING_LIKE_IT[kind]}"
        else:
            near = f"The nearest that it has: {nearest}. " if nearest else ""
            says = f"The toy world has no {word!r}. {near}"
            says += f"Its {PLURAL[kind]}: {', '.join(WORLD[kind])}."
        super().__init__(says)


class ImpossibleWish(PromptWarning):
    """A wish to change something that the picture does not show."""

    def __init__(self, name: str, shown: Sequence[str] = ()) -> None:
        self.name, self.shown = name, tuple(shown)
        seen = f"It shows: {', '.join(shown)}." if shown else "It shows the character alone."
        super().__init__(f"The picture shows no {name} that could be changed. {seen}")


class LongSign(PromptWarning):
    """A sign with more letters than a sign can hold."""

    def __init__(self, word: str) -> None:
        self.word = word
        super().__init__(f"A sign holds {MAX_SIGN} letters at most, and no space: not {word!r}.")


class Mention(NamedTuple):
    """A form found in a prompt: words `start` to `stop`, and what it means."""

    start: int
    stop: int
    kind: str
    concept: str
    form: str


def unusable(prompt: str, contexts: Scene | Sequence[Scene] | None = None) -> list[PromptWarning]:
    """Warnings for what a prompt asks and the world cannot give, in the order of the words.

    With the scene (or scenes) that the pictures show, also for wishes about what is not there.
    """
    quoted = re.findall(r"[\"“„]([^\"“”„]+)[\"“”]", prompt)
    found: list[PromptWarning] = [
        LongSign(word) for word in quoted if not re.fullmatch(rf"[A-Za-z]{{1,{MAX_SIGN}}}", word)
    ]
    for clause in clauses(prompt):
        found += [AbsentWord(m.form, m.kind, m.concept) for m in absent(clause)]
    if contexts is not None and not found:
        scenes = (contexts,) if isinstance(contexts, Scene) else tuple(contexts)
        found += impossible(prompt, scenes) if scenes else []
    return found


def clauses(prompt: str) -> list[list[str]]:
    """The words of a prompt, one list for each of its wishes; what is quoted is left out."""
    text = re.sub(r"[\"“”„][^\"“”„]*[\"“”„]|(?<!\w)'[^']*'(?!\w)", " QUOTED ", prompt)
    pieces = re.split(r"[,.;!?]|(?<!black )(?<!moon )\band\b|\bthen\b|\bplus\b|&", text)
    return [split_words(part) for part in pieces if part.strip()]


# ---------------------------------------------------------------- words that the world lacks


def absent(words: Sequence[str]) -> list[Mention]:
    """What a clause names that the world does not have; longer forms win ("palm tree")."""
    found: list[Mention] = []
    i = 0
    while i < len(words):
        known, lacking = _longest(words, i, _known_forms()), _longest(words, i, _absent_forms())
        if lacking and lacking.stop > (known.stop if known else i):
            found.append(lacking)
        i = max(x.stop for x in (known, lacking, Mention(i, i + 1, "", "", "")) if x)
    return found or _unheard_of(words)


# Colours of what has none of its own, sizes, and patterns of what has none: (kind, pattern).
_COLOUR = "(" + "|".join(WORLD["colour"]) + ")"
_STAGE = "(background|backdrop|grass|sand|water|floor|ground|wall|walls|sun|moon|clouds|trees)"
_UNHEARD_OF = (
    ("body", rf"{_COLOUR} eyes(?! glasses)|eyes (should be |to |are |be )?{_COLOUR}"),
    ("background", rf"(plain |solid )?{_COLOUR} {_STAGE}(?! (glasses|hat|green))"),
    ("background", rf"{_STAGE} (should be |to |into |be |is |a )?(plain )?{_COLOUR}$"),
    ("size", r"(bigger|larger|smaller|giant|enlarge)"),
    ("number", r"two (?!eyes|round|normal|wishes|pictures|images)[a-z]+s"),
)


def _unheard_of(words: Sequence[str]) -> list[Mention]:
    """Known words in a combination that the world does not know: "blue eyes", "a bigger hat"."""
    text, found = " ".join(words), []
    for kind, pattern in _UNHEARD_OF:
        match = re.search(rf"\b{pattern}\b", text)
        if match and not (kind == "size" and re.search(r"\b(eyes?|picture)\b", text)):
            start = len(text[: match.start()].split())
            found.append(Mention(start, start + 1, kind, "", match[0]))
    return found


def _longest(
    words: Sequence[str], start: int, table: dict[tuple[str, ...], tuple[str, str]]
) -> Mention | None:
    for stop in range(min(len(words), start + 5), start, -1):
        form = tuple(words[start:stop])
        if stop == start + 1 and form not in table:
            form = (_plain(form[0], table),)
        if form in table:
            return Mention(start, stop, *table[form], " ".join(form))
    return None


def _plain(word: str, table: dict[tuple[str, ...], tuple[str, str]]) -> str:
    """A word without its plural s, or the one that was meant where letters slipped."""
    if word.endswith("s") and (word[:-1],) in table:
        return word[:-1]
    if len(word) < 6 or word in _vocabulary():
        return word
    single = [form[0] for form in table if len(form) == 1]
    near = difflib.get_close_matches(word, single, n=1, cutoff=0.85)
    return near[0] if near and near[0][0] == word[0] else word


@cache
def _vocabulary() -> frozenset[str]:
    return frozenset(vocabulary())


@cache
def _absent_forms() -> dict[tuple[str, ...], tuple[str, str]]:
    """Forms of what is absent; a single word that the grammar uses otherwise tells nothing."""
    forms = {tuple(split_words(f)): (k, c) for k, c, f in _forms(ABSENT)}
    return {form: meant for form, meant in forms.items() if form not in _known_forms()}


@cache
def _known_forms() -> dict[tuple[str, ...], tuple[str, str]]:
    """Forms of what the world has, of speech, and the small words of the templates."""
    forms = {(word,): ("", "") for word in template_words()}
    named = [(k, c, split_words(f)) for k, c, f in _forms(WORLD | SPEECH)]
    forms |= {tuple(w for w in said if w not in ("a", "the")): (k, c) for k, c, said in named}
    return forms | {tuple(said): (k, c) for k, c, said in named}


def _forms(table: dict[str, dict[str, tuple[str, ...]]]) -> Iterable[tuple[str, str, str]]:
    for kind, rows in table.items():
        for concept, forms in rows.items():
            yield from ((kind, concept, form) for form in forms)


# ---------------------------------------------------------------- wishes about what is not there

OBJECTS = ("accessory", "thing")
DEFINITE = {"the", "his", "her", "its", "their", "that", "this", *SPEECH["his"]["its"]}
GIVING = {
    *SPEECH["give"]["give"], *SPEECH["add"]["add"], *SPEECH["wear"]["wear"],
    "wears", "wearing", "with", "want", "need", "needs", "has", "drop", "let",
} - {"make", "set", "paint", "show", "draw", "place"}  # fmt: skip


def impossible(prompt: str, scenes: Sequence[Scene]) -> list[ImpossibleWish]:
    """Wishes of a prompt that speak of an accessory, a thing or a sign as if it were there."""
    shown = [name for scene in scenes for name in _shown(scene)]
    found = []
    for words in clauses(prompt):
        meant = _spoken_of(words)
        if meant and meant.concept not in shown:
            found.append(ImpossibleWish(meant.concept, shown))
    return found


def _shown(scene: Scene) -> list[str]:
    found = [name for name in (scene.accessory, scene.left, scene.right) if name != "none"]
    return found + ["sign"] * bool(scene.sign)


def _spoken_of(words: Sequence[str]) -> Mention | None:
    """The thing that a clause takes for granted: what it removes, or what it wants changed."""
    things = _things(words)
    if not things:
        return None
    instead = _position(words, ("instead", "of")) or _position(words, ("rather", "than"))
    if instead is not None:
        return next((thing for thing in things if thing.start > instead), None)
    first = things[0]
    before = words[: first.start]
    if _removes(before) or "where" in before:
        return first
    definite = bool(before) and before[-1] in DEFINITE
    definite |= len(before) > 1 and before[-2] in DEFINITE and before[-1] not in GIVING
    replaced = bool({"replace", "swap", "exchange", "switch"} & set(before))
    replaced &= not {"with", "by", "for"} & set(before)
    return first if replaced or (definite and not GIVING & set(words)) else None


def _things(words: Sequence[str]) -> list[Mention]:
    found, i = [], 0
    while i < len(words):
        mention, longest = (_longest(words, i, t) for t in (_object_forms(), _known_forms()))
        if mention and mention.stop >= (longest.stop if longest else i):
            found.append(mention)  # no "tree" is meant where "tree frog" is said
        i = max(m.stop for m in (mention, longest, Mention(i, i + 1, "", "", "")) if m)
    return found


@cache
def _object_forms() -> dict[tuple[str, ...], tuple[str, str]]:
    named = {tuple(split_words(f)): (k, c) for k, c, f in _forms(WORLD) if k in OBJECTS}
    return named | {tuple(split_words(f)): ("board", "sign") for f in SPEECH["board"]["sign"]}


def _removes(words: Sequence[str]) -> bool:
    """Whether a clause begins by taking something away."""
    ways = (*SPEECH["remove"]["remove"], *SPEECH["undress"]["take off"], *SPEECH["no"]["no"])
    ways += (*SPEECH["dislike"]["i do not want"], "take", "cut down")
    ways = tuple(way for way in ways if way != "drop")  # "drop a ball there" brings one
    return any(_position(words, tuple(split_words(way))) is not None for way in ways)


def _position(words: Sequence[str], form: tuple[str, ...]) -> int | None:
    for i in range(len(words) - len(form) + 1):
        if tuple(words[i : i + len(form)]) == form:
            return i
    return None
