"""How people ask: many phrasings for each edit operation, the last two held out of training.

Sentences come in families: what is said to recolour a cat can be said of a hat. The held-out
sentences are new as sentences, but every word of them is known from others.

Long because it is a table of sentences.
"""

from __future__ import annotations

import itertools
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

HELD_OUT_PHRASINGS = 2

# ---------------------------------------------------------------- families of sentences
RECOLOUR = (
    "make {it} {colour}",
    "paint {it} {colour}",
    "change the colour of {it} to {colour}",
    "turn {it} {colour}",
    "{it} should be {colour}",
    "give {it} a {colour} colour",
    "i want {it} to be {colour}",
    "let {it} be {colour}",
    "make the colour of {it} {colour}",
    "show {it} in {colour}",
    "draw {it} in {colour}",
    "the colour of {it} should be {colour}",
    "set the colour of {it} to {colour}",
    "{it} should have a {colour} colour",
    "change {it} so that it is {colour}",
    "colour {it} in {colour}",
)
REPLACE = (
    "replace {old} with {new}",
    "change {old} into {new}",
    "swap {old} for {new}",
    "turn {old} into {new}",
    "make {old} {new}",
    "exchange {old} for {new}",
    "i want {new} instead of {old}",
    "draw {new} instead of {old}",
    "show {new} where {old} is",
    "put {new} where {old} is",
    "let {old} become {new}",
    "{old} should become {new}",
    "use {new} in place of {old}",
    "let {new} take the place of {old}",
    "make {new} out of {old}",
    "{new} should be where {old} is",
    "take {old} away and draw {new}",
    "there should be {new} instead of {old}",
    "{new} in place of {old}",
    "change {old} to {new}",
)
REMOVE = (
    "remove {it}",
    "delete {it}",
    "take away {it}",
    "take {it} away",
    "erase {it}",
    "get rid of {it}",
    "make {it} go away",
    "i do not want {it}",
    "let {it} be gone",
    "show the picture without {it}",
    "the picture without {it}",
    "{it} should be gone",
    "{it} should not be there",
    "let there be no {bare}",
    "i want no {bare}",
    "no {bare}",
)
HAVE = (
    "give the {species} {new}",
    "the {species} should have {new}",
    "let the {species} have {new}",
    "i want the {species} to have {new}",
    "draw the {species} with {new}",
    "show the {species} with {new}",
    "the {species} with {new}",
    "add {new} to the {species}",
    "put {new} on the {species}",
    "there should be {new} on the {species}",
    "change the {species} so that it has {new}",
)
WEAR = (
    *HAVE,
    "the {species} should wear {new}",
    "let the {species} wear {new}",
    "dress the {species} in {new}",
    "i want the {species} to wear {new}",
    "show the {species} in {new}",
)
PLACE_AT = (
    "add {new} {there}",
    "put {new} {there}",
    "draw {new} {there}",
    "place {new} {there}",
    "there should be {new} {there}",
    "i want {new} {there}",
    "show {new} {there}",
    "{new} {there}",
    "set {new} {there}",
    "{there} there should be {new}",
    "{there} put {new}",
    "{there} draw {new}",
)
SIGN = (
    'add {new} "{sign}"',
    'put up {new} "{sign}"',
    'hang {new} "{sign}"',
    'hang up {new} "{sign}"',
    'show {new} "{sign}"',
    'set up {new} "{sign}"',
    'i want {new} "{sign}"',
    'there should be {new} "{sign}"',
    'let there be {new} "{sign}"',
    'draw {new} "{sign}"',
    '{new} "{sign}"',
)
SAY = (
    'change {it} to "{sign}"',
    'make {it} say "{sign}"',
    '{it} should say "{sign}"',
    'replace {it} with "{sign}"',
    'i want {it} to say "{sign}"',
    'set {it} to "{sign}"',
    'make {it} "{sign}"',
    'let {it} be "{sign}"',
    '{it} should be "{sign}"',
    'turn {it} into "{sign}"',
    'change {it} so that it says "{sign}"',
)
SCENERY = (
    "move the scene to {there}",
    "set the scene in {there}",
    "put the {species} in {there}",
    "show the {species} in {there}",
    "draw the {species} in {there}",
    "let the {species} be in {there}",
    "let the {species} stand in {there}",
    "move the {species} to {there}",
    "i want the {species} to be in {there}",
    "the scene should be in {there}",
    "bring the {species} to {there}",
    "the {species} in {there}",
    "change the scene to {there}",
    "draw {there} behind the {species}",
    "show {there} in the background",
    "change the background to {there}",
    "make the background {there}",
    "the background should be {there}",
    "let the background be {there}",
    "set the background to {there}",
    "turn the background into {there}",
    "swap the background for {there}",
)
WEATHER = (
    "make it {time}",
    "change the scene to {time}",
    "it should be {time}",
    "turn the picture to {time}",
    "show the scene at {time}",
    "let it become {time}",
    "turn it to {time}",
    "i want it to be {time}",
    "change the picture to {time}",
    "set the scene at {time}",
    "show it at {time}",
    "draw it at {time}",
    "the scene at {time}",
    "let the scene be at {time}",
    "make the picture {time}",
)
STYLE = (
    "draw {it} in {style} style",
    "turn {it} into {style} style",
    "show {it} in {style} style",
    "change {it} to {style} style",
    "redraw {it} in {style} style",
    "paint {it} in {style} style",
    "i want {it} in {style} style",
    "{it} should be in {style} style",
    "{it} in {style} style",
    "let {it} be in {style} style",
)
CAPTION = (
    "{caption}",
    "draw {caption}",
    "a picture of {caption}",
    "show {caption}",
    "there should be {caption}",
    "paint {caption}",
    "i want {caption}",
    "make a picture of {caption}",
    "paint a picture of {caption}",
    "show a picture of {caption}",
)
LIKE = (
    "using {this} style draw {new}",
    "using {this} style paint {new}",
    "in {this} style show {new}",
    "in {this} style draw {new}",
    "{new} in {this} style",
    "show {new} in {this} style",
    "paint {new} in {this} style",
    "i want {new} in {this} style",
    "draw {new} using {this} style",
    "with {this} style draw {new}",
    "there should be {new} in {this} style",
)
AGAIN = (
    "show {it} in {there}",
    "put {it} in {there}",
    "{it} in {there}",
    "paint {it} in {there}",
    "i want {it} in {there}",
    "let {it} be in {there}",
    "place {it} in {there}",
    "bring {it} to {there}",
    "{it} should be in {there}",
    "draw {it} in {there}",
)


