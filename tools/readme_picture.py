"""The picture in the README: sample pictures, an instruction each, and what the weights make of it.

python tools/readme_picture.py --output data/images/readme.png
"""

import argparse
import textwrap
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

from minikontext import KontextPipeline
from minikontext.toyworld.render import render
from minikontext.toyworld.samples import SAMPLES

EDITS = (
    ("demo", "make the hat red"),
    ("robot", "turn the robot into a bear"),
    ("ghost", 'make the sign say "YES"'),
    ("bear", "draw it in sketch style"),
    ("bunny", "this bunny on the beach at sunset"),
)


def show(axis: plt.Axes, picture: Image.Image, title: str) -> None:
    axis.imshow(picture.resize((256, 256), Image.Resampling.NEAREST))
    axis.set_title(title, fontsize=9)
    axis.axis("off")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--weights", default="toy-any")
    options.add_argument("--output", type=Path, default=Path("outputs/readme.png"))
    options.add_argument("--side", type=int, default=128, help="pixels (default: 128)")
    args = options.parse_args()
    pipe = KontextPipeline.from_pretrained(args.weights)
    figure, axes = plt.subplots(2, len(EDITS), figsize=(2 * len(EDITS), 4.45))
    for column, (name, prompt) in zip(axes.T, EDITS, strict=True):
        picture = Image.fromarray(render(SAMPLES[name], args.side, args.side))
        result = pipe(prompt, image=picture, seed=0, progress=False).images[0]
        show(column[0], picture, "")
        show(column[1], result, textwrap.fill(f"“{prompt}”", 24))
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=90)
    print(args.output)


if __name__ == "__main__":
    main()
