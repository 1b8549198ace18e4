"""What became of a wish: read by the oracle where the scene is known, else how much changed, where.

Nobody tells the oracle what the right answer is. So it reads the picture before and after, and asks
of every change whether the words name it: what was not named should have stayed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from minikontext.images.change import LITTLE, changed, told_change
from minikontext.toyworld import Scene, read
from minikontext.toyworld.lexicon import WORLD, split_words
from minikontext.toyworld.scene import ATTRIBUTES, COLOURED, COLOURLESS, IDENTITY

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
        kind = "note" if changed(before, after)[0] < LITTLE else "done"
        return Verdict(kind, told_change(before, after))
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
