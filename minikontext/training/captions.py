"""Captions that tell all of a picture, so that drawing it can be learned from words alone.

A caption of the toy world leaves things out, as people do: many pictures are right, and most of
what a net draws was never asked for. It then takes long to learn what a word looks like. DALL-E 3
(Betker et al., 2023) and PixArt-α (Chen et al., 2023) train on long captions of all that is seen.
Here each attribute of the scene is named, by any of its words in the lexicon.
"""

from __future__ import annotations

import random
from dataclasses import replace

from minikontext.toyworld import Case, grammar
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.scene import ATTRIBUTES

NAME = "told"  # the operation of a case whose prompt tells all of its target
SENTENCE_SHARE = 0.5
LOOKS = "{pattern} {colour} {species}", "{colour} {species}"
SAID = {  # as a sentence says it, and as a list does; what it is about, first
    "eyes": ("with {eyes} eyes", "{eyes} eyes"),
    "accessory": ("{wearing} a {accessory_colour} {accessory}", "{accessory_colour} {accessory}"),
    "place": ("(on|at|in) the {place}", "{place}"),
    "background": ("{where}", "{background}"),
    "time": ("{when}", "{time}"),
    "left": ("with a {left_colour} {left} on the left", "{left_colour} {left} left"),
    "right": ("with a {right_colour} {right} on the right", "{right_colour} {right} right"),
    "sign": ('with a sign that says "{sign}"', 'sign "{sign}"'),
    "style": ("in {style} style", "{style} style"),
}
ABSENT = {"accessory": "none", "left": "none", "right": "none", "sign": "", "style": "plain"}


def sample_told(index: int, number: int, split: str, seed: int) -> Case:
    """Case `index` of a stream of pictures that are told whole: a right answer to an edit.

    Nothing held out is in it that is not in the edits of the split. Raises ValueError for another
    split or level.
    """
    case = sample_case(index, number, split, seed, 1)
    told = case.target.change(mark="none")  # an ellipse that points is no part of what is seen
    return replace(case, operation=NAME, task="text to image", contexts=(), target=told,
                   claims=ATTRIBUTES, free=(), words={}, prompt="")  # fmt: skip


def tell(case: Case, rng: random.Random) -> str:
    """A caption of every attribute of a target, in an order of its own, that an encoder can read.

    It is a sentence, or a list like those that people learn to write: "striped blue fox, big eyes".
    """
    scene = case.target
    said = [name for name in SAID if getattr(scene, name) != ABSENT.get(name)]
    rng.shuffle(said)
    looks = LOOKS[scene.pattern == "plain"]
    known = grammar.caption_facts(case) | {"sign": ("", scene.sign)}
    for side in ("left", "right"):
        known[side] = ("thing", getattr(scene, side))
        known[f"{side}_colour"] = ("colour", getattr(scene, f"{side}_colour"))
    sentence = "a " + " ".join([looks, *(SAID[name][0] for name in said)])
    listed = ", ".join([looks, *(SAID[name][1] for name in said)])
    sentences = iter([sentence] * 3 if rng.random() < SENTENCE_SHARE else [])
    text = grammar.short(lambda: grammar.fill(next(sentences, listed), known, rng))
    return grammar.finish(text, rng, grammar.Noise(polite=0.0))
