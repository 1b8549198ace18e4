"""How well do weights edit at each size? Cases of the dev split, scored by the oracle.

`python -m benchmarks.sizes --weights FOLDER --level 2 --cases 100 --json FILE`

Sizes are width x height in pixels; the trained ones first, then those that no training sees.
`--own` gives every context picture a trained size of its own, `--given 64x64` all of them one size;
`--resize kontext` brings them to the result's size as an edit does. What no editor can better is
measured by `benchmarks.ceiling`. Choices are made on `--split dev`; test is for what is reported.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from benchmarks.suite import RESIZE, edit_all
from minikontext.bench import report
from minikontext.bench.oracle_bench import summarise
from minikontext.course.failures import Answer
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, score, sizes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.sizes import Size


@dataclass(frozen=True)
class Row:
    """What came out at one size: shares in percent, PSNR against the right answer in dB.

    `interval` holds the success rate with 95 % confidence, by bootstrap over cases. `outcomes` has
    a 1 or a 0 for each case, for comparisons in pairs. `misread` tells what the failures show and
    should not: attribute -> in how many, and in how many of these it is the only one.
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
    misread: dict[str, list[int]] = field(default_factory=dict)


def cases_of(
    count: int, level: int, split: str, seed: int = 0, pictures: int | None = None
) -> list[Case]:
    """The first cases of a level's stream of a split; with `pictures`, those of so many only."""
    return [sample_case(i, level, split, seed, pictures) for i in range(count)]


def measure(
    pipe: KontextPipeline, cases: Sequence[Case], size: Size, own: bool | Size = False, **call: Any
) -> Row:
    """Edit and score the cases at one size."""
    results = edit_all(pipe, cases, size, own, **call)
    scores = [score(picture, case) for picture, case in zip(results, cases, strict=True)]
    whole = summarise([*zip(cases, scores, strict=True)])
    return Row(
        *size, seen=size in pipe.defaults.sizes, cases=len(cases), success=whole.success,
        interval=whole.interval, followed=whole.followed, preserved=whole.preserved,
        identity=whole.identity, psnr=round(float(np.mean([s.psnr for s in scores])), 2),
        outcomes="".join("01"[s.success] for s in scores),
        misread=misread([Answer(*one) for one in zip(cases, results, scores, strict=True)]),
    )  # fmt: skip


def misread(answers: Sequence[Answer]) -> dict[str, list[int]]:
    """Of failures: attribute -> in how many it is another than wanted, in how many it alone is."""
    failed = [answer.misread for answer in answers if not answer.score.success]
    found = Counter(name for wrong in failed for name in wrong)
    alone = Counter(name for wrong in failed if len(wrong) == 1 for name in wrong)
    return {name: [count, alone[name]] for name, count in found.most_common()}


def table(rows: Sequence[Row]) -> str:
    """All sizes as a Markdown table."""
    head = ("w × h", "seen", "cases", "success %", "95 %", "followed", "preserved", "identity",
            "PSNR dB")  # fmt: skip
    lines = [
        (f"{r.width} × {r.height}", "yes" if r.seen else "no", r.cases, r.success,
         report.span(r.interval), r.followed, r.preserved, r.identity, r.psnr) for r in rows
    ]  # fmt: skip
    return report.table(head, lines)


def failures(rows: Sequence[Row]) -> str:
    """What the failures of each size show and should not, a line a size."""
    lines = []
    for row in rows:
        wrong = (f"{name} in {n}, alone in {m}" for name, (n, m) in row.misread.items())
        told = "; ".join(wrong) or "nothing that the oracle names"
        failed = row.outcomes.count("0")
        lines.append(f"{row.width} × {row.height}, {failed} failures, other than wanted: {told}")
    return "\n".join(lines)


def one_size(text: str) -> Size:
    """A size as a user writes it, 64x64, and no more than one. Raises ArgumentTypeError."""
    found = sizes.parse(text)
    if len(found) > 1:
        raise argparse.ArgumentTypeError(f"{text}: give one size")
    return found[0]


def main(arguments: list[str] | None = None) -> list[Row]:
    """Command line: measure weights at some sizes and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sizes")
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--level", type=int, default=4, help="level of the world (default: 4)")
    parser.add_argument("--cases", type=int, default=100, help="at each size (default: 100)")
    parser.add_argument("--split", default="dev", choices=("dev", "test"), help="(default: dev)")
    parser.add_argument(
        "--sizes", type=sizes.parse, default="all", help="trained, unseen, all, WxH,…"
    )
    parser.add_argument("--own", action="store_true", help="contexts have sizes of their own")
    parser.add_argument("--given", type=one_size, help="WxH: the size of all context pictures")
    parser.add_argument("--pictures", type=int, help="context pictures (default: all numbers)")
    parser.add_argument("--steps", type=int, help="sampling steps (default: the weights' own)")
    parser.add_argument("--scale", type=float, help="of guidance (default: the weights' own)")
    parser.add_argument("--resize", default="none", choices=("none", "kontext"), help=RESIZE)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args(arguments)
    report.positive(options, "cases", "steps")
    pipe = KontextPipeline.from_pretrained(options.weights)
    cases = cases_of(options.cases, options.level, options.split, pictures=options.pictures)
    call = {"num_inference_steps": options.steps, "true_cfg_scale": options.scale,
            "resize": options.resize}  # fmt: skip
    rows: list[Row] = []
    for size in tqdm(options.sizes, "sizes"):
        own = options.given or options.own
        rows.append(row := measure(pipe, cases, size, own, **call))
        tqdm.write(f"{row.width} × {row.height}: {row.success} %")
        if options.json:  # what was measured stays, whatever comes
            report.write_json([asdict(row) for row in rows], options.json)
    print(table(rows), failures(rows), sep="\n\n")
    return rows


if __name__ == "__main__":
    main()
