"""Sample pictures and prompts, so that nobody has to upload anything."""

from PIL import Image

from minikontext.toyworld import Scene, render

SCENES: dict[str, Scene] = {
    "cat with a hat": Scene(
        "cat", "orange", "striped", "round", "hat", "blue", background="meadow"
    ),
    "bunny at the beach": Scene(
        "bunny", "pink", "bellied", "big", "bow", "purple", background="beach"
    ),
    "robot in the city": Scene(
        "robot", "green", "plain", "round", "scarf", "yellow", sign="HI", background="city"
    ),
    "bear in the snow": Scene(
        "bear", "white", "plain", "sleepy", "scarf", "red", left="tree", left_colour="green",
        background="snow",
    ),
    "frog and a gift": Scene(
        "frog", "green", "spotted", "big", right="gift", right_colour="pink", background="room"
    ),
    "ghost at sea": Scene("ghost", "white", "plain", "single", "glasses", "red", background="sea"),
}  # fmt: skip

PROMPTS = (
    "make the hat red",
    "make it night",
    "add a yellow scarf",
    "turn the cat into a robot",
    "write HEY on the sign",
    "change the background to the beach",
)


def pictures() -> dict[str, Image.Image]:
    """Six pictures of the toy world by name, 64 × 64."""
    return {name: Image.fromarray(render(scene)) for name, scene in SCENES.items()}


def prompts() -> list[str]:
    """Prompts that suit the first of `pictures()`."""
    return list(PROMPTS)
