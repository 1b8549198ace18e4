"""The sample pictures of the course: `python -m minikontext.toyworld.samples data/images`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

from minikontext.toyworld.render import render
from minikontext.toyworld.scene import Scene

SAMPLES: dict[str, Scene] = {
    "demo": Scene(species="cat", colour="orange", accessory="hat", accessory_colour="blue"),
    "bunny": Scene(
        species="bunny", colour="white", place="left", right="flower", right_colour="pink"
    ),
    "ghost": Scene(
        species="ghost", colour="purple", eyes="big", background="city", time="night", sign="BOO"
    ),
    "robot": Scene(
        species="robot",
        colour="blue",
        background="beach",
        accessory="scarf",
        accessory_colour="yellow",
        left="ball",
        left_colour="red",
    ),
    "frog": Scene(
        species="frog", colour="green", pattern="spotted", background="forest", place="right"
    ),
    "bear": Scene(
        species="bear",
        colour="pink",
        background="room",
        accessory="glasses",
        accessory_colour="green",
        right="gift",
        right_colour="purple",
    ),
    "chick": Scene(
        species="chick", colour="yellow", background="snow", sign="HI", left="tree"
    ).change(left_colour="green"),
    "star": Scene(species="star", colour="red", pattern="striped", eyes="sleepy", background="sea"),
}


def write(folder: str | Path) -> list[Path]:
    """Write every sample as a 64 x 64 PNG into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, scene in SAMPLES.items():
        paths.append(folder / f"{name}.png")
        Image.fromarray(render(scene)).save(paths[-1])
    return paths


if __name__ == "__main__":
    print(*write(sys.argv[1]), sep="\n")
