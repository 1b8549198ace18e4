"""What the invisible watermark costs a picture, and what it survives.

python benchmarks/watermark.py --json data/bench/watermark.json

Pictures: scenes of the toy world drawn large, flat and strong in colour, and a photograph that
matplotlib ships. For each treatment: in how many pictures the mark is still found, and the fewest
bits of 64 that were right. "none" has never been marked.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image

from minikontext.bench import report
from minikontext.images import watermark
from minikontext.toyworld import psnr, render, sample_scene

Treatment = Callable[[Image.Image], Image.Image]


def jpeg(quality: int) -> Treatment:
    """Save as JPEG, with colours at half the resolution as most programs do, and read again."""

    def treat(image: Image.Image) -> Image.Image:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return treat


def scaled(share: float, back: bool) -> Treatment:
    """Resize, and bring back to the old size or not."""

    def treat(image: Image.Image) -> Image.Image:
        size = (round(image.width * share), round(image.height * share))
        small = image.resize(size, Image.Resampling.LANCZOS)
        return small.resize(image.size, Image.Resampling.LANCZOS) if back else small

    return treat


def cropped(image: Image.Image) -> Image.Image:
    """Cut ten pixels off the left side and the top."""
    return image.crop((10, 10, image.width, image.height))


TREATMENTS: dict[str, Treatment] = {
    "PNG": lambda image: image,
    "JPEG 95": jpeg(95),
    "JPEG 90": jpeg(90),
    "JPEG 75": jpeg(75),
    "JPEG 50": jpeg(50),
    "half size and back": scaled(0.5, back=True),
    "three quarters and back": scaled(0.75, back=True),
    "three quarters of the size": scaled(0.75, back=False),
    "ten pixels cut off": cropped,
}


def pictures(size: int, count: int) -> list[Image.Image]:
    """Scenes of the toy world and one photograph, all of size × size pixels."""
    scenes = [sample_scene(random.Random(seed)) for seed in range(count)]
    drawn = [Image.fromarray(render(scene, size, size)) for scene in scenes]
    with Image.open(cbook.get_sample_data("grace_hopper.jpg")) as photo:
        square = photo.convert("RGB").crop((0, 0, photo.width, photo.width))
    return [*drawn, square.resize((size, size), Image.Resampling.LANCZOS)]


def measure(size: int, count: int) -> dict[str, object]:
    """Mark pictures of one size and treat them in every way."""
    plain = pictures(size, count)
    marked = [watermark.mark(image) for image in plain]
    rows = {"none": plain}
    rows |= {name: [treat(image) for image in marked] for name, treat in TREATMENTS.items()}
    bits = {name: [watermark.agreement(image) for image in row] for name, row in rows.items()}
    return {
        "size": size,
        "pictures": len(plain),
        "psnr": [round(psnr(*map(np.asarray, pair)), 1) for pair in zip(plain, marked)],
        "found": {name: sum(n >= watermark.ENOUGH for n in row) for name, row in bits.items()},
        "fewest bits": {name: min(row) for name, row in bits.items()},
        "most bits": {name: max(row) for name, row in bits.items()},
    }


def show(result: dict) -> str:
    """A Markdown table of one size."""
    size, worth = result["size"], report.span((min(result["psnr"]), max(result["psnr"])))
    head = ("treatment", f"found, of {result['pictures']}", "bits right, of 64")
    rows = [
        (name, found, report.span((result["fewest bits"][name], result["most bits"][name])))
        for name, found in result["found"].items()
    ]
    return f"{size} × {size}, PSNR {worth} dB\n\n{report.table(head, rows)}"


def main() -> None:
    """Measure, print tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[384, 512])
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    options = parser.parse_args()
    results = [measure(size, options.scenes) for size in options.sizes]
    print("\n\n".join(map(show, results)))
    if options.json:
        report.write_json(results, options.json)


if __name__ == "__main__":
    main()
