"""Sample pictures and prompts for notebooks and widgets, so that nobody has to upload anything."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from minikontext.images import as_rgb, read
from minikontext.toyworld import Scene, render, sample_scene
from minikontext.toyworld.samples import SAMPLES

# The demo picture shows a cat with a blue hat; here each picture is called by its character.
SCENES: dict[str, Scene] = {scene.species: scene for scene in SAMPLES.values()}
# Pictures for tasks that need certain ones: a style to borrow, a thing with a circle around it.
MORE: dict[str, Scene] = {
    "neon city": Scene(species="robot", colour="blue", background="city", style="neon"),
    "comic sea": Scene(species="star", colour="yellow", background="sea", style="comic"),
    "circled tree": Scene(
        species="bunny", colour="white", left="tree", left_colour="green", right="tree", mark="left"
    ).change(right_colour="green"),
}


@dataclass(frozen=True)
class Example:
    """A prompt to try, with the pictures it needs; without names, any picture will do."""

    prompt: str
    task: str = "examples"
    picture: str | None = None
    second: str | None = None


PROMPTS = (
    "make the hat red",
    "make it night",
    "change the background to the beach",
    'add a sign that says "HI"',
    "make the cat striped",
    "add a red tree on the left",
)
EXAMPLES = (
    *(Example(prompt, "edits") for prompt in PROMPTS),
    Example("turn the cat into a frog", "edits", "cat"),
    Example('make the sign say "YES"', "signs", "ghost"),
    Example("remove the sign", "signs", "ghost"),
    Example("draw it in sketch style", "styles", "bear"),
    Example("make it a comic picture", "styles", "bear"),
    Example("using this style draw a white bunny in the room", "borrow a style", "neon city"),
    Example("a red frog in the forest in the same style", "borrow a style", "comic sea"),
    Example("show the same bear on the beach at sunset", "same character", "bear"),
    Example("this ghost in the snow by day", "same character", "ghost"),
    Example("make the circled tree pink", "circled", "circled tree"),
    Example("remove the circled tree", "circled", "circled tree"),
    Example(
        "put the frog from the second picture where the bunny is", "two pictures", "bunny", "frog"
    ),
    Example("give the bunny the glasses from the second picture", "two pictures", "bunny", "bear"),
    Example("a green frog with a red hat on the beach", "from words alone", "no picture"),
    Example("a striped orange cat in the snow at night", "from words alone", "no picture"),
)


def pictures() -> dict[str, Image.Image]:
    """The sample pictures by the name of their character, 64 × 64; the cat comes first."""
    return {name: Image.fromarray(render(scene)) for name, scene in SCENES.items()}


def more_pictures() -> dict[str, Image.Image]:
    """Pictures with a style to borrow, or with something circled."""
    return {name: Image.fromarray(render(scene)) for name, scene in MORE.items()}


def by_name(
    given: Mapping[str, Image.Image | None] | None = None,
) -> dict[str, Image.Image | None]:
    """A widget's pictures, as the model sees them (upright, RGB); by default those from above.

    None stays: a name without a picture is for drawing from words alone.
    """
    if given is None:
        return dict(pictures())
    return {name: one if one is None else read(one) for name, one in given.items()}


def shown(picture: Image.Image) -> Scene | None:
    """What one of the sample pictures shows; None for any other picture."""
    pixels = np.asarray(as_rgb(picture))
    scenes = (SCENES | MORE).values()
    return next((one for one in scenes if np.array_equal(render(one), pixels)), None)


def random_scene(seed: int) -> Scene:
    """A random scene, the same for the same seed."""
    return sample_scene(random.Random(seed))


def prompts() -> list[str]:
    """Prompts that suit the cat, the first of `pictures()`."""
    return list(PROMPTS)
