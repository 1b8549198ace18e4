"""How well does an editor edit? Held-out cases, scored by the oracle, beside two baselines.

`copy` returns the first context unchanged; `ceiling` sends the right answer through the
autoencoder once: no editor that works in its latents can be expected to do better.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from minikontext.bench import compare, mini, report
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained.native import home
from minikontext.runtime import files
from minikontext.toyworld import Case, Score, sample_edit, score

Row = tuple[Case, Score]


@dataclass(frozen=True)
class Report:
    """Shares in percent, PSNR in dB; `by_task` and `by_operation` are success rates.

    Success is all of: instruction followed, the rest preserved, identity kept. `interval` is where
    the success rate lies with 95 % confidence, by the bootstrap of `bench.compare`. What an older
    result has not stored is None or empty.
    """

    cases: int
    success: float
    interval: tuple[float, float] | None
    followed: float | None
    preserved: float | None = None
    identity: float | None = None
    psnr_untouched: float | None = None
    known_phrasings: float | None = None
    new_phrasings: float | None = None
    by_task: dict[str, float] = field(default_factory=dict)
    by_operation: dict[str, float] = field(default_factory=dict)
    followed_by_task: dict[str, float] = field(default_factory=dict)
    followed_known: float | None = None
    followed_new: float | None = None
    seconds: float = 0.0


def summarise(
    rows: list[Row], seconds: float = 0.0, clusters: Sequence[Hashable] | None = None
) -> Report:
    """Average the scores of some cases.

    clusters: what each row belongs to, where a case comes with several seeds, or several cases
    start from one base scene; None: every row is a case of its own.
    """
    scores = [s for _, s in rows]
    closed = [s.psnr_untouched for c, s in rows if c.contexts and not c.free]
    closed = [value for value in closed if not math.isnan(value)]
    return Report(
        cases=len(rows),
        success=_share(s.success for s in scores),
        interval=compare.percent_interval([s.success for s in scores], clusters),
        followed=_share(s.followed for s in scores),
        preserved=_share(s.preserved for s in scores),
        identity=_share(s.identity for s in scores),
        psnr_untouched=round(float(np.mean(closed)), 2) if closed else 0.0,
        known_phrasings=_share(s.success for c, s in rows if not c.phrasing_held_out),
        new_phrasings=_share(s.success for c, s in rows if c.phrasing_held_out),
        by_task=_grouped(rows, lambda case: case.task),
        by_operation=_grouped(rows, lambda case: case.operation),
        followed_by_task=_grouped(rows, lambda case: case.task, "followed"),
        followed_known=_share(s.followed for c, s in rows if not c.phrasing_held_out),
        followed_new=_share(s.followed for c, s in rows if c.phrasing_held_out),
        seconds=round(seconds, 1),
    )


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Where the mean lies with 95 % confidence, in percent: see `compare.percent_interval`."""
    return compare.percent_interval(values)


def _share(values: Iterable[bool]) -> float:
    values = list(values)
    return round(100 * sum(values) / len(values), 1) if values else 0.0


def _grouped(
    rows: list[Row], key: Callable[[Case], str], what: str = "success"
) -> dict[str, float]:
    groups = defaultdict(list)
    for case, result in rows:
        groups[key(case)].append(getattr(result, what))
    return {name: _share(groups[name]) for name in sorted(groups)}


def held_out_cases(count: int, level: int, seed: int = 0) -> list[Case]:
    """The first `count` cases of a level's test split."""
    return [sample_edit(i, level, split="test", seed=seed) for i in range(count)]


def called(pipe: KontextPipeline, place: str | Path) -> str:
    """What opened weights are called in results: shipped ones by their name, others by their place.

    Many folders have weights of one name: their rows would replace each other.
    """
    own = (files.real(folder / pipe.name) for folder in (Path(), home()))
    return pipe.name if files.real(place) in own else Path(place).as_posix()


def edit_all(
    pipe: KontextPipeline, cases: list[Case], batch: int = 32, seed: int = 0, number: int = 0,
    quiet: bool = False, **call: object,
) -> list[Image.Image]:  # fmt: skip
    """Edit every case with its own seed, in batches of equal numbers of context images.

    number: of the first case, where `cases` are a part of a longer list.
    """
    pictures: dict[int, Image.Image] = {}
    for count in range(3):
        mine = [i for i, case in enumerate(cases) if len(case.contexts) == count]
        title = f"editing, {count} context images"
        for first in tqdm(range(0, len(mine), batch), title, disable=quiet):
            rows = mine[first : first + batch]
            images = [cases[i].context_images() for i in rows] if count else None
            prompts = [cases[i].prompt for i in rows]
            seeds = [seed * 1_000_003 + number + i for i in rows]
            out = pipe(prompts, image=images, seed=seeds, progress=False, **call)
            pictures.update(zip(rows, out.images, strict=True))
    return [pictures[i] for i in range(len(cases))]


