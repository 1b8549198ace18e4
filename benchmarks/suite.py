"""MiniKontextBench 2: KontextBench's proportions at every size, and more sets; both judges.

`python -m benchmarks.suite --weights FOLDER --share 0.1` scores a tenth of every set of the
dev split. Choices are made there. `--split test --store` is for what is reported, once a release.

Half of the sentences are in phrasings that no training hears. Each case has a noise of its own,
each prompt was drawn once, and a case is its own cluster: all scenes are drawn independently. What
came out is kept by case, so that two sets of weights can be compared in pairs (`bench.compare`).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count, cycle, islice
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from minikontext.bench import compare, report
from minikontext.bench.mini import CATEGORIES
from minikontext.bench.oracle_bench import called
from minikontext.bench.reader import judgement
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, score, sizes, wishes
from minikontext.toyworld.sizes import TRAINED, UNSEEN, Size
from minikontext.toyworld.split import pairs_of

LEVEL = 4
NAME = "suite"
Choice = Callable[[Case], bool]
RESIZE = "of contexts: as they are (none), or as the pipeline does by default"


@dataclass(frozen=True)
class Set:
    """A set of cases: how many, of which kinds, with how many pictures, at which sizes."""

    cases: int
    suits: Choice
    contexts: int | None = None
    two: float = 0.0  # share of sentences with two wishes
    sizes: Sequence[Size] = TRAINED
    own: bool = False  # contexts have sizes of their own


def _task(name: str) -> Choice:
    return lambda case: case.task == name


def _edits(case: Case) -> bool:
    return bool(case.contexts) and not case.wishes


def _paired(case: Case) -> bool:
    return _edits(case) and any(pairs_of(scene) for scene in (*case.contexts, case.target))


SETS: dict[str, Set] = {
    **{task: Set(cases, _task(task)) for task, _, cases in CATEGORIES},
    "visual cue": Set(100, _task("visual cue")),
    "two images": Set(100, _task("two images"), 2),
    "text to image": Set(100, _task("text to image"), 0),
    "three images": Set(500, _task("three images"), 3),
    "four images": Set(500, _task("four images"), 4),
    "two wishes": Set(1000, lambda case: bool(case.wishes), 1, two=1.0),
    "contexts of other sizes": Set(1000, _edits, own=True),
    "unseen sizes": Set(1000, _edits, sizes=UNSEEN),
    "pairs held out": Set(1000, _paired),
}
MAIN = tuple(task for task, _, _ in CATEGORIES)  # KontextBench's own 1026


@dataclass(frozen=True)
class Outcome:
    """What came of a case: the oracle's verdict, the reader's, and PSNR in dB."""

    key: str
    size: Size
    operation: str
    oracle: bool
    followed: bool
    reader: bool
    psnr: float


def cases_of(name: str, split: str, share: float = 1.0) -> list[tuple[str, Case, Size]]:
    """The first cases of a set, each with its key, a prompt drawn for it, and its size."""
    one, place = SETS[name], name.replace(" ", "-")
    found: list[tuple[str, Case, Size]] = []
    shapes = cycle(one.sizes)
    for i, case in enumerate(islice(_suitable(one, name, split), max(1, round(share * one.cases)))):
        rng = random.Random(f"{NAME}/{name}/{split}/{i}")
        prompt = wishes.ask(case, rng, unheard=i % 2 == 1)
        found.append((f"{place}-{i:04d}", replace(case, prompt=prompt), next(shapes)))
    return found


def _suitable(one: Set, name: str, split: str) -> Iterator[Case]:
    seed = sum(name.encode())
    drawn = (wishes.sample_wishes(i, LEVEL, split, seed, one.contexts, one.two) for i in count())
    return filter(one.suits, drawn)


def context_sizes(case: Case, number: int, target: Size, own: bool | Size) -> tuple[Size, ...]:
    """The size of each context picture: the target's, a trained one of its own, or the given."""
    if isinstance(own, tuple):
        return (own,) * len(case.contexts)
    rng = random.Random(f"contexts/{number}/{target}")
    others = [size for size in TRAINED if size != target]
    return tuple(rng.choice(others) if own else target for _ in case.contexts)


def edit_all(
    pipe: KontextPipeline, cases: Sequence[Case], size: Size, own: bool | Size = False,
    seed: int = 0, batch: int = 16, resize: str = "none", **call: Any,
) -> list[Image.Image]:  # fmt: skip
    """Edit all cases into pictures of one size, in batches of equal buckets.

    resize: "none" shows the weights each context in the size that it has; see the pipeline's.
    """
    shapes = [context_sizes(case, i, size, own) for i, case in enumerate(cases)]
    results: dict[int, Image.Image] = {}
    for rows in _equal(shapes, batch):
        inputs = [cases[i].context_images(sizes=shapes[i]) for i in rows]
        out = pipe(
            [cases[i].prompt for i in rows], image=inputs if shapes[rows[0]] else None,
            width=size[0], height=size[1], seed=[seed * 1_000_003 + i for i in rows],
            resize=resize, progress=False, **call,
        )  # fmt: skip
        results.update(zip(rows, out.images, strict=True))
    return [results[i] for i in range(len(cases))]


