"""Three and four pictures at once: which picture lends what is said in the words.

One picture lends the character, with the scene it stands in; another the accessory; another the
background; and one the style. The pictures come in any order, and each shows a character of its
own, so only "the first", "the second" and so on say what to take from where. What nobody asked for
stays as it is in the character's picture, so every wish has one right answer.
"""

from __future__ import annotations

import random
import re

from minikontext.toyworld.edits import SECOND_EDITION, Draft, Later, Rung
from minikontext.toyworld.scene import STYLES, Scene, pick, sample_scene
from minikontext.toyworld.tables import lines, read_table

ORDINALS = ("first", "second", "third", "fourth")
# A style that is lent must leave the character's and the accessory's colours to be seen.
LENT_STYLES = tuple(style for style in STYLES if style in ("comic", "pixel", "pastel"))

SENTENCES = {name: lines(text) for name, text in read_table("several").items()}
HELD_OUT_SENTENCES = 2


def ask(said: dict[str, str], rng: random.Random, held_out: bool) -> str:
    """One way to ask for what several pictures lend, in a sentence of training or of tests."""
    lent = {"scene": "background", "drawn": "style"}
    kinds = [lent[role] for role in lent if role in said]
    sentences = SENTENCES["both" if len(kinds) == 2 else kinds[0]]
    known, unheard = sentences[:-HELD_OUT_SENTENCES], sentences[-HELD_OUT_SENTENCES:]
    return rng.choice(unheard if held_out else known).format(**said)


def words() -> tuple[str, ...]:
    """Every word of the sentences, sorted, and the ordinals."""
    text = " ".join(re.sub(r"{\w*}", " ", one) for group in SENTENCES.values() for one in group)
    return tuple(sorted({*re.findall(r"[a-z]+", text), *ORDINALS}))


def _combined(rng: random.Random, scene: Scene, rung: Rung, roles: tuple[str, ...]) -> Draft:
    """The draft of a wish in which pictures in a random order have these roles."""
    pictures = {"character": scene.change(style="plain", accessory="none")}
    pictures |= {role: _lender(rng, role, scene, rung) for role in roles if role != "character"}
    order = list(roles)
    rng.shuffle(order)
    changes = {
        "worn": ("accessory", "accessory_colour"), "scene": ("background",), "drawn": ("style",)
    }  # fmt: skip
    claims = tuple(name for role in roles for name in changes.get(role, ()))
    lent = {n: getattr(pictures[role], n) for role in roles for n in changes.get(role, ())}
    target = pictures["character"].change(**lent)
    said = {role: ORDINALS[order.index(role)] for role in roles}
    said |= {"species": scene.species, "accessory": target.accessory}
    said |= {"background": target.background}
    return Draft(
        tuple(pictures[role] for role in order), target, said, claims,
        base=order.index("character"),
    )  # fmt: skip


def _lender(rng: random.Random, role: str, taker: Scene, rung: Rung) -> Scene:
    """A picture with something to take that the taker lacks, and a character of its own."""
    scene = sample_scene(rng, 4).change(style="plain", mark="none")
    if role == "drawn":
        return scene.change(style=rng.choice(LENT_STYLES))
    if role == "scene":
        background = pick(rng, rung.values("background"), without=taker.background)
        return scene.change(time="day", background=background)
    accessory = pick(rng, rung.values("accessory"), without="none")
    colour = rng.choice(rung.values("colour"))
    return scene.change(time="day", accessory=accessory, accessory_colour=colour)


def combine_three(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """Character, accessory, and background or style, from three pictures."""
    return _combined(rng, scene, rung, ("character", "worn", rng.choice(("scene", "drawn"))))


def combine_four(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """Character, accessory, background and style, from four pictures."""
    return _combined(rng, scene, rung, ("character", "worn", "scene", "drawn"))


SECOND_EDITION["combine_three"] = Later("three images", combine_three, ask)
SECOND_EDITION["combine_four"] = Later("four images", combine_four, ask)