def evaluate(
    pipe: KontextPipeline, cases: list[Case], seed: int = 0,
    clusters: Sequence[Hashable] | None = None, **call: object,
) -> tuple[Report, list[Row]]:  # fmt: skip
    """Edit and score cases; `call` goes to the pipeline (steps, guidance ...).

    clusters: what each case belongs to, see `summarise`.
    """
    start = time.monotonic()
    pictures = edit_all(pipe, cases, seed=seed, **call)
    seconds = time.monotonic() - start
    rows = [(c, score(p, c)) for c, p in tqdm(list(zip(cases, pictures, strict=True)), "scoring")]
    return summarise(rows, seconds, clusters), rows


def baselines(
    pipe: KontextPipeline, cases: list[Case], clusters: Sequence[Hashable] | None = None
) -> dict[str, Report]:
    """The input unchanged, and the right answer through the autoencoder; clusters as above."""
    names = clusters or range(len(cases))
    edits = [(case, name) for case, name in zip(cases, names, strict=True) if case.contexts]
    copied = [(case, score(case.context_images()[0], case)) for case, _ in edits]
    ceiling = []
    for first in range(0, len(cases), 32):
        some = cases[first : first + 32]
        pictures = pipe.decode(pipe.encode([case.target_image() for case in some]))
        ceiling += [(c, score(p, c)) for c, p in zip(some, pictures, strict=True)]
    copy = summarise(copied, clusters=[name for _, name in edits])
    return {"copy": copy, "ceiling": summarise(ceiling, clusters=names)}


def table(reports: dict[str, Report]) -> str:
    """Reports side by side as a Markdown table."""
    fields = ("cases", "success", "followed", "preserved", "identity", "psnr_untouched")
    shown = {
        name.replace("_", " "): [getattr(r, name) for r in reports.values()] for name in fields
    }
    shown["success, 95 % interval"] = ["{} to {}".format(*r.interval) for r in reports.values()]
    phrasings = ("known_phrasings", "new_phrasings", "followed_known", "followed_new")
    labels = ("success, known phrasings", "success, new phrasings")
    labels += ("followed, known phrasings", "followed, new phrasings")
    for label, name in zip(labels, phrasings, strict=True):
        shown[label] = [getattr(r, name) for r in reports.values()]
    tasks = sorted({task for report in reports.values() for task in report.by_task})
    for task in tasks:
        shown[f"success: {task}"] = [r.by_task.get(task, "") for r in reports.values()]
    for task in tasks:
        shown[f"followed: {task}"] = [r.followed_by_task.get(task, "") for r in reports.values()]
    return report.side_by_side(reports, shown)


def main(arguments: list[str] | None = None) -> dict[str, Report]:
    """Command line: measure a weights folder and print the table."""
    parser = report.parser("python -m minikontext.bench", __doc__)
    parser.add_argument("--cases", type=int, default=1000, help="held-out cases (default: 1000)")
    parser.add_argument("--level", type=int, default=4, help="level of the toy world (default: 4)")
    parser.add_argument("--mini", action="store_true", help="MiniKontextBench's fixed cases")
    parser.add_argument("--cfg", type=float, help="true_cfg_scale (default: the weights' own)")
    parser.add_argument("--baselines", action="store_true", help="also copy and ceiling")
    parser.add_argument("--json", type=Path, help="write the reports to this file")
    options = parser.parse_args(arguments)
    pipe = KontextPipeline.from_pretrained(options.weights)
    cases = held_out_cases(options.cases, options.level)
    bases: list[int] | None = None
    if options.mini:
        rows = mini.cases(more=True)
        bases, cases = [base for _, _, base, _ in rows], [case for *_, case in rows]
    call = {"num_inference_steps": options.steps, "true_cfg_scale": options.cfg}
    found, _ = evaluate(pipe, cases, options.seed, bases, **call)
    reports = {called(pipe, options.weights): found}
    reports |= baselines(pipe, cases, bases) if options.baselines else {}
    print(table(reports))
    print(json.dumps(found.by_operation, indent=1))
    if options.json:
        report.write_json({name: asdict(value) for name, value in reports.items()}, options.json)
    return reports