def family(sentences: tuple[str, ...], **parts: str | tuple[str, ...]) -> tuple[str, ...]:
    """Every sentence of a family with every choice of its parts filled in.

    `parts` names what stands in for `{it}`, `{new}` and so on; words in braces that no part names
    are left for later.
    """
    choices = [(value,) if isinstance(value, str) else value for value in parts.values()]
    found = []
    for sentence, values in itertools.product(sentences, itertools.product(*choices)):
        for name, value in zip(parts, values, strict=True):
            sentence = sentence.replace(f"{{{name}}}", value)
        found.append(sentence)
    return tuple(dict.fromkeys(found))


# ---------------------------------------------------------------- what is said for each operation

_BESIDE = ("the {thing} on the {side}", "the {thing} at the {side}", "the {side} {thing}")
_OLD_BESIDE = tuple(noun.replace("{thing}", "{old}") for noun in _BESIDE)
_MARKED = ("the circled {thing}", "the marked {thing}", "the {thing} in the circle")
_OLD_MARKED = tuple(noun.replace("{thing}", "{old}") for noun in _MARKED)
_BARE_BESIDE = ("{thing} on the {side}", "{thing} at the {side}")
_SECOND = ("from the second picture", "in the second picture")
_SIDES = ("on the {side}", "at the {side}", "on the {side} side")

