"""One or two wishes in a sentence: "make the hat red and remove the flower".

Two operations are compatible if neither touches what the other one needs or changes. Then their
order does not matter, and the claims of both are the claims of the pair.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from PIL import Image

from minikontext.toyworld import edits, grammar
from minikontext.toyworld.edits import OPERATIONS, Case, Draft
from minikontext.toyworld.lexicon import forms
from minikontext.toyworld.oracle import read
from minikontext.toyworld.scene import (
    ATTRIBUTES,
    CLEAR_STYLES,
    COLOURED,
    Level,
    Scene,
    level,
    sample_scene,
)

PAIRED = ("local", "global", "text")  # tasks with one picture whose wishes can be joined
TWO_SHARE = 0.3
DESCRIBED_SHARE = 0.3  # of the pairs that a description can tell ("blue cat on the beach")
DESCRIBABLE = {
    "species", "colour", "pattern", "accessory", "accessory_colour", "background", "time",
}  # fmt: skip
DESCRIBED = (
    "{caption}",
    "{caption}",
    "{want} {caption}",
    "make it {caption}",
    "(draw|show) {caption}",
    "turn it into {caption}",
    "{it} {should} be {caption}",
)


def sample_wishes(
    index: int, number: int = 4, split: str = "train", seed: int = 0, contexts: int | None = None,
    two: float = TWO_SHARE,
) -> Case:  # fmt: skip
    """Case number `index` of a level's stream, the same on every call, with one or two wishes.

    A share `two` of the cases with one picture are pairs, with both wishes in `Case.wishes`. Some
    cases leave a colour open (`grammar.loosened`). Splits are those of `edits.sample_case`.
    Raises ValueError for another split or level, or a level without operations on so many pictures.
    """
    rng = random.Random(f"wishes/{seed}/{number}/{split}/{contexts}/{index}")
    case = edits.sample_case(index, number, split, seed, contexts)
    pairs = sum(OPERATIONS[name][0] in PAIRED for name in level(number).operations) > 1
    if not pairs or len(case.contexts) != 1 or rng.random() >= two:
        return grammar.loosened(case, rng)
    while True:
        pair = _pair(rng, level(number), sample_scene(rng, number))
        if pair and pair.split == split:
            return pair


def ask(
    case: Case, rng: random.Random, unheard: bool = False, noise: grammar.Noise = grammar.TYPED
) -> str:
    """One sentence for all wishes of a case, drawn afresh; `unheard` as in `grammar.ask`."""
    if not case.wishes:
        return grammar.ask(case, rng, unheard, noise)
    return grammar.short(lambda: grammar.finish(_joined(case, rng, unheard), rng, noise))


def followed(picture: Image.Image | np.ndarray, case: Case) -> tuple[bool, ...]:
    """For each wish of a case, whether what it claims reads as it should in a picture.

    `score(picture, case)` judges all of it, and what should have stayed.
    """
    found = read(picture, case.target, (*case.claims, *case.free))
    return tuple(
        all(getattr(found, name) == getattr(case.target, name) for name in wish.claims)
        for wish in case.wishes or (case,)
    )


def _joined(case: Case, rng: random.Random, unheard: bool) -> str:
    """Both wishes: in one description, in one replacement, or one after the other."""
    if _describable(case) and rng.random() < DESCRIBED_SHARE:
        return _description(case, rng, unheard)
    if (one := _newcomer(case.wishes)) and rng.random() < DESCRIBED_SHARE:
        return grammar.wording(one, rng, unheard)
    first, second = rng.sample(case.wishes, 2)
    said = grammar.wording(first, rng, unheard)
    second = replace(second, contexts=(_after(first),))
    also = grammar.wording(second, rng, unheard, pronouns="character" in first.operation)
    joint = rng.choice(forms("joined", "and", unheard=False))
    return f"{said}{rng.choice((' and ', f' {joint} ', ', ', ', then ', '. '))}{also}"


def _pair(rng: random.Random, rung: Level, scene: Scene) -> Case | None:
    """Two compatible wishes for a scene, which is posed for both; None if they are not."""
    weights = {name: w for name, w in rung.operations.items() if OPERATIONS[name][0] in PAIRED}
    names = rng.choices(tuple(weights), tuple(weights.values()), k=2)
    first = OPERATIONS[names[0]][1](rng, scene, rung)
    second = OPERATIONS[names[1]][1](rng, first.contexts[0], rung)
    if _touched(scene, first) & _touched(first.contexts[0], second):
        return None
    before = second.contexts[0]  # posed for both
    changes = _changes(first) | _changes(second)
    if changes.get("style", "comic") not in CLEAR_STYLES:  # what else was asked would not show
        return None
    wishes = [
        grammar.loosened(_part(name, draft, before), rng)
        for name, draft in zip(names, (first, second), strict=True)
    ]
    return _joint(wishes, before.change(**changes))


def _joint(wishes: list[Case], target: Scene) -> Case:
    """Two wishes as one case; the free attributes of one are free for the other, too."""
    free = tuple(dict.fromkeys(name for wish in wishes for name in wish.free))
    return replace(
        wishes[0],
        task="two wishes",
        operation=" + ".join(wish.operation for wish in wishes),
        target=target,
        claims=tuple(name for wish in wishes for name in wish.claims),
        free=free,
        keys=tuple(dict.fromkeys(key for wish in wishes for key in wish.keys)),
        words={},
        wishes=tuple(replace(wish, target=target, free=free) for wish in wishes),
    )


def _part(name: str, draft: Draft, before: Scene) -> Case:
    """One of two wishes as a case of its own."""
    target = before.change(**_changes(draft))
    draft = replace(draft, contexts=(before,), target=target)
    return Case(
        task=OPERATIONS[name][0],
        operation=name,
        prompt="",
        contexts=(before,),
        target=target,
        claims=draft.claims,
        keys=edits._keys(name, draft),
        words=draft.words,
    )


def _after(part: Case) -> Scene:
    """The picture after one of two wishes alone."""
    changes = {name: getattr(part.target, name) for name in (*part.claims, *part.free)}
    return part.contexts[0].change(**changes)


def _changes(draft: Draft) -> dict[str, str]:
    return _different(draft.contexts[0], draft.target)


def _different(before: Scene, after: Scene) -> dict[str, str]:
    names = (name for name in ATTRIBUTES if getattr(before, name) != getattr(after, name))
    return {name: getattr(after, name) for name in names}


def _touched(scene: Scene, draft: Draft) -> set[str]:
    """What an operation needs or changes; a thing and its colour count as one."""
    names = {*_different(scene, draft.contexts[0]), *_changes(draft), *draft.claims}
    return names | {name.removesuffix("_colour") for name in names if name[:-7] in COLOURED}


# ---------------------------------------------------------------- both in one description


def _describable(case: Case) -> bool:
    """Whether a description of the result says all that is asked."""
    nothing = case.target.pattern == "plain" and "pattern" in case.claims
    bare = case.target.accessory == "none" or "accessory" not in case.claims
    nothing |= bare and "accessory_colour" in case.claims
    nothing |= case.target.accessory == "none" and "accessory" in case.claims
    return set(case.claims) <= DESCRIBABLE and not nothing


def _newcomer(wishes: tuple[Case, ...]) -> Case | None:
    """Another character in another colour as one wish: "replace the cat with a pink bunny"."""
    cases = {wish.operation: wish for wish in wishes}
    if set(cases) != {"replace_character", "recolour_character"}:
        return None
    words = cases["recolour_character"].words | cases["replace_character"].words
    return replace(cases["replace_character"], words=words)


def _description(case: Case, rng: random.Random, unheard: bool) -> str:
    known = {
        "kind": ("species", case.contexts[0].species),
        "clear": ("", ""),
        **grammar.caption_facts(case),
    }
    known["caption"] = ("template", grammar.caption(case.claims, rng.choice(("a ", "", "the "))))
    return grammar.fill(rng.choice(DESCRIBED), known, rng, unheard)
