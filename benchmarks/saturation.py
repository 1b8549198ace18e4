"""Does guidance make colours too strong? The paper gives it as a reason to distil it away.

`python -m benchmarks.saturation --weights FOLDER --sizes 64x64,128x128 --scales 1.5 3 6`

The same wishes with the same noise, with guidance and without: half of them closed, half open, of
the dev split, with one picture. Of each pair of pictures it is told how much more saturated the
guided one is, and how many more of its values stick at 0 or 255, in points of 100. Of closed wishes
also how far the right answer's saturation is missed. A wish is a cluster of `bench.compare`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.sizes import cases_of
from benchmarks.suite import edit_all
from minikontext.bench import compare, report
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, sizes
from minikontext.toyworld.sizes import Size


@dataclass(frozen=True)
class Row:
    """Closed or open wishes at one size and one scale, beside the same without guidance.

    saturation, ends: points of 100 more, with 95 % intervals and the engine's word. off: of closed
    wishes, how much more saturated than the right answers, None for open ones.
    """

    width: int
    height: int
    free: bool
    scale: float
    cases: int
    saturation: float
    interval: tuple[float, float]
    word: str
    ends: float
    ends_interval: tuple[float, float]
    ends_word: str
    off: float | None


def wishes(count: int, free: bool) -> list[Case]:
    """The first `count` closed or open wishes with one picture."""
    return [case for case in cases_of(12 * count, 4, "dev", pictures=1)
            if bool(case.free) == free][:count]  # fmt: skip


def saturation(picture: Image.Image) -> float:
    """The mean saturation of a picture's pixels, as HSV has it, in points of 100."""
    return float(np.asarray(picture.convert("HSV"))[..., 1].mean() / 2.55)


def at_the_ends(picture: Image.Image) -> float:
    """The share of a picture's values that are 0 or 255, in points of 100."""
    return float(100 * np.isin(np.asarray(picture.convert("RGB")), (0, 255)).mean())


def beside(
    cases: Sequence[Case], size: Size, scale: float, guided: Sequence[Image.Image],
    plain: Sequence[Image.Image],
) -> Row:  # fmt: skip
    """Guided pictures of the cases beside those without guidance, case by case."""
    free = bool(cases[0].free)
    more, ends = (
        compare.paired([*map(of, guided)], [*map(of, plain)], [*range(len(cases))])
        for of in (saturation, at_the_ends)
    )
    right = [saturation(case.target_image(*size)) for case in cases]
    off = float(np.mean([saturation(p) - s for p, s in zip(guided, right, strict=True)]))
    return Row(*size, free, scale, len(cases), *_points(more), *_points(ends),
               None if free else round(off, 2))  # fmt: skip


def _points(found: compare.Comparison) -> tuple[float, tuple[float, float], str]:
    word = {"better": "more", "worse": "less"}.get(found.word(), found.word())
    return round(found.difference, 2), (round(found.low, 2), round(found.high, 2)), word


def measure(
    pipe: KontextPipeline, cases: Sequence[Case], size: Size, scales: Sequence[float], steps: int
) -> list[Row]:
    """One row a scale. The noise of a wish is that of its place in the list, at every scale."""
    made = {
        scale: edit_all(pipe, cases, size, num_inference_steps=steps, true_cfg_scale=scale)
        for scale in (1.0, *scales)
    }
    return [beside(cases, size, scale, made[scale], made[1.0]) for scale in scales]


def table(rows: Sequence[Row]) -> str:
    """All rows as a Markdown table."""
    head = ("w × h", "wishes", "guidance", "more saturated", "95 %", "", "more at 0 or 255", "95 %",
            "", "than the right answer")  # fmt: skip
    lines = [
        (f"{r.width} × {r.height}", f"{r.cases} {'open' if r.free else 'closed'}", r.scale,
         f"{r.saturation:+.2f}", report.span(r.interval), r.word, f"{r.ends:+.2f}",
         report.span(r.ends_interval), r.ends_word, None if r.off is None else f"{r.off:+.2f}")
        for r in rows
    ]  # fmt: skip
    return report.table(head, lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Command line: measure weights, print the table, write the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saturation", description=__doc__)
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--cases", type=int, default=60, help="closed, and open (default: 60)")
    parser.add_argument("--sizes", type=sizes.parse, default="64x64", help="WxH,… (64x64)")
    parser.add_argument("--scales", type=float, nargs="+", default=[1.5, 3.0, 6.0])
    parser.add_argument("--steps", type=int, default=12, help="sampling steps (default: 12)")
    parser.add_argument("--json", type=Path, help="a file of rows by the weights' name")
    options = parser.parse_args(arguments)
    report.positive(options, "cases", "steps")
    pipe = KontextPipeline.from_pretrained(options.weights)
    rows: list[Row] = []
    for size in options.sizes:
        for free in (False, True):
            cases = wishes(options.cases, free)
            rows += measure(pipe, cases, size, options.scales, options.steps)
    if options.json:
        known = report.read_json(options.json, {})
        known[pipe.name] = {"steps": options.steps, "rows": [*map(asdict, rows)]}
        report.write_json(known, options.json)
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