# Per operation: what training hears, and the two sentences that only tests ask.
_ASKED: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "recolour_character": (
        family(RECOLOUR, it="the {species}"),
        ("colour the {species} {colour}", "change the {species} to {colour}"),
    ),
    "change_pattern": (
        (
            "make the {species} {pattern}",
            "give the {species} a {pattern} pattern",
            "change the pattern to {pattern}",
            "the {species} should be {pattern}",
            "turn the {species} {pattern}",
            "i want the {species} to be {pattern}",
            "let the {species} be {pattern}",
            "the pattern should be {pattern}",
            "set the pattern of the {species} to {pattern}",
            "make the pattern of the {species} {pattern}",
            "the {species} should have a {pattern} pattern",
            "draw the {species} with a {pattern} pattern",
            "show the {species} with a {pattern} pattern",
            "change the {species} so that it is {pattern}",
            "draw a {pattern} pattern on the {species}",
            "make the pattern {pattern}",
        ),
        ("paint the {species} {pattern}", "change the pattern of the {species} to {pattern}"),
    ),
    "change_eyes": (
        (
            *family(HAVE, new="{eyes} eyes"),
            "make the eyes {eyes}",
            "change the eyes to {eyes} eyes",
            "draw {eyes} eyes on the {species}",
            "the eyes should be {eyes}",
            "change the eyes of the {species} to {eyes}",
            "let the eyes of the {species} be {eyes}",
            "turn the eyes {eyes}",
            "i want the eyes to be {eyes}",
            "give it {eyes} eyes",
            "the eyes of the {species} should be {eyes}",
        ),
        ("make the eyes of the {species} {eyes}", "change the {species} to have {eyes} eyes"),
    ),
    "replace_character": (
        family(REPLACE, old="the {old}", new="a {species}"),
        ("the {old} should be a {species}", "draw a {species} in place of the {old}"),
    ),
    "move_character": (
        (
            "move the {species} to the {place}",
            "put the {species} on the {place}",
            "place the {species} at the {place}",
            "the {species} should stand on the {place}",
            "let the {species} stand at the {place}",
            "i want the {species} on the {place}",
            "show the {species} on the {place}",
            "draw the {species} on the {place}",
            "let the {species} be on the {place}",
            "move the {species} so that it is at the {place}",
            "bring the {species} to the {place}",
            "make the {species} stand at the {place}",
            "make the {species} go to the {place}",
            "let the {species} go over to the {place}",
            "bring the {species} over to the {place}",
        ),
        ("move the {species} over to the {place}", "the {species} should be on the {place}"),
    ),
    "add_accessory": (
        ("add a {colour} {accessory}", *family(WEAR, new="a {colour} {accessory}")),
        (
            "draw a {colour} {accessory} on the {species}",
            "make the {species} wear a {colour} {accessory}",
        ),
    ),
    "remove_accessory": (
        (
            *family(REMOVE, it="the {accessory}", bare="{accessory}"),
            "take off the {accessory}",
            "take the {accessory} off the {species}",
            "take the {accessory} off",
            "the {species} should not wear a {accessory}",
            "the {species} should wear no {accessory}",
            "let the {species} take off the {accessory}",
            "show the {species} without the {accessory}",
            "the {species} without the {accessory}",
            "i want the {species} without the {accessory}",
            "delete the {accessory} of the {species}",
            "take away the {accessory} of the {species}",
            "draw the {species} with no {accessory}",
        ),
        ("remove the {accessory} of the {species}", "draw the {species} without the {accessory}"),
    ),
    "replace_accessory": (
        family(REPLACE, old="the {old}", new="a {colour} {accessory}"),
        (
            "the {old} should be a {colour} {accessory}",
            "put a {colour} {accessory} in place of the {old}",
        ),
    ),
    "recolour_accessory": (
        family(RECOLOUR, it="the {accessory}"),
        ("colour the {accessory} {colour}", "change the {accessory} to {colour}"),
    ),
    "add_thing": (
        family(PLACE_AT, new="a {colour} {thing}", there=_SIDES),
        (
            "add a {colour} {thing} at the {side}",
            "let there be a {colour} {thing} on the {side}",
        ),
    ),
    "remove_thing": (
        (
            *family(REMOVE, it=_BESIDE, bare=_BARE_BESIDE),
            "there should be no {thing} on the {side}",
            "draw the {side} without the {thing}",
            "draw the picture with no {thing} on the {side}",
        ),
        ("remove the {thing} at the {side}", "draw no {thing} on the {side}"),
    ),
    "replace_thing": (
        family(REPLACE, old=_OLD_BESIDE, new="a {colour} {thing}"),
        (
            "the {old} on the {side} should be a {colour} {thing}",
            "put a {colour} {thing} in place of the {old} on the {side}",
        ),
    ),
    "recolour_thing": (
        family(RECOLOUR, it=_BESIDE),
        (
            "colour the {thing} on the {side} {colour}",
            "change the {thing} on the {side} to {colour}",
        ),
    ),
    "change_background": (
        family(SCENERY, there="the {background}"),
        (
            "replace the background with the {background}",
            "the {species} should be in the {background}",
        ),
    ),
    "change_time": (WEATHER, ("change it to {time}", "let it be {time}")),
    "change_style": (
        (
            *family(STYLE, it=("it", "the picture", "the scene")),
            "change the style to {style}",
            "make it a {style} picture",
            "set the style to {style}",
            "make the style {style}",
            "turn it into a {style} picture",
            "the style should be {style}",
            "let it be a {style} picture",
            "show it as a {style} picture",
            "paint it as a {style} picture",
        ),
        ("make the picture {style} style", "redraw it as a {style} picture"),
    ),
    "change_sign": (
        (
            *family(SAY, it=("the sign", "the text", "the text on the sign")),
            'write "{sign}" on the sign',
            'put "{sign}" on the sign',
            'let there be "{sign}" on the sign',
            'let the text say "{sign}"',
        ),
        ('let the sign say "{sign}"', 'change the text to "{sign}"'),
    ),
    "add_sign": (
        family(SIGN, new=("a sign that says", "a sign with", "a sign with the text")),
        ('add a sign with "{sign}"', 'let there be a sign that says "{sign}"'),
    ),
    "remove_sign": (
        (
            *family(REMOVE, it="the sign", bare="sign"),
            "take down the sign",
            "take the sign down",
            "there should be no sign",
            "draw the scene without the sign",
            "show it without the sign",
            "draw it with no sign",
        ),
        ("take away the sign", "draw it without the sign"),
    ),
    "style_reference": (
        family(LIKE, this=("this", "the same"), new="a {colour} {species} in the {background}"),
        (
            "draw a {colour} {species} in the {background} in the same style",
            "using this style show a {colour} {species} in the {background}",
        ),
    ),
    "character_reference": (
        family(
            AGAIN, it=("the same {species}", "this {species}"), there="the {background} at {time}"
        ),
        (
            "draw the same {species} in the {background} at {time}",
            "show this {species} in the {background} at {time}",
        ),
    ),
    "recolour_marked": (
        family(RECOLOUR, it=_MARKED),
        ("colour the circled {thing} {colour}", "make the marked {thing} {colour}"),
    ),
    "remove_marked": (
        family(REMOVE[:13], it=_MARKED),
        ("delete the {thing} in the circle", "remove the marked {thing}"),
    ),
    "replace_marked": (
        family(REPLACE, old=_OLD_MARKED, new="a {colour} {thing}"),
        (
            "replace the marked {old} with a {colour} {thing}",
            "turn the {old} in the circle into a {colour} {thing}",
        ),
    ),
    "swap_character": (
        family(
            REPLACE, old="the {old}", new=tuple(f"the {{species}} {where}" for where in _SECOND)
        ),
        (
            "change the {old} into the {species} from the second picture",
            "replace the {old} with the {species} in the second picture",
        ),
    ),
    "borrow_accessory": (
        (
            *family(WEAR, new=tuple(f"the {{accessory}} {where}" for where in _SECOND)),
            "add the {accessory} from the second picture",
            "take the {accessory} from the second picture",
            "draw the {accessory} from the second picture on the {species}",
        ),
        (
            "give the {species} the {accessory} in the second picture",
            "make the {species} wear the {accessory} from the second picture",
        ),
    ),
    "text_to_image": (
        family(CAPTION, caption="a {caption}"),
        ("let there be a {caption}", "draw a picture of a {caption}"),
    ),
}
PHRASINGS: dict[str, tuple[str, ...]] = {
    operation: (*(phrasing for phrasing in heard if phrasing not in asked), *asked)
    for operation, (heard, asked) in _ASKED.items()
}

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
    asked = [*POLITE, *(phrasing for group in PHRASINGS.values() for phrasing in group)]
    text = " ".join(re.sub(r"{\w*}", " ", phrasing) for phrasing in asked)
    names = (*SPECIES, *COLOURS, *PATTERNS, *EYES, *ACCESSORIES, *BACKGROUNDS, *TIMES, *STYLES)
    words = set(re.findall(r"[a-z]+", text.lower())) | set(names) | set(THINGS) | set(PLACES)
    extra = {"an", "by", "in", "on", "with", "at", "and", "it", "the"}
    return tuple(sorted((words | extra) - {"none"} - set(LETTERS.lower()) | {"a", "i"}))
