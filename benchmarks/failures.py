"""What goes wrong where: the failed edits of MiniKontextBench, by operation and by cause.

`python -m benchmarks.failures --weights toy-max --steps 4`

Two causes are told apart. Where the right answer itself no longer reads right after a round trip
through the autoencoder, no editor in its latents could have passed; the rest is the editor's own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from minikontext.bench import report
from minikontext.bench.oracle_bench import Row, evaluate
from minikontext.bench.results import bench_cases, part_name
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Score
from minikontext.toyworld.oracle import succeeds
from minikontext.toyworld.scene import ATTRIBUTES

VERDICTS = ("followed", "preserved", "identity")


@dataclass(frozen=True)
class Failures:
    """One operation: cases, how many failed, how many of these fail as right answers, too.

    `lacked` counts the verdicts that were missed, `misread` the attributes that read otherwise than
    they should, with the style of the right answer where that is not the plain one.
    """

    operation: str
    cases: int
    failed: int
    decoder: int
    lacked: dict[str, int] = field(default_factory=dict)
    misread: dict[str, int] = field(default_factory=dict)


def misread(case: Case, found: Score) -> list[str]:
    """The attributes that an answer shows otherwise than it should."""
    style = "" if case.target.style == "plain" else f" in {case.target.style}"
    differ = (n for n in ATTRIBUTES if getattr(found.read, n) != getattr(case.target, n))
    return [f"{name}{style}" for name in differ if name not in case.free]


def analyse(rows: Sequence[Row], pipe: KontextPipeline) -> list[Failures]:
    """Count the failures of scored edits, the operation with most of them first."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for case, found in rows:
        groups[case.operation].append((case, found))
    counted = [_count(name, group, pipe) for name, group in groups.items()]
    return sorted(counted, key=lambda f: (-f.failed, f.operation))


def _count(operation: str, rows: Sequence[Row], pipe: KontextPipeline) -> Failures:
    failed = [(case, found) for case, found in rows if not found.success]
    lacked = Counter(v for _, found in failed for v in VERDICTS if not getattr(found, v))
    wrong = Counter(name for case, found in failed for name in misread(case, found))
    decoder = sum(not succeeds(through(pipe, case), case) for case, _ in failed)
    return Failures(
        operation, len(rows), len(failed), decoder, dict(lacked), dict(wrong.most_common())
    )


def through(pipe: KontextPipeline, case: Case) -> object:
    """A right answer after one round trip through the autoencoder."""
    return pipe.decode(pipe.encode(case.target_image()))[0]


def table(found: Sequence[Failures], most: int = 3) -> str:
    """Operations with failures as a Markdown table, and their sum."""
    head = ("operation", "failed", "of", "also as right answer", "lacked", "misread")
    lines = [
        (f.operation, f.failed, f.cases, f.decoder, _counts(f.lacked, most),
         _counts(f.misread, most)) for f in found if f.failed
    ]  # fmt: skip
    sums = (sum(getattr(f, name) for f in found) for name in ("failed", "cases", "decoder"))
    return report.table(head, [*lines, ("**all**", *sums, "", "")])


def _counts(counts: dict[str, int], most: int) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = ", …" if len(ordered) > most else ""
    return ", ".join(f"{name} {n}" for name, n in ordered[:most]) + more


def save(name: str, steps: int, found: Sequence[Failures], path: Path, part: str = "") -> None:
    """Write the counts as JSON, and their table beside it."""
    content = {"weights": name, "steps": steps, "operations": [asdict(one) for one in found]}
    report.write_json(content, path)
    which = f"{part} case" if part else "every case"
    title = f"{name}, {steps} steps, {which} of MiniKontextBench and its extra sets."
    report.write_text(f"{title}\n\n{table(found)}", path.with_suffix(".md"))


def main(arguments: list[str] | None = None) -> None:
    """Command line: edit MiniKontextBench's cases, score them, count what failed."""
    parser = report.parser(
        "python -m benchmarks.failures", None, weights="toy-max", steps=4, seed=...
    )
    parser.add_argument("--every", type=int, default=1, help="only every n-th case (default: 1)")
    options = parser.parse_args(arguments)
    report.positive(options, "every", "steps")
    part = part_name(options.every)
    place = report.folder(options, part) / "failures.json"
    pipe = KontextPipeline.from_pretrained(options.weights)
    cases = [c for c in bench_cases(options.every) if len(c.contexts) >= pipe.defaults.min_contexts]
    _, rows = evaluate(pipe, cases, num_inference_steps=options.steps)
    found = analyse(rows, pipe)
    save(pipe.name, options.steps, found, place, part)
    print(table(found))


if __name__ == "__main__":
    main()
