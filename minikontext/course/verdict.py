"""What became of a wish: read by the oracle where the scene is known, else how much changed, where.

Nobody tells the oracle what the right answer is. So it reads the picture before and after, and asks
of every change whether the words name it: what was not named should have stayed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image

from minikontext.bench.safety_bench import is_card
from minikontext.course.samples import shown
from minikontext.errors import PromptWarning
from minikontext.images.change import LITTLE, changed, told_change
from minikontext.images.tensors import shrunk
from minikontext.text import LETTERS, split_prompt
from minikontext.toyworld import psnr, read, render
from minikontext.toyworld.lexicon import SPEECH, WORLD, split_words
from minikontext.toyworld.oracle import as_array
from minikontext.toyworld.reader import LongSign, clauses, unusable
from minikontext.toyworld.scene import (
    ATTRIBUTES,
    CHOICES,
    COLOURED,
    COLOURLESS,
    IDENTITY,
    MAX_SIGN,
    Scene,
)

# Where the forms of an attribute's values stand in the lexicon.
SLOTS = {
    "colour": ("colour",), "pattern": ("pattern", "markings"), "eyes": ("eyes", "looks"),
    "left": ("thing",), "right": ("thing",), "accessory_colour": ("colour",),
    "left_colour": ("colour",), "right_colour": ("colour",),
    "place": ("side", "place", "move"), "background": ("background", "where", "scenery"),
    "time": ("time", "when", "sky", "weather"), "style": ("style", "artwork", "styled", "restyle"),
}  # fmt: skip
# What the forms of other slots tell; places are told with things, pictures and moves: not these.
MEANT = {
    "species": "species", "colour": "colour", "pattern": "pattern", "markings": "pattern",
    "eyes": "eyes", "looks": "eyes", "accessory": "accessory", "thing": "left",
    "background": "background", "where": "background", "time": "time", "when": "time",
    "style": "style", "restyle": "style",
}  # fmt: skip
REMOVING = (*SPEECH["remove"]["remove"], *SPEECH["undress"]["take off"], *SPEECH["no"]["no"],
            *SPEECH["gone"]["be gone"], *SPEECH["dislike"]["i do not want"])  # fmt: skip
# A picture can lend its character or its style; what only says that the rest stays lends nothing.
CREATURES = [*WORLD["species"], *(form for row in (WORLD["species"], SPEECH["creature"])
                                  for forms in row.values() for form in forms)]  # fmt: skip
_THIS = "|".join(sorted(SPEECH["this"]["this"], key=len, reverse=True))
_LIKE = re.compile(rf"\b({_THIS}|same) style\b|\bstyle of ({_THIS})\b|\blike (this|that)$")
_STAYS = re.compile(r"\b(keep|leave|stays?|remains?)\b.*\bsame\b|\b(same|this)$"
                    r"|\bthis (picture|image|photo|scene)\b")  # fmt: skip
_AGAIN = re.compile(rf"\b(this|same|these)\b|\b({_THIS}) ({'|'.join(CREATURES)})\b")
# What a new picture in a lent style must show, where the words name it; all else in it is free.
DRAWN = {"species", "colour", "pattern", "background", "time"}
# A drawing further from every scene of the world is none of them, but a blur of several.
BLURRED = 22.0  # dB; captions like those of the training hardly ever end below
KNOWN = 25.0  # dB; an edit's result that is this near to a scene hardly ever lacks a thing of it
UNCAPTIONED = {"style", "sign", "left", "left_colour", "right", "right_colour"}  # named in none
CAPTION = {"species": "character", "colour": "colour", "background": "place"}  # named in all


@dataclass(frozen=True)
class Verdict:
    """kind: that of a status line, done, note or error. scene: what the picture shows, if known."""

    kind: str
    text: str
    scene: Scene | None = None


def of_several(verdicts: Sequence[Verdict | None]) -> tuple[str, list[str]]:
    """The worst kind among those of some seeds, and what is said: how many pass, and the first's.

    None is a verdict that finds nothing to say.
    """
    kinds = [one.kind if one else "done" for one in verdicts]
    good, told = kinds.count("done"), [verdicts[0].text] if verdicts[0] else []
    if len(kinds) > 1:
        known = any(one and one.scene for one in verdicts)
        count = f"{good} of {len(kinds)}"
        passes = "passes" if good == 1 else "pass"
        told = [f"{count} {passes}." if known else f"No fault was seen in {count}.", *told]
        told[1:] = [f"The first: {one}" for one in told[1:]]
    return max(kinds, key=("done", "note", "error").index), told


def cannot(prompt: str, scene: Scene | None = None) -> list[PromptWarning]:
    """What the toy world, or the picture of a scene, lacks of a prompt, as the encoder reads it."""
    found = unusable(prompt, scene)
    if not any(isinstance(one, LongSign) for one in found):
        found += [LongSign(word) for word in _letters(prompt) if len(word) > MAX_SIGN]
    if not prompt.strip():
        found += [PromptWarning("There are no words: chance says what becomes of the picture.")]
    return found


def nearest(picture: Image.Image) -> tuple[Scene, float]:
    """The scene of the world that a picture is nearest to, and how near, as PSNR in dB."""
    array = as_array(shrunk(picture, 128))
    names = [name for name in ATTRIBUTES if name != "mark"]
    # Read at once, a wrong style can hide the character; by the words alone, the style is missed.
    starts = ([n for n in names if n not in UNCAPTIONED], [])
    scenes = [read(array, read(array, Scene(), first), names) for first in starts]
    found = [(scene, psnr(array, render(scene, *array.shape[:2]))) for scene in scenes]
    return max(found, key=lambda one: one[1])


def known(picture: Image.Image) -> Scene | None:
    """What a picture of the toy world shows: a sample, a render, the result of an edit."""
    if (sample := shown(picture)) is not None:
        return sample
    scene, near = nearest(picture)
    return scene if near >= KNOWN else None


def blurred(prompt: str, picture: Image.Image) -> Verdict | None:
    """What is wrong with a picture drawn from words; None for a scene, or a refusal's card."""
    if is_card(picture) or nearest(picture)[1] >= BLURRED:
        return None
    named = {name for _, readings in _meant(" ".join(split_words(prompt))) for name, _ in readings}
    lacks = ", ".join(f"no {word}" for name, word in CAPTION.items() if name not in named)
    return Verdict(
        "note",
        "Blurred: it shows no scene of the toy world. Drawing was learned from captions that name "
        'a character, its colour and a place: "a green frog with a red hat on the beach". '
        + (f"This prompt has {lacks}." if lacks else "Try another seed."),
    )


