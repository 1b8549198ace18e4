"""What a toy picture is made of: a handful of named choices, nothing else.

A `Scene` is the whole truth about a picture. `render` turns it into pixels, an edit turns it into
another scene, and the oracle reads it back. Thousands of characters times backgrounds, weathers,
styles, things and signs make the world rich enough to learn from and small enough to score exactly.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields, replace

SPECIES = ("cat", "bunny", "bear", "chick", "frog", "ghost", "robot", "star")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
PATTERNS = ("plain", "striped", "spotted", "bellied")
EYES = ("round", "big", "sleepy", "single")
ACCESSORIES = ("none", "hat", "scarf", "bow", "glasses")
BACKGROUNDS = ("meadow", "beach", "desert", "snow", "forest", "city", "sea", "room")
TIMES = ("day", "sunset", "night", "rain")
STYLES = ("plain", "comic", "pixel", "sketch", "pastel", "neon")
PLACES = ("left", "middle", "right")
THINGS = ("none", "tree", "flower", "ball", "house", "mushroom", "gift")
MARKS = ("none", "left", "right")
# Styles that do not show for certain what colour a body has.
COLOURLESS = ("sketch", "neon")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_SIGN = 4


@dataclass(frozen=True)
class Scene:
    """Everything that can be seen in one picture, as named choices (see the tuples above).

    `left` and `right` are the things beside the character, `sign` the word on the board ("" is no
    board), `mark` the thing that a drawn red ellipse encloses (the paper's visual cue).
    Colours of absent things are "white", so equal pictures are equal scenes.
    Raises ValueError for a value the world does not know.
    """

    species: str = "cat"
    colour: str = "orange"
    pattern: str = "plain"
    eyes: str = "round"
    accessory: str = "none"
    accessory_colour: str = "white"
    place: str = "middle"
    left: str = "none"
    left_colour: str = "white"
    right: str = "none"
    right_colour: str = "white"
    sign: str = ""
    background: str = "meadow"
    time: str = "day"
    style: str = "plain"
    mark: str = "none"

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
        if len(self.sign) > MAX_SIGN or not set(self.sign) <= set(LETTERS):
            raise ValueError(f"sign={self.sign!r}: at most {MAX_SIGN} letters A-Z")

    def change(self, **values: str) -> Scene:
        """A copy with some choices changed; colours of what is no longer there are cleared."""
        scene = replace(self, **values)
        gone = {f"{name}_colour": "white" for name in COLOURED if getattr(scene, name) == "none"}
        return replace(scene, **gone)

    @property
    def identity(self) -> tuple[str, ...]:
        """What makes the character itself: the oracle's meaning of "the same character"."""
        return (self.species, self.colour, self.pattern, self.eyes)


COLOURED = ("accessory", "left", "right")
CHOICES: dict[str, tuple[str, ...]] = {
    "species": SPECIES,
    "colour": COLOURS,
    "pattern": PATTERNS,
    "eyes": EYES,
    "accessory": ACCESSORIES,
    "accessory_colour": COLOURS,
    "place": PLACES,
    "left": THINGS,
    "left_colour": COLOURS,
    "right": THINGS,
    "right_colour": COLOURS,
    "background": BACKGROUNDS,
    "time": TIMES,
    "style": STYLES,
    "mark": MARKS,
}
IDENTITY = ("species", "colour", "pattern", "eyes")
ATTRIBUTES = tuple(one.name for one in fields(Scene))


@dataclass(frozen=True)
class Level:
    """One rung of the ladder: which values occur and which edits are asked for, with weights.

    `narrow` limits an attribute to fewer values than the world has; `operations` maps the names in
    `edits.OPERATIONS` to their relative frequency; `more` those of the second edition.
    """

    name: str
    narrow: dict[str, tuple[str, ...]]
    operations: dict[str, float]
    sign_share: float = 0.0
    thing_share: float = 0.0
    more: dict[str, float] = field(default_factory=dict)

    def values(self, attribute: str) -> tuple[str, ...]:
        """The values that `attribute` takes on this level."""
        return self.narrow.get(attribute, CHOICES[attribute])


_ONLY_PLAIN = {"style": ("plain",), "time": ("day",)}
LEVELS: dict[int, Level] = {
    1: Level(
        "recolour",
        {
            **_ONLY_PLAIN,
            "species": ("cat", "bunny", "ghost"),
            "pattern": ("plain",),
            "eyes": ("round",),
            "accessory": ("none",),
            "background": ("meadow", "beach", "room"),
        },
        {"recolour_character": 1.0},
    ),
    2: Level(
        "dress",
        {**_ONLY_PLAIN, "pattern": ("plain",)},
        {
            "recolour_character": 2.0,
            "replace_character": 1.0,
            "add_accessory": 1.0,
            "remove_accessory": 1.0,
            "recolour_accessory": 1.0,
            "change_background": 2.0,
        },
    ),
    3: Level(
        "scene",
        {"style": ("plain",)},
        {
            "recolour_character": 2.0,
            "change_pattern": 1.0,
            "change_eyes": 1.0,
            "replace_character": 1.0,
            "move_character": 1.0,
            "add_accessory": 1.0,
            "remove_accessory": 0.7,
            "replace_accessory": 0.7,
            "recolour_accessory": 1.0,
            "add_thing": 1.0,
            "remove_thing": 0.7,
            "replace_thing": 0.7,
            "recolour_thing": 1.0,
            "change_background": 1.5,
            "change_time": 1.5,
            "change_sign": 1.5,
            "add_sign": 1.5,
            "remove_sign": 0.5,
        },
        sign_share=0.3,
        thing_share=0.4,
    ),
    4: Level(
        "everything",
        {},
        {
            "recolour_character": 1.5,
            "change_pattern": 1.0,
            "change_eyes": 1.0,
            "replace_character": 1.0,
            "move_character": 1.0,
            "add_accessory": 1.0,
            "remove_accessory": 0.7,
            "replace_accessory": 0.7,
            "recolour_accessory": 1.0,
            "add_thing": 1.0,
            "remove_thing": 0.7,
            "replace_thing": 0.7,
            "recolour_thing": 1.0,
            "change_background": 1.5,
            "change_time": 1.2,
            "change_style": 1.5,
            "change_sign": 2.0,
            "add_sign": 2.0,
            "remove_sign": 0.4,
            "style_reference": 1.5,
            "character_reference": 1.5,
            "recolour_marked": 0.7,
            "remove_marked": 0.5,
            "replace_marked": 0.7,
            "swap_character": 0.8,
            "borrow_accessory": 0.8,
            "text_to_image": 2.0,
        },
        sign_share=0.25,
        thing_share=0.35,
        more={"combine_three": 1.4, "combine_four": 0.7},
    ),
}


def level(number: int | str) -> Level:
    """The level with this number (1 to 4). Raises ValueError for any other."""
    if int(number) not in LEVELS:
        raise ValueError(f"level {number!r}: the world has levels {', '.join(map(str, LEVELS))}")
    return LEVELS[int(number)]


def pick(rng: random.Random, values: tuple[str, ...], without: str | None = None) -> str:
    """One of `values` at random, never `without`."""
    return rng.choice([value for value in values if value != without])


def sample_word(rng: random.Random) -> str:
    """A random sign word of 1 to 4 letters; longer ones are more frequent."""
    length = rng.choices((1, 2, 3, 4), (15, 20, 30, 35))[0]
    return "".join(rng.choices(LETTERS, k=length))


# Styles that keep every colour and letter visible; the others come as results and as references.
CLEAR_STYLES = ("comic", "pastel")


def sample_scene(rng: random.Random, number: int = 4) -> Scene:
    """A random scene of a level. Held-out identities are not avoided here but by the edits."""
    rung = level(number)
    values = {name: rng.choice(rung.values(name)) for name in CHOICES}
    clear = [style for style in CLEAR_STYLES if style in rung.values("style")]
    values["style"] = rng.choice(clear) if clear and rng.random() < 0.15 else "plain"
    values["time"] = "day" if rng.random() < 0.4 else values["time"]
    values["mark"] = "none"
    for side in ("left", "right"):
        if rng.random() >= rung.thing_share:
            values[side] = "none"
    sign = sample_word(rng) if rng.random() < rung.sign_share else ""
    return Scene(sign=sign).change(**values)