def _equal(shapes: Sequence[tuple[Size, ...]], batch: int) -> Iterator[list[int]]:
    """Numbers of cases whose contexts have the same sizes, at most `batch` at a time."""
    for shape in sorted(set(shapes)):
        mine = [i for i, one in enumerate(shapes) if one == shape]
        yield from (mine[i : i + batch] for i in range(0, len(mine), batch))


def run(pipe: KontextPipeline, name: str, split: str, share: float, **call: Any) -> list[Outcome]:
    """Edit and judge a set's cases."""
    rows, outcomes = cases_of(name, split, share), []
    for size in dict.fromkeys(size for *_, size in rows):
        mine = [(key, case) for key, case, at in rows if at == size]
        cases = [case for _, case in mine]
        pictures = edit_all(pipe, cases, size, SETS[name].own, seed=sum(size), **call)
        for (key, case), picture in zip(mine, pictures, strict=True):
            found = score(picture, case)
            outcomes.append(
                Outcome(
                    key, size, case.operation, found.success, found.followed,
                    judgement.judge(picture, case).success, round(found.psnr, 2),
                )
            )  # fmt: skip
    return sorted(outcomes, key=lambda one: one.key)


# ---------------------------------------------------------------- the page

HEAD = ("", "cases", "oracle %", "95 %", "reader %", "both say so %", "PSNR dB")


def line(label: str, outcomes: Sequence[Outcome]) -> tuple:
    """One row of a table: shares in percent with the oracle's interval."""

    def share(values: Sequence[bool]) -> float:
        return round(100 * sum(values) / len(values), 1)

    oracle = [one.oracle for one in outcomes]
    span = report.span(compare.percent_interval(oracle))
    agreed = share([one.oracle == one.reader for one in outcomes])
    psnr = round(sum(one.psnr for one in outcomes) / len(outcomes), 2)
    return (
        label, len(outcomes), share(oracle), span, share([one.reader for one in outcomes]), agreed,
        psnr,
    )  # fmt: skip


def page(found: dict[str, list[Outcome]], title: str) -> str:
    """All sets, then KontextBench's categories together by size, as Markdown."""
    main = [one for name in MAIN if name in found for one in found[name]]
    rows = [line("**KontextBench's five together**", main)] if main else []
    rows += [line(name, outcomes) for name, outcomes in found.items()]
    by_size = [
        line(f"{w} × {h}", mine)
        for w, h in sorted({one.size for one in main}, key=sizes.area)
        if (mine := [one for one in main if one.size == (w, h)])
    ]
    parts = [title, report.table(HEAD, rows)]
    if by_size:
        parts += ["The five together, by size (width × height):", report.table(HEAD, by_size)]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> dict[str, list[Outcome]]:
    """Command line: run sets, write outcomes and the page, print the page."""
    parser = report.parser("python -m benchmarks.suite", __doc__, seed=...)
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--share", type=float, default=1.0, help="of every set (default: all)")
    parser.add_argument("--sets", nargs="+", default=[*SETS], choices=[*SETS], metavar="SET")
    parser.add_argument("--resize", default="none", choices=("none", "kontext"), help=RESIZE)
    options = parser.parse_args(arguments)
    report.positive(options, "steps")
    if not 0 < options.share <= 1:
        raise ConfigError(f"--share {options.share}: use a part of the whole, up to 1.")
    whole = options.share == 1 and set(options.sets) == set(SETS) and options.resize == "none"
    brought = " brought" * (options.resize == "kontext")
    part = f"{NAME} {options.split} {options.share}{brought}"
    folder = report.folder(options, "" if whole else part)
    pipe = KontextPipeline.from_pretrained(options.weights)
    call = {"num_inference_steps": options.steps, "resize": options.resize}
    found = {
        name: run(pipe, name, options.split, options.share, **call)
        for name in tqdm(options.sets, "sets")
    }
    steps = options.steps or pipe.defaults.num_inference_steps
    title = f"# MiniKontextBench 2: {options.weights}, {steps} steps, {options.split} split"
    title += ", contexts brought to sizes as in an edit" * bool(brought)
    text = page(found, title)
    short = re.sub(r"[^\w.-]+", "-", called(pipe, options.weights)).strip("-")
    name = f"{NAME}_{short}_{options.split}"  # choices (dev) and reports (test) stay apart
    content = {"weights": pipe.weights_fingerprint, "steps": steps, "split": options.split,
               "resize": options.resize}  # fmt: skip
    plain = {key: [asdict(one) for one in outcomes] for key, outcomes in found.items()}
    report.write_json(content | {"outcomes": plain}, folder / f"{name}.json")
    report.write_text(text, folder / f"{name}.md")
    print(text)
    return found


if __name__ == "__main__":
    main()