def judge(
    prompt: str, before: Image.Image, after: Image.Image, scene: Scene | None = None
) -> Verdict:
    """What became of one wish; `scene` is what the picture before shows, None if nobody knows."""
    if scene is None:
        kind = "note" if changed(before, after)[0] < LITTLE else "done"
        return Verdict(kind, told_change(before, after))
    found = _read(after, scene, prompt)
    apart = [name for name in ATTRIBUTES if getattr(found, name) != getattr(scene, name)]
    apart = [name for name in apart if not _hidden(name, found, scene)]
    if not apart:
        return Verdict("note", "Read by the oracle: everything is as it was before.", found)
    requested = [name for name in apart if _named(name, scene, found, prompt)]
    free = _free(prompt)
    wrong = [name for name in apart if name not in requested and name not in free]
    if not wrong:
        changes = ", ".join(f"{_name(n)} is {_value(found, n)}" for n in apart)
        lost = unseen(prompt, scene, found)
        says = f"Passes in part: not seen: {', '.join(lost)}" if lost else "Passes"
        return Verdict(
            "note" if lost else "done",
            f"{says}, as far as the words tell. Read by the oracle: {changes}.",
            found,
        )
    missed = ["instruction"] * (not requested) + ["identity"] * bool(set(wrong) & set(IDENTITY))
    missed += ["preservation"] * bool(set(wrong) - set(IDENTITY))
    reads = (f"{_name(n)} is {_value(found, n)}, not {_value(scene, n)}" for n in wrong)
    return Verdict(
        "error", f"Fails: {', '.join(missed)}. Read by the oracle: {', '.join(reads)}.", found
    )


def _read(picture: Image.Image, scene: Scene, prompt: str) -> Scene:
    """The scene in a picture; of two readings, from what was there and from the wish, the nearer.

    A style or a place that is new can hide the character, if the reading starts from the old one.
    """
    names, array = [name for name in ATTRIBUTES if name != "mark"], as_array(picture)
    named = [one for words in clauses(prompt) for _, one in _meant(" ".join(words))]
    asked = dict(found[0] for found in named if len(set(found)) == 1)
    changes, start = ["species", "background", "time", "style"], scene
    if "left" in _free(prompt):  # a new picture, which begins empty
        start = scene.change(left="none", right="none", accessory="none", sign="")
        changes += ["colour", "pattern"]
    wished = start.change(**{name: asked[name] for name in changes if name in asked})
    found = read(array, scene, names)
    if wished in (scene, found):
        return found
    again = read(array, wished, names)
    return max(found, again, key=lambda one: psnr(array, render(one, *array.shape[:2])))


