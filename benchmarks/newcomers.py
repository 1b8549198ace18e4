"""Newcomers' sentences with pictures: how many does an editor follow, by the oracle?

`python -m benchmarks.newcomers --weights toy-max toy-words --steps 4` edits at 64 × 64 what the dev
half of `data/bench/newcomers.jsonl` asks for; `--half all --store` edits the shut half, too, and
stores everything. With two weights or more, each is compared with the first, sentence by sentence.
Sentences that ask for what the world lacks are no edits: `benchmarks.words` counts their warnings.
"""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from benchmarks.suite import edit_all
from benchmarks.words import Newcomer, newcomers
from minikontext.bench import compare, report
from minikontext.bench.oracle_bench import called
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Scene, score
from minikontext.toyworld.scene import ATTRIBUTES

NAME, SIZE = "newcomers", (64, 64)
HEAD = ("half", "weights", "steps", "sentences", "followed %", "95 %", "one wish %", "two wishes %")


def right_cases(one: Newcomer) -> list[Case]:
    """The sentence as cases, one for each scene that is a right answer.

    Claimed is what a right scene changes, or of a picture from nothing all that is not free.
    """
    start = one.contexts[0] if one.contexts else None
    task = "local" if one.contexts else "text to image"
    return [
        Case(task, NAME, one.prompt, one.contexts, right, _changed(start, right, one), one.free)
        for right in one.right
    ]


def _changed(start: Scene | None, right: Scene, one: Newcomer) -> tuple[str, ...]:
    names = (name for name in ATTRIBUTES if name not in one.free)
    return tuple(n for n in names if not start or getattr(start, n) != getattr(right, n))


def followed(picture: Image.Image, one: Newcomer) -> bool:
    """Whether a picture is a right answer, by the oracle: what was asked for, and nothing else."""
    return any(score(picture, case).success for case in right_cases(one))


def is_double(one: Newcomer) -> bool:
    """Whether a sentence has two wishes: its right answer changes two things, colours aside."""
    start, names = (one.contexts or (None,))[0], set()
    if start:
        names = {n.removesuffix("_colour") for n in _changed(start, one.right[0], one)}
    return len(names) > 1


def measure(pipe: KontextPipeline, sentences: Sequence[Newcomer], steps: int | None) -> list[bool]:
    """Edit every sentence's picture; which of them are followed."""
    cases = [right_cases(one)[0] for one in sentences]
    pictures = edit_all(pipe, cases, SIZE, num_inference_steps=steps)
    return [followed(picture, one) for picture, one in zip(pictures, sentences, strict=True)]


def row(half: str, name: str, steps: int | None, rights: Sequence[bool]) -> list[object]:
    """One row of the table."""
    sentences = editable(half)
    double = [is_double(one) for one in sentences]
    every = compare.rate(rights)
    shares = [
        compare.rate(r for r, d in zip(rights, double, strict=True) if d == two).percent
        for two in (False, True)
    ]
    interval = report.span((every.low, every.high))
    return [half, name, steps or "own", every.of, every.percent, interval, *shares]


def editable(half: str) -> list[Newcomer]:
    """The sentences of a half that ask for what the world has."""
    return [one for one in newcomers(half) if one.right]


def page(found: dict[str, dict[str, list[bool]]], steps: int | None) -> str:
    """The table, and what the comparisons with the first weights decide."""
    rows = [row(h, name, steps, r) for h, some in found.items() for name, r in some.items()]
    parts = [
        "# Newcomers' sentences with pictures\n\nMade by `python -m benchmarks.newcomers --store`; "
        "not written by hand. All wording was chosen on the dev half.",
        report.table(HEAD, rows),
    ]
    for half, some in found.items():
        (first, base), *others = some.items()
        parts += [
            f"{half}: {compare.paired(rights, base).verdict(name, first)}"
            for name, rights in others
        ]
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> dict[str, dict[str, list[bool]]]:
    """Command line: edit the sentences with each of the weights, store and print the page."""
    parser = report.parser(
        "python -m benchmarks.newcomers", __doc__, weights=..., seed=..., steps=4
    )
    parser.add_argument("--weights", nargs="+", default=["toy-max"], help="names or folders")
    parser.add_argument("--half", choices=("dev", "all"), default="dev")
    options = parser.parse_args(arguments)
    report.positive(options, "steps")
    folder = report.folder(options, "" if options.half == "all" else f"{NAME} dev half")
    found: dict[str, dict[str, list[bool]]] = {}
    for half in ("dev", "shut") if options.half == "all" else ("dev",):
        for place in options.weights:
            pipe = KontextPipeline.from_pretrained(place)
            name = called(pipe, place)
            found.setdefault(half, {})[name] = measure(pipe, editable(half), options.steps)
    text = page(found, options.steps)
    outcomes = {h: {n: "".join("01"[x] for x in r) for n, r in s.items()} for h, s in found.items()}
    report.write_json({"steps": options.steps, "outcomes": outcomes}, folder / f"{NAME}.json")
    report.write_text(text, folder / f"{NAME}.md")
    print(text)
    return found


if __name__ == "__main__":
    main()
