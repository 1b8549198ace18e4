"""Ask the oracle about right answers and planted wrong ones: see `minikontext.bench.wrong_answers`.

`python -m benchmarks.wrong_answers --store`; with `--right` only the former, which is what there is
to ask of another autoencoder. `--size 96x64` asks at another size than 64 x 64, `--split dev` about
the second edition's cases instead of MiniKontextBench's.

Right answers go in as rendered, and once through the autoencoder: what an editor in its latents
can reach.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from tqdm.auto import tqdm

from minikontext.bench import mini, report
from minikontext.bench.wrong_answers import (
    ANOTHER,
    RIGHT,
    SPOILED,
    SQUARE,
    Kind,
    load,
    planted,
    table,
)
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, sizes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.oracle import succeeds

NOTHING: dict[str, object] = {}


def examine(
    cases: list[Case],
    pipe: KontextPipeline,
    known: dict[str, Kind] | None = None,
    first: int = 0,
    note: Callable[[int, dict[str, Kind]], None] | None = None,
    wrong: bool = True,
    size: sizes.Size = SQUARE,
) -> dict[str, Kind]:
    """Ask the oracle about all answers to the cases from number `first` on, on top of `known`.

    wrong: about wrong answers as well, not only the right ones.
    note: is told how many cases are done, and the result so far, every few cases.
    """
    kinds = dict(known or {})
    for i, case in enumerate(tqdm(cases[first:], "asking the oracle"), first):
        others = (c for c in cases[i + 1 :] + cases[:i] if c.operation == case.operation)
        donor = next(others, case) if wrong else None
        for name, passed in _verdicts(case, donor, random.Random(i), pipe, size).items():
            kinds[name] = kinds.get(name, Kind(0, 0)).plus(passed, case, name in RIGHT)
        if note and ((i + 1) % 20 == 0 or i + 1 == len(cases)):
            note(i + 1, kinds)
    return {name: kinds[name] for name in (*RIGHT, *SPOILED, ANOTHER) if name in kinds}


def _verdicts(
    case: Case, donor: Case | None, rng: random.Random, pipe: KontextPipeline, size: sizes.Size
) -> dict[str, bool]:
    """What the oracle says of each kind of answer to one case; without a donor of right ones."""
    rendered, coded, edged = RIGHT
    right = case.target_image(size[1], size[0])
    verdicts = {rendered: succeeds(right, case)}
    verdicts[coded] = succeeds(pipe.decode(pipe.encode(right))[0], case)
    if case.target.style != "comic":
        verdicts[edged] = verdicts[coded]
    wrong = planted(case, donor, rng, size) if donor else {}
    return verdicts | {name: succeeds(picture, case) for name, picture in wrong.items()}


def save(
    weights: str, done: int, kinds: dict[str, Kind], path: Path, asked: dict[str, object] = NOTHING
) -> None:  # fmt: skip
    """Write the result so far as JSON, and its table beside it; asked: what else it depends on."""
    content = {"weights": weights, "cases": done, **asked}
    report.write_json(content | {"kinds": {k: asdict(v) for k, v in kinds.items()}}, path)
    report.write_text(table(kinds), path.with_suffix(".md"))


def main(arguments: list[str] | None = None) -> None:
    """Command line: ask about MiniKontextBench's cases, in a shuffled order, and go on later."""
    parser = report.parser("python -m benchmarks.wrong_answers", __doc__, steps=..., seed=...)
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--again", action="store_true", help="start over, though there are results")
    parser.add_argument("--name", default="oracle", help="of the files (default: oracle)")
    parser.add_argument("--right", action="store_true", help="ask about right answers only")
    parser.add_argument("--size", default="64x64", help="width x height (default: 64x64)")
    parser.add_argument("--split", help="the second edition's cases of this split instead")
    options = parser.parse_args(arguments)
    part = f"{options.cases} cases" if options.cases < 1000 else ""
    if options.name == "oracle" and (options.right or options.split or options.size != "64x64"):
        part = f"{part} without a --name of its own".strip()
    (size,), path = sizes.parse(options.size), report.folder(options, part) / f"{options.name}.json"
    if options.split:
        cases = [sample_case(i, mini.LEVEL, options.split) for i in range(options.cases)]
    else:
        known = [case for *_, case in mini.cases(more=True)]
        cases = random.Random(0).sample(known, len(known))[: options.cases]
    asked = {name: getattr(options, name) for name in ("weights", "size", "split", "right")}
    before = {} if options.again else report.read_json(path, {})
    if others := [f"{n} {before[n]}" for n in asked if before.get(n, asked[n]) != asked[n]]:
        raise ConfigError(f"{path} is of {', '.join(others)}: use another --name, or --again.")
    done, kinds = (0, {}) if options.again else load(path)
    pipe = KontextPipeline.from_pretrained(options.weights)

    def note(done: int, kinds: dict[str, Kind]) -> None:
        save(options.weights, done, kinds, path, asked)

    print(table(examine(cases, pipe, kinds, done, note, not options.right, size)))


if __name__ == "__main__":
    main()
