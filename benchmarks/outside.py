"""Is anything outside of the world taken without a word? 200 tries, and as many inside of it.

`python -m benchmarks.outside --weights toy-max --store` asks for what the world does not
have or the picture does not show, and gives pictures that are none of its own: photographs, noise,
drawings in pieces or in other colours. Wishes are read by `toyworld.reader`, which the editing
widget asks; pictures by every pipeline. Tries inside of the world count false alarms.
`--reached` says instead with how many dB the autoencoder gives each kind back, at every size that
the weights know: what `least_psnr` of their config.json is chosen by.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib import cbook
from PIL import Image, ImageFilter, ImageOps
from tqdm.auto import tqdm

from minikontext.bench import report
from minikontext.editing.contexts import ContextReader, PictureWarning
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, reader, wishes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.lexicon import absent_words
from minikontext.toyworld.scene import CHOICES, COLOURS

ASKED = ("add a {}", "turn the character into a {}", "put a {} next to it", "I want a {} please")
REMOVED = ("remove the {}", "take away the {}", "make the {} {colour}", "change the {} to {colour}")
SIDE = 64


@dataclass(frozen=True)
class Try:
    """A kind of try, what was tried, whether it lies outside, and whether a warning said so."""

    kind: str
    tried: str
    outside: bool
    warned: bool


def wish_tries(count: int) -> Iterator[Try]:
    """Wishes for absent words, for what a picture does not show, and ones that can be granted."""
    rng = random.Random("outside")
    lacking = [word for word, _ in absent_words()]
    for word in rng.sample(lacking, count):
        yield _wish("absent word", rng.choice(ASKED).format(word), None, True)
    for i in range(count):
        scene = sample_case(i, 4, "dev", contexts=1).contexts[0]
        shown = {scene.accessory, scene.left, scene.right, "none"}
        name = rng.choice([n for k in ("accessory", "left") for n in CHOICES[k] if n not in shown])
        text = rng.choice(REMOVED).format(name, colour=rng.choice(COLOURS))
        yield _wish("not in the picture", text, scene, True)
    for i in range(2 * count):
        case = wishes.sample_wishes(i, 4, "dev", contexts=1)
        yield _wish("wish that can be granted", wishes.ask(case, rng), case.before, False)


def _wish(kind: str, text: str, scene: Scene | None, outside: bool) -> Try:
    return Try(kind, text, outside, bool(reader.unusable(text, scene)))


def pictures(
    count: int, photo: Image.Image, size: tuple[int, int] = (SIDE, SIDE)
) -> Iterator[tuple[str, Image.Image, bool]]:
    """Pictures of each kind, of which the last are the world's own; size: width, height."""
    draw = np.random.default_rng(0)
    width, height = size
    cases = [sample_case(i, 4, "dev", contexts=1) for i in range(4 * count)]
    own = [case.context_images(height, width)[0] for case in cases]

    def noise() -> Image.Image:
        raw = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        return ImageOps.autocontrast(Image.fromarray(raw).filter(ImageFilter.GaussianBlur(1)))

    def crop() -> Image.Image:
        side = int(draw.integers(120, min(photo.size)))
        x, y = (int(draw.integers(0, full - side + 1)) for full in photo.size)
        return photo.crop((x, y, x + side, y + side)).resize(size, Image.Resampling.LANCZOS)

    def mosaic(i: int) -> Image.Image:
        whole = Image.new("RGB", size)
        for j in range(16):
            part = own[(i + j) % len(own)].resize((width // 4, height // 4), Image.Resampling.BOX)
            whole.paste(part, (j % 4 * width // 4, j // 4 * height // 4))
        return whole

    kinds: dict[str, Callable[[int], Image.Image]] = {
        "part of a photograph": lambda i: crop(),
        "noise": lambda i: noise(),
        "sixteen drawings in one": mosaic,
        "colours turned round": lambda i: ImageOps.invert(own[i]),
    }
    for name, make in kinds.items():
        yield from ((name, make(i), True) for i in range(count))
    yield from (("picture of the world", picture, False) for picture in own)


def picture_tries(pipe: KontextPipeline, count: int, photo: Path) -> Iterator[Try]:
    """Whether the pipeline tells that a context is unlike what its weights know."""
    for i, (kind, picture, outside) in enumerate(pictures(count, Image.open(photo).convert("RGB"))):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            pipe("make the hat red", picture, num_inference_steps=1, seed=i, progress=False)
        warned = any(issubclass(one.category, PictureWarning) for one in found)
        yield Try(kind, f"number {i}", outside, warned)


def reached(pipe: KontextPipeline, count: int, photo: Path) -> str:
    """A table: dB of the autoencoder, least and most of each kind, for every size."""
    reader = ContextReader(pipe.codec, pipe.defaults)
    found: dict[str, list[object]] = {}
    for width, height in tqdm(pipe.defaults.sizes, "sizes"):
        kinds: dict[str, list[float]] = {}
        for kind, picture, _ in pictures(count, Image.open(photo).convert("RGB"), (width, height)):
            kinds.setdefault(kind, []).append(reader.worst_psnr([picture]))
        for kind, all_of in kinds.items():
            found.setdefault(kind, []).append(f"{min(all_of):.1f} to {max(all_of):.1f}")
    sizes = [f"{width} × {height}" for width, height in pipe.defaults.sizes]
    return report.table(["dB", *found], zip(sizes, *found.values(), strict=True))


def page(tries: list[Try], name: str) -> str:
    """Kinds as a table, then every try that ended otherwise than it should."""
    rows = []
    for kind in dict.fromkeys(one.kind for one in tries):
        mine = [one for one in tries if one.kind == kind]
        rows.append((kind, len(mine), sum(one.warned for one in mine), mine[0].outside))
    table = report.table(
        ("kind", "tries", "warned", "should be"),
        [(kind, n, warned, "all" if out else "none") for kind, n, warned, out in rows],
    )
    odd = [f"- {one.kind}: {one.tried}" for one in tries if one.warned != one.outside]
    title = f"# Outside of the world, {name}"
    return "\n\n".join([title, table, "Otherwise than it should be:", "\n".join(odd) or "none"])


def main(arguments: list[str] | None = None) -> list[Try]:
    """Command line: run all tries, write `outside.json` and `outside.md`, print the page."""
    parser = report.parser(
        "python -m benchmarks.outside", __doc__, weights="toy-max", steps=..., seed=...
    )
    parser.add_argument("--count", type=int, default=50, help="of wishes a kind (default: 50)")
    parser.add_argument("--photo", type=Path, help="a photograph (default: matplotlib's sample)")
    parser.add_argument(
        "--reached", action="store_true", help="print the dB of each kind at each size, only"
    )
    options = parser.parse_args(arguments)
    report.positive(options, "count")
    half = max(1, options.count // 2)
    if options.reached:
        pipe = KontextPipeline.from_pretrained(options.weights)
        print(reached(pipe, half, options.photo or sample_photo()))
        return []
    parts = {f"outside {options.count}": options.count != 50, "own photo": bool(options.photo)}
    folder = report.folder(options, " ".join(name for name, there in parts.items() if there))
    pipe = KontextPipeline.from_pretrained(options.weights)
    tries = [*wish_tries(options.count)]
    tries += tqdm(picture_tries(pipe, half, options.photo or sample_photo()), "pictures")
    report.write_json([asdict(one) for one in tries], folder / "outside.json")
    report.write_text(page(tries, pipe.name), folder / "outside.md")
    print(page(tries, pipe.name))
    return tries


def sample_photo() -> Path:
    """The photograph that matplotlib brings: Grace Hopper, 1984, in the public domain."""
    return Path(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))


if __name__ == "__main__":
    main()
