"""The results page: every weights folder on MiniKontextBench, by steps, beside a copied input.

`minikontext bench mini --weights toy --steps 4 10 --output runs/bench`; without `--weights` and
`--output`, every shipped folder and the page in `data/bench/`.

Scores go into results.json, where the same seeds give the same bytes. A row that is there is kept,
so that a run can be gone on with. `--clock` times the rows that are there, turn by turn in one run,
and writes latency.json: do that on a machine which has nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from minikontext.bench import caching, diversity, mini, multiturn, students
from minikontext.bench.oracle_bench import Report, edit_all, evaluate, summarise
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.files import shipped
from minikontext.toyworld import Case, score

HOME = shipped("data")
COPY = "copy of the input"
SHADES = colormaps["YlGnBu"]
# Other benches leave a table beside the results; the page shows those that are there.
MORE_TABLES = {
    "failures": "What fails",
    "oracle": "The oracle itself",
    "autoencoder": "Autoencoders",
    "caching": "Steps that are skipped",
    "safety": "Safety",
}


@dataclass(frozen=True)
class Row:
    """One line of the page: a report, and what it was measured on."""

    weights: str
    sha256: str
    steps: int
    seed: int
    cases: str
    report: Report

    @property
    def name(self) -> str:
        """What the row is called in tables and files."""
        return f"{self.weights}, {self.steps} steps" if self.steps else self.weights


def shipped() -> list[str]:
    """The names of all weights in data/weights, in order."""
    return sorted(path.parent.name for path in (HOME / "weights").glob("*/config.json"))


def bench_cases(every: int = 1, more: bool = True) -> list[Case]:
    """MiniKontextBench's cases, or every n-th of them; `more` adds the paper's other tasks."""
    return [case for *_, case in mini.cases(more)[::every]]


def measure(pipe: KontextPipeline, steps: int, every: int = 1, seed: int = 0) -> Row:
    """Edit and score all cases; weights that only edit get those with a context image."""
    cases = [c for c in bench_cases(every) if len(c.contexts) >= pipe.defaults.min_contexts]
    report, _ = evaluate(pipe, cases, seed, num_inference_steps=steps)
    timeless = replace(report, seconds=0.0)
    return Row(pipe.name, pipe.weights_fingerprint, steps, seed, _mark(every), timeless)


def timed(rows: dict[str, Row], count: int = 64, rounds: int = 3) -> dict[str, dict[str, object]]:
    """Seconds an edit of every row's weights and steps: medians, on `count` edits of one context.

    The rows take turns, and the first round is not counted.
    """
    pipes = {row.weights: KontextPipeline.from_pretrained(row.weights) for row in _edited(rows)}
    cases = [case for case in bench_cases() if len(case.contexts) == 1][:count]
    seconds: dict[str, list[float]] = {row.name: [] for row in _edited(rows)}
    for row in [*_edited(rows)] * (rounds + 1):
        start = time.perf_counter()
        edit_all(pipes[row.weights], cases, quiet=True, num_inference_steps=row.steps)
        seconds[row.name].append(time.perf_counter() - start)
    machine = f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"
    return {
        name: {"per_edit": round(float(np.median(s[1:])) / len(cases), 4), "machine": machine}
        for name, s in seconds.items()
    }


def _edited(rows: dict[str, Row]) -> list[Row]:
    return [row for row in rows.values() if row.weights != COPY]


def copied(every: int = 1) -> Row:
    """The first context unchanged: what doing nothing scores."""
    cases = [case for case in bench_cases(every) if case.contexts]
    scored = [(case, score(case.context_images()[0], case)) for case in cases]
    return Row(COPY, "", 0, 0, _mark(every), summarise(scored))


def _mark(every: int) -> str:
    return "all" if every == 1 else f"every {every}th"


# ---------------------------------------------------------------- what is kept


def load(path: Path) -> dict[str, Row]:
    """The rows of results.json by name; none if there is no such file."""
    if not path.exists():
        return {}
    stored = json.loads(path.read_text())
    rows = [Row(**(values | {"report": _report(values["report"])})) for values in stored]
    return {row.name: row for row in rows}


def _report(values: dict) -> Report:
    return Report(**(values | {"interval": tuple(values["interval"])}))


def write_json(content: object, path: Path) -> None:
    """Write JSON, whole or not at all."""
    with files.replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def run(
    names: list[str], steps: list[int], folder: Path, every: int = 1, seed: int = 0,
    again: bool = False,
) -> dict[str, Row]:  # fmt: skip
    """Measure what is missing (with `again`, everything) and store each row when it is there."""
    place = folder / "results.json"
    rows = load(place)

    def keep(row: Row) -> None:
        rows[row.name] = row
        write_json([asdict(r) for r in sorted(rows.values(), key=_order)], place)

    if again or _stale(rows.get(COPY), "", seed=0, every=every):
        keep(copied(every))
    for name in names:
        pipe = KontextPipeline.from_pretrained(name)
        for n in steps:
            known = rows.get(f"{pipe.name}, {n} steps")
            if again or _stale(known, pipe.weights_fingerprint, seed, every):
                keep(measure(pipe, n, every, seed))
    return dict(sorted(rows.items(), key=lambda item: _order(item[1])))


def _stale(row: Row | None, sha256: str, seed: int, every: int) -> bool:
    """Whether a row is missing, or was measured on other weights, cases or seeds."""
    return row is None or (row.sha256, row.seed, row.cases) != (sha256, seed, _mark(every))


def _order(row: Row) -> tuple[int, str, int]:
    return (0 if row.weights == COPY else 1, row.weights, row.steps)


# ---------------------------------------------------------------- the page


def page(rows: dict[str, Row], times: dict[str, dict], folder: Path) -> str:
    """The Markdown page: what was measured, its figures, and every other result in the folder."""
    parts = ["# Results", "", "Made by `minikontext bench mini`; not written by hand.", ""]
    parts += ["## MiniKontextBench", "", table(rows, times), ""]
    parts += ["![Success by category](radar.png)", ""]
    parts += ["![Seconds an edit](latency.png)", ""] * bool(times)
    if (folder / "students.json").exists():
        parts += ["## Teacher and students", ""]
        parts += ["Made by `python -m minikontext.bench.students`: several sampling seeds.", ""]
        parts += [students.table(students.load(folder / "students.json")), ""]
    if (folder / "caching.json").exists():
        known = caching.load(folder / "caching.json")
        one = next(iter(known.values()))
        told = f"`python -m minikontext.bench.caching --weights {one.weights} --cases {one.cases}`"
        parts += ["## Step caching", "", f"Made by {told}: held-out cases, one by one."]
        parts += ["", caching.table(known), ""]
    if (folder / "multiturn.json").exists():
        facts = json.loads((folder / "multiturn.json").read_text())
        drifts = multiturn.load(folder / "multiturn.json")
        chains = next(iter(drifts.values())).chains
        parts += ["## Edits in a row", ""]
        parts += [f"{facts['weights']}, {facts['steps']} steps, {chains} chains.", ""]
        parts += [multiturn.table(drifts), "", "![Drift by turn](multiturn.png)", ""]
    if (folder / "diversity.json").exists():
        known = diversity.load(folder / "diversity.json")
        parts += ["## Variety", "", "Right answers to open prompts, over the seeds.", ""]
        parts += [diversity.table(known), ""]
    for stem, title in MORE_TABLES.items():
        if (folder / f"{stem}.md").exists():
            parts += [f"## {title}", "", (folder / f"{stem}.md").read_text().strip(), ""]
    return "\n".join(parts)


def table(rows: dict[str, Row], times: dict[str, dict]) -> str:
    """Success in percent, in all and by category, and seconds an edit."""
    tasks = list(dict.fromkeys(t for row in rows.values() for t in row.report.by_task))
    head = ["", "cases", "success", "95 % interval", "followed", *tasks, "s an edit"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        r = row.report
        cells = [name, r.cases, r.success, "{} to {}".format(*r.interval), r.followed]
        cells += [r.by_task.get(task, "") for task in tasks]
        cells.append(times.get(name, {}).get("per_edit", ""))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def radar(rows: dict[str, Row]) -> Figure:
    """Success by category: one wheel for each weights folder, the darker the more steps."""
    edited = _edited(rows)
    tasks = list(dict.fromkeys(t for row in edited for t in row.report.by_task))
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    names = list(dict.fromkeys(row.weights for row in edited))
    columns = min(2, len(names))
    figure = Figure(figsize=(4.2 * columns, 3.9 * -(-len(names) // columns)), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // columns), columns, i + 1, projection="polar")
        mine = [row for row in edited if row.weights == name]
        for row, shade in zip(mine, np.linspace(0.35, 0.95, len(mine))):
            values = [row.report.by_task.get(task, np.nan) for task in tasks]
            colour = SHADES(shade)
            axes.plot([*angles, angles[0]], [*values, values[0]], marker=".", color=colour,
                      label=f"{row.steps} steps")  # fmt: skip
        axes.set_xticks(angles, [task.replace(" ", "\n") for task in tasks], fontsize=8)
        axes.tick_params(axis="x", pad=9)
        axes.set_yticks([40, 60, 80, 100], ["40", "60", "80", "100"], fontsize=7)
        axes.set(ylim=(20, 103), title=f"{name}, success %")
        axes.legend(loc="center", fontsize=7, framealpha=0.9)
    return figure


def latency(times: dict[str, dict]) -> Figure:
    """Seconds an edit as bars."""
    figure = Figure(figsize=(6, 0.8 + 0.4 * len(times)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(list(times), [row["per_edit"] for row in times.values()])
    axes.bar_label(bars, padding=3)
    axes.invert_yaxis()
    machines = ", ".join(sorted({row["machine"] for row in times.values()}))
    axes.set(xlabel=f"seconds an edit, in batches ({machines})")
    return figure


def write_page(rows: dict[str, Row], folder: Path) -> Path:
    """Write README.md and its figures into the folder; returns the page's path."""
    clock = folder / "latency.json"
    times = json.loads(clock.read_text()) if clock.exists() else {}
    radar(rows).savefig(folder / "radar.png", dpi=88)
    if times:
        latency(times).savefig(folder / "latency.png", dpi=88)
    with files.replacing(folder / "README.md") as temporary:
        temporary.write_text(page(rows, times, folder), encoding="utf-8")
    return folder / "README.md"


def main(
    arguments: list[str] | None = None,
    prog: str = "python -m minikontext.bench.results",
) -> None:
    """Command line: measure and write the page."""
    parser = argparse.ArgumentParser(prog=prog, description="MiniKontextBench, scored exactly.")
    parser.add_argument("--weights", nargs="*", help="names or folders (default: all shipped)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 10], help="(default: 4 10)")
    parser.add_argument("--every", type=int, default=1, help="only every n-th case (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default: 0)")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--clock", action="store_true", help="only time the rows that are there")
    parser.add_argument("--output", type=Path, default=HOME / "bench", help="folder (data/bench)")
    options = parser.parse_args(arguments)
    if options.every < 1 or min(options.steps) < 1:
        raise ConfigError("--every and --steps: use whole numbers from 1.")
    if options.clock:
        rows = load(options.output / "results.json")
        write_json(timed(rows), options.output / "latency.json")
        print(write_page(rows, options.output).read_text())
        return
    names = shipped() if options.weights is None else options.weights
    rows = run(names, options.steps, options.output, options.every, options.seed, options.again)
    print(write_page(rows, options.output).read_text())


if __name__ == "__main__":
    main()
