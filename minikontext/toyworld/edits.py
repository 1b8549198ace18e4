"""Edit operations: a scene and a wish become another scene and the words for it.

Every operation is a small function that prepares a scene so that the wish makes sense and returns
a `Draft`. `sample_edit(index)` turns index into a complete `Case`, always the same one.

Long because each kind of wish has its own few lines here, and all of them register in one place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image

from minikontext.toyworld.language import ask
from minikontext.toyworld.render import render
from minikontext.toyworld.scene import (
    COLOURLESS,
    COLOURS,
    IDENTITY,
    Scene,
    level,
    pick,
    sample_scene,
    sample_word,
)
from minikontext.toyworld.scene import Level as Rung
from minikontext.toyworld.split import SPLITS, held_out, scene_keys, split_of_all

TASKS = (
    "local",
    "global",
    "text",
    "style reference",
    "character reference",
    "visual cue",
    "two images",
    "text to image",
)


# How many pictures a task is given, where it is not one.
PICTURES = {"text to image": 0, "two images": 2, "three images": 3, "four images": 4}


@dataclass(frozen=True)
class Draft:
    """What an operation decides: the pictures it starts from, the result, the words, the rest.

    `base` is the number of the context of which everything stays that nobody asked to change.
    """

    contexts: tuple[Scene, ...]
    target: Scene
    words: dict[str, str]
    claims: tuple[str, ...]
    free: tuple[str, ...] = ()
    base: int = 0


@dataclass(frozen=True)
class Case:
    """One editing task with its right answer.

    `claims` are the attributes that the prompt settles, `free` those on which any value is right;
    everything else must be as in `target`. For an open case `target` is one right answer of many.
    `base` is the number of the context that is edited; the others lend something.
    `wishes` are the two of a sentence with two (`toyworld.wishes`), each a case with its claims.
    """

    task: str
    operation: str
    prompt: str
    contexts: tuple[Scene, ...]
    target: Scene
    claims: tuple[str, ...]
    free: tuple[str, ...] = ()
    phrasing_held_out: bool = False
    keys: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    words: dict[str, str] = field(default_factory=dict, repr=False)
    base: int = 0
    wishes: tuple[Case, ...] = field(default=(), repr=False)

    def context_images(
        self, height: int = 64, width: int = 64, sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Image.Image]:
        """The pictures that the editor is given, of one size or (width, height) each of its own."""
        sizes = sizes or [(width, height)] * len(self.contexts)
        pairs = zip(self.contexts, sizes, strict=True)
        return [Image.fromarray(render(scene, high, wide)) for scene, (wide, high) in pairs]

    def target_image(self, height: int = 64, width: int = 64) -> Image.Image:
        """A right answer as a picture."""
        return Image.fromarray(render(self.target, height, width))

    def reworded(self, number: int) -> str:
        """Another prompt for the same edit, number 0, 1, 2 ...; some may be equal."""
        rng = random.Random(f"{self.prompt}/{number}")
        return self.phrased(rng, self.phrasing_held_out)

    def phrased(self, rng: random.Random, held_out: bool = False) -> str:
        """The edit asked for in a phrasing drawn by `rng`: one of training's, or one held out."""
        return _ask(self.operation, self.words, rng, held_out)

    @property
    def before(self) -> Scene | None:
        """The context that is edited; None without contexts."""
        return self.contexts[self.base] if self.contexts else None

    @property
    def split(self) -> str:
        """Where the case belongs in the second edition: "train", "dev" or "test"."""
        scenes = (*self.contexts, self.target)
        return split_of_all({*self.keys, *(key for one in scenes for key in scene_keys(one))})

    @property
    def unseen(self) -> bool:
        """Whether something in this case (identity, combination, word) never occurs in training."""
        return any(held_out(*key) for key in self.keys)


Operation = Callable[[random.Random, Scene, Rung], Draft]
OPERATIONS: dict[str, tuple[str, Operation]] = {}


class Later(NamedTuple):
    """An operation that the first edition does not have, with its own sentences."""

    task: str
    operation: Operation
    ask: Callable[[dict[str, str], random.Random, bool], str]


