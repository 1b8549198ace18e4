"""How well do weights edit at each size? Cases of the dev split, scored by the oracle.

`python -m minikontext.bench.sizes --weights FOLDER --level 2 --cases 100 --json FILE`

Sizes are width x height in pixels; the trained ones first, then those that no training sees.
`--own` gives every context picture a trained size of its own. What no editor can better is
measured by `benchmarks.ceiling`. Choices are made on `--split dev`; test is for what is reported.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from minikontext.bench import report
from minikontext.bench.compare import percent_interval
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, score, sizes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.sizes import TRAINED, Size


@dataclass(frozen=True)
class Row:
    """What came out at one size: shares in percent, PSNR against the right answer in dB.

    `interval` holds the success rate with 95 % confidence, by bootstrap over cases. `outcomes` has
    a 1 or a 0 for each case, for comparisons in pairs.
    """

    width: int
    height: int
    seen: bool
    cases: int
    success: float
    interval: tuple[float, float]
    followed: float
    preserved: float
    identity: float
    psnr: float
    outcomes: str


def cases_of(count: int, level: int, split: str, seed: int = 0) -> list[Case]:
    """The first cases of a level's stream of a split."""
    return [sample_case(i, level, split, seed) for i in range(count)]


def context_sizes(case: Case, number: int, target: Size, own: bool) -> tuple[Size, ...]:
    """The size of each context picture: the target's, or a trained one of its own."""
    rng = random.Random(f"contexts/{number}/{target}")
    others = [size for size in TRAINED if size != target]
    return tuple(rng.choice(others) if own else target for _ in case.contexts)


def edit_all(
    pipe: KontextPipeline, cases: Sequence[Case], size: Size, own: bool = False,
    seed: int = 0, batch: int = 16, **call: Any,
) -> list[Image.Image]:  # fmt: skip
    """Edit all cases into pictures of one size, in batches of equal buckets."""
    shapes = [context_sizes(case, i, size, own) for i, case in enumerate(cases)]
    results: dict[int, Image.Image] = {}
    for rows in _equal(shapes, batch):
        inputs = [cases[i].context_images(sizes=shapes[i]) for i in rows]
        out = pipe(
            [cases[i].prompt for i in rows], image=inputs if shapes[rows[0]] else None,
            width=size[0], height=size[1], seed=[seed * 1_000_003 + i for i in rows],
            resize="none", progress=False, **call,
        )  # fmt: skip
        results.update(zip(rows, out.images, strict=True))
    return [results[i] for i in range(len(cases))]


def _equal(shapes: Sequence[tuple[Size, ...]], batch: int) -> Iterator[list[int]]:
    """Numbers of cases whose contexts have the same sizes, at most `batch` at a time."""
    for shape in sorted(set(shapes)):
        mine = [i for i, one in enumerate(shapes) if one == shape]
        yield from (mine[i : i + batch] for i in range(0, len(mine), batch))


def measure(
    pipe: KontextPipeline, cases: Sequence[Case], size: Size, own: bool = False, **call: Any
) -> Row:
    """Edit and score the cases at one size."""
    results = edit_all(pipe, cases, size, own, **call)
    scores = [score(picture, case) for picture, case in zip(results, cases, strict=True)]
    return Row(
        *size, seen=size in pipe.defaults.sizes, cases=len(cases),
        success=_share([s.success for s in scores]),
        interval=percent_interval([s.success for s in scores]),
        followed=_share([s.followed for s in scores]),
        preserved=_share([s.preserved for s in scores]),
        identity=_share([s.identity for s in scores]),
        psnr=_mean([s.psnr for s in scores]),
        outcomes="".join("01"[s.success] for s in scores),
    )  # fmt: skip


def _share(values: Sequence[bool]) -> float:
    return round(100 * sum(values) / len(values), 1)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 2)


def table(rows: Sequence[Row]) -> str:
    """All sizes as a Markdown table."""
    head = ("w × h", "seen", "cases", "success %", "95 %", "followed", "preserved", "identity",
            "PSNR dB")  # fmt: skip
    lines = [
        (f"{r.width} × {r.height}", "yes" if r.seen else "no", r.cases, r.success,
         report.span(r.interval), r.followed, r.preserved, r.identity, r.psnr) for r in rows
    ]  # fmt: skip
    return report.table(head, lines)


def main(arguments: list[str] | None = None) -> list[Row]:
    """Command line: measure weights at some sizes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m minikontext.bench.sizes")
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--level", type=int, default=4, help="level of the world (default: 4)")
    parser.add_argument("--cases", type=int, default=100, help="at each size (default: 100)")
    parser.add_argument("--split", default="dev", help="dev (default) or test")
    parser.add_argument(
        "--sizes", type=sizes.parse, default="all", help="trained, unseen, all, WxH,…"
    )
    parser.add_argument("--own", action="store_true", help="contexts have sizes of their own")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the weights' own)")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    pipe = KontextPipeline.from_pretrained(options.weights)
    cases = cases_of(options.cases, options.level, options.split)
    call = {"num_inference_steps": options.steps}
    rows = [
        measure(pipe, cases, size, options.own, **call) for size in tqdm(options.sizes, "sizes")
    ]
    print(table(rows))
    if options.json:
        report.write_json([asdict(row) for row in rows], options.json)
    return rows


if __name__ == "__main__":
    main()
