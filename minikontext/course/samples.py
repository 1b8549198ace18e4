"""Sample pictures and prompts for notebooks and widgets, so that nobody has to upload anything."""

from PIL import Image

from minikontext.toyworld import Scene, render
from minikontext.toyworld.samples import SAMPLES

# The demo picture shows a cat with a blue hat; here each picture is called by its character.
SCENES: dict[str, Scene] = {scene.species: scene for scene in SAMPLES.values()}

PROMPTS = (
    "make the hat red",
    "make it night",
    "change the background to the beach",
    'add a sign that says "HI"',
    "make the cat striped",
    "add a red tree on the left",
)


def pictures() -> dict[str, Image.Image]:
    """The sample pictures by the name of their character, 64 × 64; the cat comes first."""
    return {name: Image.fromarray(render(scene)) for name, scene in SCENES.items()}


def prompts() -> list[str]:
    """Prompts that suit the cat, the first of `pictures()`."""
    return list(PROMPTS)