def _free(prompt: str) -> set[str]:
    """On what any value is right, for wishes that ask for a new picture and lend from the old."""
    said = [" ".join(words) for words in clauses(prompt)]
    named = {name for one in said for _, found in _meant(one) for name, _ in found}
    if "species" in named and any(map(_LIKE.search, said)):
        # Beside things it cannot be told whose colour is meant; `unseen` looks for each.
        things = {"colour"} if named & {"accessory", "left"} else set()
        return set(ATTRIBUTES) - {"style"} - ((DRAWN - things) & named)
    again = any(_AGAIN.search(_STAYS.sub("", one)) for one in said)
    return set(ATTRIBUTES) - set(IDENTITY) if again else set()


def _hidden(name: str, found: Scene, scene: Scene) -> bool:
    """What cannot be read: colours of nothing, and all colours in styles that have none."""
    thing = name.removesuffix("_colour")
    if (
        thing != name
        and thing in COLOURED
        and "none" in (getattr(s, thing) for s in (found, scene))
    ):
        return True
    return name.endswith("colour") and bool({found.style, scene.style} & set(COLOURLESS))


def _named(name: str, scene: Scene, found: Scene, prompt: str) -> bool:
    """Whether the words name the new value; for what is gone, the old one."""
    if name == "sign":
        quoted = re.findall(r"[A-Z]+", prompt.upper()) if found.sign else ["SIGN"]
        return found.sign in quoted or "sign" in split_words(prompt)
    value = getattr(found, name)
    value = getattr(scene, name) if value == "none" else value
    said = " ".join(split_words(prompt))
    if name in ("left", "right") and re.search(rf"\bwhat\b.*\b{name}\b", said):
        return True  # "take away what is on the left"
    return any(re.search(rf"\b{re.escape(form)}\b", said) for form in _forms(name, value))


def unseen(prompt: str, scene: Scene, found: Scene) -> list[str]:
    """What the words name that is not there, and was not before; for what should go, what stayed.

    So the second of two wishes is missed where only the first was done.
    """
    lost = [word for word in _letters(prompt) if word not in (found.sign, scene.sign)]
    removes = False
    for words in clauses(prompt):
        said = " ".join(words)
        removes &= words[:1] == ["the"]  # "remove the hat and the tree"
        removes |= any(f" {form} " in f" {said} " for form in REMOVING)
        named = _meant(said)
        things = [value for _, readings in named for name, value in readings
                  if name in ("accessory", "left")]  # fmt: skip
        for form, readings in named:
            now, was = (any(_shows(one, n, v, things) for n, v in readings)
                        for one in (found, scene))  # fmt: skip
            less = any(_count(found, v) < _count(scene, v) for _, v in readings)
            thing = any(name in ("accessory", "left") for name, _ in readings)
            if (thing and now and not less) if removes else not (now or was):
                lost.append(form)
    return lost


def _count(scene: Scene, thing: str) -> int:
    return (scene.accessory, scene.left, scene.right).count(thing)


def _letters(prompt: str) -> list[str]:
    """The words that the text encoder spells out: quoted, or in capitals."""
    pieces = split_prompt(prompt, ())
    return "".join(p.source if p.token in LETTERS else " " for p in pieces).split()


@cache
def _table() -> dict[str, list[tuple[str, str]]]:
    """What each form of the lexicon can mean: an attribute (left: either side) and its value."""
    table: dict[str, list[tuple[str, str]]] = {}
    for slot, name in MEANT.items():
        for value, found in WORLD[slot].items():
            if value in CHOICES[name]:
                for form in (value, *found):
                    table.setdefault(" ".join(split_words(form)), []).append((name, value))
    return dict(sorted(table.items(), key=lambda item: -len(item[0])))


def _meant(said: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The forms in a clause and what they can mean; the longest first: "beach ball" is no beach."""
    found = []
    for form, readings in _table().items():
        whole, count = f" {said} ", 0
        while f" {form} " in whole:
            whole, count = whole.replace(f" {form} ", " · ", 1), count + 1
        said = whole.strip()
        if count and not any(name == "eyes" or value == "plain" for name, value in readings):
            found.append((form, readings))
    return found


def _shows(scene: Scene, name: str, value: str, things: list[str]) -> bool:
    """Whether a scene has a value, and a colour at one of the things that a clause names."""
    if name == "left":
        return value in (scene.left, scene.right)
    if name != "colour":
        return getattr(scene, name) == value
    if scene.style in COLOURLESS:
        return True
    own = [thing for thing in COLOURED if getattr(scene, thing) in things]
    places = [f"{thing}_colour" for thing in own] or ["colour", *(f"{t}_colour" for t in COLOURED)]
    return value in [getattr(scene, place) for place in places]


def _forms(name: str, value: str) -> list[str]:
    rows = (WORLD.get(slot, {}) for slot in SLOTS.get(name, (name,)))
    found = [form for row in rows for form in row.get(value, ())]
    return [value, *(" ".join(split_words(form)) for form in found)]


def _name(name: str) -> str:
    return name.replace("_", " ")


def _value(scene: Scene, name: str) -> str:
    return getattr(scene, name) or "empty"
