"""How people ask: several phrasings for each edit operation, the last two held out of training."""

from __future__ import annotations

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
PHRASINGS: dict[str, tuple[str, ...]] = {
    "recolour_character": (
        "make the {species} {colour}",
        "paint the {species} {colour}",
        "change the colour of the {species} to {colour}",
        "turn the {species} {colour}",
        "the {species} should be {colour}",
        "colour the {species} {colour}",
        "change the {species} to {colour}",
    ),
    "change_pattern": (
        "make the {species} {pattern}",
        "give the {species} a {pattern} pattern",
        "change the pattern to {pattern}",
        "the {species} should be {pattern}",
        "turn the {species} {pattern}",
        "paint the {species} {pattern}",
        "change the pattern of the {species} to {pattern}",
    ),
    "change_eyes": (
        "give the {species} {eyes} eyes",
        "make the eyes {eyes}",
        "change the eyes to {eyes} eyes",
        "the {species} should have {eyes} eyes",
        "draw {eyes} eyes on the {species}",
        "make the eyes of the {species} {eyes}",
        "change the {species} to have {eyes} eyes",
    ),
    "replace_character": (
        "turn the {old} into a {species}",
        "replace the {old} with a {species}",
        "change the {old} into a {species}",
        "make the {old} a {species}",
        "swap the {old} for a {species}",
        "the {old} should be a {species}",
        "draw a {species} in place of the {old}",
    ),
    "move_character": (
        "move the {species} to the {place}",
        "put the {species} on the {place}",
        "place the {species} at the {place}",
        "the {species} should stand on the {place}",
        "let the {species} stand at the {place}",
        "move the {species} over to the {place}",
        "the {species} should be on the {place}",
    ),
    "add_accessory": (
        "add a {colour} {accessory}",
        "give the {species} a {colour} {accessory}",
        "put a {colour} {accessory} on the {species}",
        "the {species} should wear a {colour} {accessory}",
        "let the {species} wear a {colour} {accessory}",
        "draw a {colour} {accessory} on the {species}",
        "make the {species} wear a {colour} {accessory}",
    ),
    "remove_accessory": (
        "remove the {accessory}",
        "take off the {accessory}",
        "the {species} should not wear a {accessory}",
        "take the {accessory} off the {species}",
        "delete the {accessory}",
        "remove the {accessory} of the {species}",
        "draw the {species} without the {accessory}",
    ),
    "replace_accessory": (
        "replace the {old} with a {colour} {accessory}",
        "change the {old} into a {colour} {accessory}",
        "swap the {old} for a {colour} {accessory}",
        "turn the {old} into a {colour} {accessory}",
        "make the {old} a {colour} {accessory}",
        "the {old} should be a {colour} {accessory}",
        "put a {colour} {accessory} in place of the {old}",
    ),
    "recolour_accessory": (
        "make the {accessory} {colour}",
        "paint the {accessory} {colour}",
        "change the colour of the {accessory} to {colour}",
        "turn the {accessory} {colour}",
        "the {accessory} should be {colour}",
        "colour the {accessory} {colour}",
        "change the {accessory} to {colour}",
    ),
    "add_thing": (
        "add a {colour} {thing} on the {side}",
        "put a {colour} {thing} on the {side}",
        "draw a {colour} {thing} on the {side}",
        "place a {colour} {thing} at the {side}",
        "there should be a {colour} {thing} on the {side}",
        "add a {colour} {thing} at the {side}",
        "let there be a {colour} {thing} on the {side}",
    ),
    "remove_thing": (
        "remove the {thing} on the {side}",
        "delete the {thing} on the {side}",
        "take away the {thing} on the {side}",
        "there should be no {thing} on the {side}",
        "take the {thing} on the {side} away",
        "remove the {thing} at the {side}",
        "draw no {thing} on the {side}",
    ),
    "replace_thing": (
        "replace the {old} on the {side} with a {colour} {thing}",
        "change the {old} on the {side} into a {colour} {thing}",
        "swap the {old} on the {side} for a {colour} {thing}",
        "turn the {old} on the {side} into a {colour} {thing}",
        "make the {old} on the {side} a {colour} {thing}",
        "the {old} on the {side} should be a {colour} {thing}",
        "put a {colour} {thing} in place of the {old} on the {side}",
    ),
    "recolour_thing": (
        "make the {thing} on the {side} {colour}",
        "paint the {thing} on the {side} {colour}",
        "change the colour of the {thing} on the {side} to {colour}",
        "turn the {thing} on the {side} {colour}",
        "the {thing} on the {side} should be {colour}",
        "colour the {thing} on the {side} {colour}",
        "change the {thing} on the {side} to {colour}",
    ),
    "change_background": (
        "change the background to the {background}",
        "move the scene to the {background}",
        "put the {species} in the {background}",
        "set the scene in the {background}",
        "make the background the {background}",
        "replace the background with the {background}",
        "the {species} should be in the {background}",
    ),
    "change_time": (
        "make it {time}",
        "change the scene to {time}",
        "it should be {time}",
        "turn the picture to {time}",
        "show the scene at {time}",
        "change it to {time}",
        "let it be {time}",
    ),
    "change_style": (
        "draw it in {style} style",
        "change the style to {style}",
        "make it a {style} picture",
        "turn the picture into {style} style",
        "show the scene in {style} style",
        "make the picture {style} style",
        "redraw it as a {style} picture",
    ),
    "change_sign": (
        'change the sign to "{sign}"',
        'make the sign say "{sign}"',
        'the sign should say "{sign}"',
        'write "{sign}" on the sign',
        'replace the text with "{sign}"',
        'let the sign say "{sign}"',
        'change the text to "{sign}"',
    ),
    "add_sign": (
        'add a sign that says "{sign}"',
        'put up a sign with "{sign}"',
        'hang a sign that says "{sign}"',
        'there should be a sign with "{sign}"',
        'draw a sign with "{sign}"',
        'add a sign with "{sign}"',
        'let there be a sign that says "{sign}"',
    ),
    "remove_sign": (
        "remove the sign",
        "take the sign away",
        "delete the sign",
        "there should be no sign",
        "take down the sign",
        "take away the sign",
        "draw it without the sign",
    ),
    "style_reference": (
        "using this style draw a {colour} {species} in the {background}",
        "in the same style show a {colour} {species} in the {background}",
        "in this style draw a {colour} {species} in the {background}",
        "a {colour} {species} in the {background} in this style",
        "using the same style draw a {colour} {species} in the {background}",
        "draw a {colour} {species} in the {background} in the same style",
        "using this style show a {colour} {species} in the {background}",
    ),
    "character_reference": (
        "show the same {species} in the {background} at {time}",
        "draw this {species} in the {background} at {time}",
        "the same {species} in the {background} at {time}",
        "put this {species} in the {background} at {time}",
        "this {species} in the {background} at {time}",
        "draw the same {species} in the {background} at {time}",
        "show this {species} in the {background} at {time}",
    ),
    "recolour_marked": (
        "make the circled {thing} {colour}",
        "paint the circled {thing} {colour}",
        "change the colour of the circled {thing} to {colour}",
        "turn the marked {thing} {colour}",
        "the {thing} in the circle should be {colour}",
        "colour the circled {thing} {colour}",
        "make the marked {thing} {colour}",
    ),
    "remove_marked": (
        "remove the circled {thing}",
        "delete the circled {thing}",
        "take away the marked {thing}",
        "remove the {thing} in the circle",
        "take the circled {thing} away",
        "delete the {thing} in the circle",
        "remove the marked {thing}",
    ),
    "replace_marked": (
        "replace the circled {old} with a {colour} {thing}",
        "change the circled {old} into a {colour} {thing}",
        "swap the marked {old} for a {colour} {thing}",
        "turn the circled {old} into a {colour} {thing}",
        "make the {old} in the circle a {colour} {thing}",
        "replace the marked {old} with a {colour} {thing}",
        "turn the {old} in the circle into a {colour} {thing}",
    ),
    "swap_character": (
        "replace the {old} with the {species} from the second picture",
        "put the {species} from the second picture in place of the {old}",
        "swap the {old} for the {species} in the second picture",
        "turn the {old} into the {species} from the second picture",
        "the {old} should be the {species} from the second picture",
        "change the {old} into the {species} from the second picture",
        "replace the {old} with the {species} in the second picture",
    ),
    "borrow_accessory": (
        "give the {species} the {accessory} from the second picture",
        "put the {accessory} from the second picture on the {species}",
        "let the {species} wear the {accessory} from the second picture",
        "add the {accessory} from the second picture",
        "the {species} should wear the {accessory} in the second picture",
        "give the {species} the {accessory} in the second picture",
        "make the {species} wear the {accessory} from the second picture",
    ),
    "text_to_image": (
        "a {caption}",
        "draw a {caption}",
        "a picture of a {caption}",
        "show a {caption}",
        "there should be a {caption}",
        "let there be a {caption}",
        "draw a picture of a {caption}",
    ),
}


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


def phrasing_choices(operation: str, held_out: bool) -> range:
    """The numbers of the phrasings that training may use, or those that it may not."""
    count = len(PHRASINGS[operation])
    first_held_out = count - HELD_OUT_PHRASINGS
    return range(first_held_out, count) if held_out else range(first_held_out)


def vocabulary() -> tuple[str, ...]:
    """Every word that any phrasing can contain, sorted; letters of signs are not among them."""
    text = " ".join(re.sub(r"{\w+}", " ", p) for group in PHRASINGS.values() for p in group)
    names = (*SPECIES, *COLOURS, *PATTERNS, *EYES, *ACCESSORIES, *BACKGROUNDS, *TIMES, *STYLES)
    words = set(re.findall(r"[a-z]+", text.lower())) | set(names) | set(THINGS) | set(PLACES)
    extra = {"an", "by", "in", "on", "with", "at", "and", "it", "the"}
    return tuple(sorted((words | extra) - {"none"} - set(LETTERS.lower()) | {"a"}))