SECOND_EDITION: dict[str, Later] = {}  # filled by the modules that define them


def operation(task: str) -> Callable[[Operation], Operation]:
    """Register an operation under its function's name as part of a task."""

    def register(function: Operation) -> Operation:
        OPERATIONS[function.__name__] = (task, function)
        return function

    return register


def _edit(scene: Scene, words: dict[str, str], **changes: str) -> Draft:
    """The draft of an edit with one right answer: some attributes change, the rest stays."""
    return Draft((scene,), scene.change(**changes), words, tuple(changes))


# ---------------------------------------------------------------- local


@operation("local")
def recolour_character(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    colour = pick(rng, rung.values("colour"), without=scene.colour)
    return _edit(scene, {"species": scene.species, "colour": colour}, colour=colour)


@operation("local")
def change_pattern(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    pattern = pick(rng, rung.values("pattern"), without=scene.pattern)
    return _edit(scene, {"species": scene.species, "pattern": pattern}, pattern=pattern)


@operation("local")
def change_eyes(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    eyes = pick(rng, rung.values("eyes"), without=scene.eyes)
    return _edit(scene, {"species": scene.species, "eyes": eyes}, eyes=eyes)


@operation("local")
def replace_character(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    species = pick(rng, rung.values("species"), without=scene.species)
    return _edit(scene, {"old": scene.species, "species": species}, species=species)


@operation("local")
def move_character(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = scene.change(left="none", right="none")
    place = pick(rng, rung.values("place"), without=scene.place)
    return _edit(scene, {"species": scene.species, "place": place}, place=place)


def _dressed(rng: random.Random, scene: Scene, rung: Rung) -> Scene:
    accessory = pick(rng, rung.values("accessory"), without="none")
    colour = pick(rng, COLOURS)
    return scene.change(accessory=accessory, accessory_colour=colour)


@operation("local")
def add_accessory(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = scene.change(accessory="none")
    new = _dressed(rng, scene, rung)
    words = {"species": scene.species, "accessory": new.accessory, "colour": new.accessory_colour}
    return Draft((scene,), new, words, ("accessory", "accessory_colour"))


@operation("local")
def remove_accessory(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = _dressed(rng, scene, rung)
    words = {"species": scene.species, "accessory": scene.accessory}
    return _edit(scene, words, accessory="none")


@operation("local")
def replace_accessory(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = _dressed(rng, scene, rung)
    accessory = pick(
        rng, tuple(a for a in rung.values("accessory") if a != "none"), scene.accessory
    )
    colour = pick(rng, COLOURS)
    words = {"old": scene.accessory, "accessory": accessory, "colour": colour}
    return _edit(scene, words, accessory=accessory, accessory_colour=colour)


@operation("local")
def recolour_accessory(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = _dressed(rng, scene, rung)
    colour = pick(rng, COLOURS, without=scene.accessory_colour)
    words = {"accessory": scene.accessory, "colour": colour}
    return _edit(scene, words, accessory_colour=colour)


def _with_thing(rng: random.Random, scene: Scene, rung: Rung) -> tuple[Scene, str]:
    side = pick(rng, ("left", "right"))
    thing = pick(rng, rung.values(side), without="none")
    return scene.change(**{side: thing, f"{side}_colour": pick(rng, COLOURS)}), side


@operation("local")
def add_thing(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    new, side = _with_thing(rng, scene, rung)
    scene = scene.change(**{side: "none"})
    words = {"thing": getattr(new, side), "colour": getattr(new, f"{side}_colour"), "side": side}
    return Draft((scene,), new, words, (side, f"{side}_colour"))


@operation("local")
def remove_thing(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_thing(rng, scene, rung)
    return _edit(scene, {"thing": getattr(scene, side), "side": side}, **{side: "none"})


@operation("local")
def replace_thing(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_thing(rng, scene, rung)
    things = tuple(thing for thing in rung.values(side) if thing != "none")
    thing, colour = pick(rng, things, getattr(scene, side)), pick(rng, COLOURS)
    words = {"old": getattr(scene, side), "thing": thing, "colour": colour, "side": side}
    return _edit(scene, words, **{side: thing, f"{side}_colour": colour})


@operation("local")
def recolour_thing(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_thing(rng, scene, rung)
    colour = pick(rng, COLOURS, without=getattr(scene, f"{side}_colour"))
    words = {"thing": getattr(scene, side), "side": side, "colour": colour}
    return _edit(scene, words, **{f"{side}_colour": colour})


# ---------------------------------------------------------------- global and text


@operation("global")
def change_background(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    background = pick(rng, rung.values("background"), without=scene.background)
    words = {"species": scene.species, "background": background}
    return _edit(scene, words, background=background)


@operation("global")
def change_time(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = scene.change(style="plain")
    time = pick(rng, rung.values("time"), without=scene.time)
    return _edit(scene, {"time": time}, time=time)


@operation("global")
def change_style(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = scene.change(style="plain")  # other styles drop colours or edges for good
    style = pick(rng, rung.values("style"), without="plain")
    return _edit(scene, {"style": style}, style=style)


def _with_sign(rng: random.Random, scene: Scene) -> Scene:
    return scene.change(sign=sample_word(rng))


@operation("text")
def change_sign(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = _with_sign(rng, scene)
    word = sample_word(rng)
    while word == scene.sign:
        word = sample_word(rng)
    return _edit(scene, {"sign": word}, sign=word)


@operation("text")
def add_sign(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    new = _with_sign(rng, scene)
    return _edit(new.change(sign=""), {"sign": new.sign}, sign=new.sign)


@operation("text")
def remove_sign(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    return _edit(_with_sign(rng, scene), {}, sign="")


# ---------------------------------------------------------------- references


@operation("style reference")
def style_reference(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """The context lends its style; everything the prompt leaves out is open."""
    style = pick(rng, rung.values("style"))
    scene = scene.change(style=style)
    target = sample_scene(rng, 4).change(
        style=style, time="day", sign="", left="none", right="none", accessory="none"
    )
    words = {name: getattr(target, name) for name in ("colour", "species", "background")}
    claims, free = ("style", "colour", "species", "background"), ("pattern", "eyes", "place")
    if style in COLOURLESS:
        words["colour"], target = "white", target.change(colour="white")
        claims = ("style", "species", "background")
    return Draft((scene,), target, words, claims, free)


@operation("character reference")
def character_reference(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """The context lends its character; the scene is new and the place in it is open."""
    scene = scene.change(style="plain", time="day" if scene.time == "night" else scene.time)
    new = sample_scene(rng, 4)
    background = pick(rng, rung.values("background"), without=scene.background)
    blank = {"left": "none", "right": "none", "sign": ""}
    target = scene.change(background=background, time=new.time, place=new.place, **blank)
    words = {"species": scene.species, "background": background, "time": target.time}
    return Draft((scene,), target, words, ("background", "time"), ("place",))


# ---------------------------------------------------------------- visual cue


def _with_mark(rng: random.Random, scene: Scene, rung: Rung) -> tuple[Scene, str]:
    """Two things of the same kind, so that only the drawn ellipse says which one is meant."""
    thing = pick(rng, rung.values("left"), without="none")
    colours = {"left_colour": pick(rng, COLOURS), "right_colour": pick(rng, COLOURS)}
    side = pick(rng, ("left", "right"))
    return scene.change(left=thing, right=thing, mark=side, **colours), side


@operation("visual cue")
def recolour_marked(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_mark(rng, scene, rung)
    colour = pick(rng, COLOURS, without=getattr(scene, f"{side}_colour"))
    words = {"thing": getattr(scene, side), "colour": colour}
    return _edit(scene, words, **{f"{side}_colour": colour, "mark": "none"})


@operation("visual cue")
def remove_marked(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_mark(rng, scene, rung)
    words = {"thing": getattr(scene, side)}
    return _edit(scene, words, **{side: "none", "mark": "none"})


@operation("visual cue")
def replace_marked(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene, side = _with_mark(rng, scene, rung)
    things = tuple(thing for thing in rung.values(side) if thing != "none")
    thing, colour = pick(rng, things, getattr(scene, side)), pick(rng, COLOURS)
    words = {"old": getattr(scene, side), "thing": thing, "colour": colour}
    return _edit(scene, words, **{side: thing, f"{side}_colour": colour, "mark": "none"})


# ---------------------------------------------------------------- two images, text to image


@operation("two images")
def swap_character(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """The second picture's character, as it is, takes the first one's place."""
    scene = scene.change(style="plain")
    other = sample_scene(rng, 4).change(style="plain", time="day", accessory="none")
    target = scene.change(**{name: getattr(other, name) for name in IDENTITY})
    if target == scene:
        return swap_character(rng, scene, rung)
    words = {"old": scene.species, "species": other.species}
    return Draft((scene, other), target, words, IDENTITY)


@operation("two images")
def borrow_accessory(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    scene = scene.change(style="plain", accessory="none")
    other = _dressed(rng, sample_scene(rng, 4).change(style="plain", time="day"), rung)
    target = scene.change(accessory=other.accessory, accessory_colour=other.accessory_colour)
    words = {"species": scene.species, "accessory": other.accessory}
    return Draft((scene, other), target, words, ("accessory", "accessory_colour"))


def describe(rng: random.Random, scene: Scene) -> tuple[str, tuple[str, ...]]:
    """A caption that leaves things out, and the attributes it settles."""
    claims = ["species", "colour", "background"]
    words = [scene.colour, scene.species]
    if scene.pattern != "plain" and rng.random() < 0.5:
        words.insert(1, scene.pattern)
        claims.append("pattern")
    if scene.accessory != "none" and rng.random() < 0.6:
        words += ["with", "a", scene.accessory_colour, scene.accessory]
        claims += ["accessory", "accessory_colour"]
    words += ["in", "the", scene.background]
    if scene.time != "day" or rng.random() < 0.3:
        words += ["at", scene.time]
        claims.append("time")
    return " ".join(words), tuple(claims)


@operation("text to image")
def text_to_image(rng: random.Random, scene: Scene, rung: Rung) -> Draft:
    """No context at all: a caption that leaves things out, so many pictures are right."""
    target = scene.change(style="plain", sign="", left="none", right="none")
    caption, claims = describe(rng, target)
    optional = ("pattern", "eyes", "accessory", "accessory_colour", "place", "time")
    free = tuple(name for name in optional if name not in claims)
    return Draft((), target, {"caption": caption}, claims, free)


# ---------------------------------------------------------------- sampling


def _keys(operation_name: str, draft: Draft) -> tuple[tuple[str, ...], ...]:
    """Everything about a case that the held-out rule looks at."""
    scenes = (*draft.contexts, draft.target)
    identities = {("identity", *scene.identity) for scene in scenes}
    words = {("word", scene.sign) for scene in scenes if len(scene.sign) > 1}
    values = [getattr(draft.target, name) for name in draft.claims if name != "sign"]
    # With the character and the place in it, no single value is ever held out as a whole.
    before = draft.contexts[draft.base].species if draft.contexts else ""
    combination = ("combination", operation_name, before, draft.target.background, *values)
    return (*sorted(identities | words), combination)


def sample_edit(index: int, number: int = 4, split: str = "train", seed: int = 0) -> Case:
    """Case number `index` of a level's stream, the same on every call.

    `split="train"` never contains anything held out; every case of `split="test"` contains
    something that is, and every second one asks in a phrasing that training has never heard.
    Raises ValueError for another split or level.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}: choose 'train' or 'test'")
    rng = random.Random(f"{seed}/{number}/{split}/{index}")
    rung = level(number)
    name = rng.choices(tuple(rung.operations), tuple(rung.operations.values()))[0]
    while True:
        draft = OPERATIONS[name][1](rng, sample_scene(rng, number), rung)
        keys = _keys(name, draft)
        if any(held_out(*key) for key in keys) == (split == "test"):
            break
    # Words have their own dice: with more phrasings the pictures stay the same.
    words = random.Random(f"{seed}/{number}/{split}/{index}/words")
    return _case(name, draft, keys, words, new_words=split == "test" and index % 2 == 1)


def context_count(name: str) -> int:
    """How many pictures an operation is given. Raises ValueError for an unknown one."""
    return PICTURES.get(find_operation(name)[0], 1)


def find_operation(name: str) -> tuple[str, Operation]:
    """The task and the function of an operation of any edition. Raises ValueError for no such."""
    if name in SECOND_EDITION:
        return SECOND_EDITION[name][:2]
    if name not in OPERATIONS:
        known = ", ".join((*OPERATIONS, *SECOND_EDITION))
        raise ValueError(f"operation {name!r}: choose one of {known}")
    return OPERATIONS[name]


def sample_case(
    index: int, number: int = 4, split: str = "train", seed: int = 0, contexts: int | None = None
) -> Case:
    """Case number `index` of the second edition's stream of a level, the same on every call.

    Every case lies wholly in its split, as `split_of` has it: "train" shows nothing of "dev" or
    "test", and every second case of those asks in a phrasing that training has never heard.
    contexts: only operations that are given so many pictures.
    Raises ValueError for another split or level, or a level without such operations.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    shares = operation_shares(number, contexts)
    rng = random.Random(f"second/{seed}/{number}/{split}/{contexts}/{index}")
    name = rng.choices(tuple(shares), tuple(shares.values()))[0]
    while True:
        draft = find_operation(name)[1](rng, sample_scene(rng, number), level(number))
        case = _case(name, draft, _keys(name, draft), rng, split != "train" and index % 2 == 1)
        if case.split == split:
            return case


def operation_shares(number: int, contexts: int | None = None) -> dict[str, float]:
    """The operations of a level that are given so many pictures (any, for None), with weights.

    Raises ValueError if there are none.
    """
    shares = level(number).operations | level(number).more
    shares = {n: w for n, w in shares.items() if contexts in (None, context_count(n))}
    if not shares:
        raise ValueError(f"level {number} has no operation with {contexts} context pictures")
    return shares


def sample_where(
    rng: random.Random, names: tuple[str, ...], number: int, split: str, new_words: bool,
    prepare: Callable[[Scene], Scene], wanted: Callable[[Draft], bool],
) -> Case:  # fmt: skip
    """A case of one of some operations that fulfils a wish, on the same side of the held-out rule.

    `prepare` poses the scene before the operation sees it; `wanted` looks at what came of it.
    """
    while True:
        name = rng.choice(names)
        scene = prepare(sample_scene(rng, number))
        draft = OPERATIONS[name][1](rng, scene, level(number))
        keys = _keys(name, draft)
        unseen = any(held_out(*key) for key in keys)
        if unseen == (split == "test") and wanted(draft):
            return _case(name, draft, keys, rng, new_words)


def make_case(
    name: str, rng: random.Random, scene: Scene, number: int = 4, new_words: bool = False
) -> Case:
    """An operation applied to a scene of one's own. It may add to the scene what it needs."""
    draft = find_operation(name)[1](rng, scene, level(number))
    return _case(name, draft, _keys(name, draft), rng, new_words)


def _case(name: str, draft: Draft, keys: tuple, words: random.Random, new_words: bool) -> Case:
    prompt = _ask(name, draft.words, words, new_words)
    return Case(
        task=find_operation(name)[0],
        operation=name,
        prompt=prompt,
        contexts=draft.contexts,
        target=draft.target,
        claims=draft.claims,
        free=draft.free,
        phrasing_held_out=new_words,
        keys=keys,
        words=draft.words,
        base=draft.base,
    )


def _ask(name: str, said: dict[str, str], rng: random.Random, held_out: bool) -> str:
    if name in SECOND_EDITION:
        return SECOND_EDITION[name].ask(said, rng, held_out)
    return ask(name, said, rng, held_out)
