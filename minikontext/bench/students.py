"""What distillation buys: teacher and students on the same cases and seeds, by steps.

`python -m minikontext.bench.students --cases 1000 --seeds 3`

Each row is a weights folder with a number of steps and a guidance. Pictures are made chunk by
chunk, so that the oracle compares all answers to a case with the same rendered scenes.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from minikontext.bench.oracle_bench import Row, edit_all, held_out_cases, summarise
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.files import shipped
from minikontext.toyworld import Case, score

STORED = shipped("data", "bench", "students.json")


@dataclass(frozen=True)
class Way:
    """One way of making pictures: weights, steps, and guidance of one kind or none.

    cfg: classifier-free guidance, two passes a step. guidance: the scale as the student's input.
    edits: only cases with a context image, for weights that know nothing else.
    """

    weights: str
    steps: int
    cfg: float = 1.0
    guidance: float | None = None
    edits: bool = False

    @property
    def evaluations(self) -> int:
        """Passes through the transformer for one picture."""
        return self.steps * (1 if self.cfg == 1 else 2)

    def __str__(self) -> str:
        how = f", CFG {self.cfg:g}" if self.cfg != 1 else ""
        how += f", w = {self.guidance:g}" if self.guidance is not None else ""
        return f"{self.weights}, {self.steps} steps{how}" + (", edits only" if self.edits else "")

    def call(self) -> dict[str, object]:
        """The pipeline's arguments."""
        scales = {"true_cfg_scale": self.cfg, "guidance_scale": self.guidance}
        return {"num_inference_steps": self.steps, **scales}


@dataclass(frozen=True)
class Result:
    """A way's numbers over all seeds, in percent; seeds: the success of each."""

    way: Way
    cases: int
    success: float
    interval: tuple[float, float]
    followed: float
    identity: float
    psnr_untouched: float
    seeds: list[float]
    by_task: dict[str, float]

    @property
    def lowest(self) -> str:
        """The task with the least success."""
        return min(self.by_task, key=self.by_task.__getitem__)


def few_steps(student: str, teacher: str = "toy", cfg: float = 1.5) -> list[Way]:
    """The teacher at its best, then plain teacher and student with fewer and fewer steps."""
    best = [Way(teacher, 28, cfg)]
    return best + [Way(name, steps) for steps in (4, 2, 1) for name in (teacher, student)]


def one_pass(
    student: str, teacher: str = "toy", steps: int = 10, scales: Iterable[float] = (1.25, 1.5, 2.0)
) -> list[Way]:
    """Two passes of the teacher and one of the student, for several guidance scales."""
    pairs = [
        (Way(teacher, steps, w, edits=True), Way(student, steps, guidance=w, edits=True))
        for w in scales
    ]
    return [way for pair in pairs for way in pair]


def compare(ways: list[Way], cases: list[Case], seeds: int, chunk: int = 192) -> list[Result]:
    """Make and score every case in every way with every sampling seed."""
    pipes = {name: KontextPipeline.from_pretrained(name) for name in {w.weights for w in ways}}
    rows: dict[tuple[Way, int], list[Row]] = defaultdict(list)
    for first in tqdm(range(0, len(cases), chunk), desc="cases"):
        some = cases[first : first + chunk]
        made = {}
        for way in ways:
            mine = [case for case in some if case.contexts or not way.edits]
            for seed in range(seeds):
                pictures = edit_all(
                    pipes[way.weights], mine, 64, seed, first, quiet=True, **way.call()
                )
                made[way, seed] = dict(zip(map(id, mine), pictures, strict=True))
        for case in some:
            for key, pictures in made.items():
                if id(case) in pictures:
                    rows[key].append((case, score(pictures[id(case)], case)))
    return [_result(way, [rows[way, seed] for seed in range(seeds)]) for way in ways]


def _result(way: Way, rows: list[list[Row]]) -> Result:
    whole = summarise([row for part in rows for row in part])
    return Result(
        way, len(rows[0]), whole.success, whole.interval, whole.followed, whole.identity,
        whole.psnr_untouched, [summarise(part).success for part in rows], whole.by_task,
    )  # fmt: skip


# ---------------------------------------------------------------- what came out


def save(results: list[Result], path: Path = STORED) -> None:
    """Write results as JSON; those of other ways in the file stay."""
    known = {r.way: r for r in load(path)} if path.exists() else {}
    known |= {r.way: r for r in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps([asdict(r) for r in known.values()], indent=1) + "\n")


def load(path: Path = STORED) -> list[Result]:
    """The results in a file; without a path, those that the notebook shows."""
    listed = json.loads(path.read_text())
    return [
        Result(**(r | {"way": Way(**r["way"]), "interval": tuple(r["interval"])})) for r in listed
    ]


def table(results: list[Result]) -> str:
    """The results as a Markdown table."""
    lines = [
        "| | evaluations | success % | 95 % interval | seeds | followed % | lowest task |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in results:
        spread = f"{min(r.seeds):.1f} to {max(r.seeds):.1f}"
        lowest = f"{r.lowest} {r.by_task[r.lowest]:.1f}"
        interval = "{} to {}".format(*r.interval)
        numbers = f"{r.success:.1f} | {interval} | {spread} | {r.followed:.1f} | {lowest}"
        lines.append(f"| {r.way} | {r.way.evaluations} | {numbers} |")
    return "\n".join(lines)


def plot(results: list[Result]) -> Figure:
    """Success against evaluations of the transformer, a line for each weights folder."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    lines: dict[tuple[str, bool], list[Result]] = defaultdict(list)
    for result in results:
        if not result.way.edits:
            lines[result.way.weights, result.way.cfg != 1].append(result)
    for (name, guided), line in lines.items():
        line.sort(key=lambda r: r.way.evaluations)
        x, y = [r.way.evaluations for r in line], [r.success for r in line]
        spread = np.abs(np.array([(min(r.seeds), max(r.seeds)) for r in line]).T - y)
        axes.errorbar(x, y, spread, marker="o", label=name + (" with CFG" if guided else ""))
    axes.set(xscale="log", xlabel="evaluations of the transformer", ylabel="success %")
    axes.set_xticks([1, 2, 4, 10, 28, 56], ["1", "2", "4", "10", "28", "56"], minor=False)
    axes.minorticks_off()
    axes.legend()
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m minikontext.bench.students",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", type=int, default=1000, help="held-out cases (default: 1000)")
    parser.add_argument("--seeds", type=int, default=3, help="sampling seeds (default: 3)")
    parser.add_argument("--cfg", type=float, default=1.5, help="the teacher's guidance")
    parser.add_argument("--teacher", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--ladd", nargs="*", default=["toy-pro"], help="few-step students")
    parser.add_argument("--guidance", nargs="*", default=["toy-dev"], help="one-pass students")
    parser.add_argument("--json", type=Path, default=STORED, help="results; others in it stay")
    options = parser.parse_args(arguments)
    ways = [w for name in options.ladd for w in few_steps(name, options.teacher, options.cfg)]
    ways += [w for name in options.guidance for w in one_pass(name, options.teacher)]
    ways = list(dict.fromkeys(ways))
    results = compare(ways, held_out_cases(options.cases, 4), options.seeds)
    save(results, options.json)
    print(table(results))


if __name__ == "__main__":
    main()
