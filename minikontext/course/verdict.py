"""What became of a wish: read by the oracle where the scene is known, else how much changed, where.

Nobody tells the oracle what the right answer is. So it reads the picture before and after, and asks
of every change whether the words name it: what was not named should have stayed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minikontext.images import as_rgb, shrunk
from minikontext.toyworld import Scene, read
from minikontext.toyworld.lexicon import WORLD, split_words
from minikontext.toyworld.scene import ATTRIBUTES, COLOURED, COLOURLESS, IDENTITY

VISIBLE = 24  # of 255: a smaller difference of a pixel is not counted
AMPLIFIED = 3  # times: small differences are hard to see
LITTLE = 0.005  # a smaller share of the pixels is noise of the autoencoder
# Where the forms of an attribute's values stand in the lexicon.
SLOTS = {
    "colour": ("colour",), "pattern": ("pattern", "markings"), "eyes": ("eyes", "looks"),
    "left": ("thing",), "right": ("thing",), "accessory_colour": ("colour",),
    "left_colour": ("colour",), "right_colour": ("colour",), "place": ("side", "place"),
}  # fmt: skip
# Words that ask for the character somewhere else: there all but the character is free.
ELSEWHERE = {"this", "same", "these"}


@dataclass(frozen=True)
class Verdict:
    """kind: that of a status line, done, note or error. scene: what the picture shows, if known."""

    kind: str
    text: str
    scene: Scene | None = None


def judge(
    prompt: str, before: Image.Image, after: Image.Image, scene: Scene | None = None
) -> Verdict:
    """What became of one wish; `scene` is what the picture before shows, None if nobody knows."""
    if scene is None:
        share, where = changed(before, after)
        if share < LITTLE:
            return Verdict("note", "Nothing that one could see has changed.")
        return Verdict("done", f"{share:.0%} of the picture changed, most of it {where}.")
    found = read(after, scene, [name for name in ATTRIBUTES if name != "mark"])
    apart = [name for name in ATTRIBUTES if getattr(found, name) != getattr(scene, name)]
    apart = [name for name in apart if not _hidden(name, found, scene)]
    if not apart:
        return Verdict("note", "Read by the oracle: everything is as it was before.", found)
    requested = [name for name in apart if _named(name, scene, found, prompt)]
    free = set() if not ELSEWHERE & set(split_words(prompt)) else set(ATTRIBUTES) - set(IDENTITY)
    wrong = [name for name in apart if name not in requested and name not in free]
    if not wrong:
        changes = ", ".join(f"{_name(n)} is {_value(found, n)}" for n in apart)
        return Verdict("done", f"Passes, as far as the words tell. Read by the oracle: {changes}.",
                       found)  # fmt: skip
    missed = ["instruction"] * (not requested) + ["identity"] * bool(set(wrong) & set(IDENTITY))
    missed += ["preservation"] * bool(set(wrong) - set(IDENTITY))
    reads = (f"{_name(n)} is {_value(found, n)}, not {_value(scene, n)}" for n in wrong)
    return Verdict(
        "error", f"Fails: {', '.join(missed)}. Read by the oracle: {', '.join(reads)}.", found
    )


def changed(before: Image.Image, after: Image.Image) -> tuple[float, str]:
    """The share of the pixels that changed visibly, and in which ninth of the picture most did."""
    size = (min(after.width, 256), min(after.height, 256))
    pictures = (as_rgb(p).resize(size, reducing_gap=2.0) for p in (before, after))
    a, b = (np.asarray(picture, int) for picture in pictures)
    apart = np.abs(a - b).max(-1) > VISIBLE
    thirds = [[part.sum() for part in np.array_split(rows, 3, axis=1)]
              for rows in np.array_split(apart, 3)]  # fmt: skip
    row, col = divmod(int(np.argmax(thirds)), 3)
    down, across = ("at the top", "in the middle", "at the bottom")[row], ("left", "", "right")[col]
    return float(apart.mean()), f"{down} {across}".strip()


def difference(before: Image.Image, after: Image.Image) -> Image.Image:
    """How much each pixel changed, amplified: black is no change."""
    after = shrunk(after, 512)
    a, b = (
        np.asarray(p.convert("RGB").resize(after.size), int) for p in (shrunk(before, 512), after)
    )
    return Image.fromarray(np.clip(AMPLIFIED * np.abs(b - a), 0, 255).astype(np.uint8))


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
    return any(re.search(rf"\b{re.escape(form)}\b", said) for form in _forms(name, value))


def _forms(name: str, value: str) -> list[str]:
    rows = (WORLD.get(slot, {}) for slot in SLOTS.get(name, (name,)))
    found = [form for row in rows for form in row.get(value, ())]
    return [value, *(" ".join(split_words(form)) for form in found)]


def _name(name: str) -> str:
    return name.replace("_", " ")


def _value(scene: Scene, name: str) -> str:
    return getattr(scene, name) or "empty"
