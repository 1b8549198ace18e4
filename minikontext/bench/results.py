"""The results page: every weights folder on MiniKontextBench, by steps, beside a copied input.

`minikontext bench mini --weights toy --steps 4 10`; without `--weights`, every shipped folder.
Results go to runs/bench, those of `--every` n or another seed to a folder of their own; only
`--store` changes the page that is committed, data/bench.

Scores go into results.json, where the same seeds give the same bytes. A row that is there is kept,
so that a run can be gone on with. `--clock` times the rows that are there, turn by turn in one run,
and writes latency.json: do that on a machine which has nothing else to do.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure

from minikontext.bench import diversity, mini, multiturn, report, study
from minikontext.bench.oracle_bench import called, edit_all, summarise
from minikontext.bench.study import Row, SamplerSetting
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped as shipped_path
from minikontext.toyworld import Case, score

HOME = shipped_path("data")
COPY = "copy of the input"
SHADES = colormaps["YlGnBu"]
# Other benches leave a table beside the results; the page shows those that are there.
MORE_TABLES = {
    "failures": "What fails",
    "oracle": "The oracle itself",
    "autoencoder": "Autoencoders",
    "safety": "Safety",
}
STUDIES = {"students": "Teacher and students", "caching": "Step caching"}


def shipped() -> list[str]:
    """The names of all weights in data/weights, in order."""
    return sorted(path.parent.name for path in (HOME / "weights").glob("*/config.json"))


def bench_cases(every: int = 1) -> list[Case]:
    """MiniKontextBench's cases, those of the paper's other tasks too, or every n-th of them."""
    return [case for *_, case in mini.cases(more=True)[::every]]


def part_name(every: int, seed: int = 0) -> str:
    """What a part of the cases, or another seed than 0, is called; the whole has no name."""
    parts = {f"every {every}th": every != 1, f"seed {seed}": seed != 0}
    return " ".join(part for part, there in parts.items() if there)


def bases(every: int = 1, least: int = 0) -> list[int]:
    """The base scene of each case with at least so many context images: their clusters."""
    rows = mini.cases(more=True)[::every]
    return [base for _, _, base, case in rows if len(case.contexts) >= least]


def measure(pipe: KontextPipeline, setting: SamplerSetting, every: int = 1, seed: int = 0) -> Row:
    """Edit and score all cases; weights that only edit get those with a context image."""
    least = pipe.defaults.min_contexts
    cases = [c for c in bench_cases(every) if len(c.contexts) >= least]
    label = part_name(every, seed) or "all"
    return study.measure(pipe, setting, cases, label, [seed], bases(every, least), batch=32)[0]


def timed(rows: dict[str, Row], count: int = 64, rounds: int = 3) -> dict[str, dict[str, object]]:
    """Seconds an edit of every row's weights and steps: medians, on `count` edits of one context.

    The rows take turns, and the first round is not counted. Raises ConfigError for a row whose
    weights are others by now.
    """
    edited = _edited(rows)
    places = dict.fromkeys(row.setting.weights for row in edited)
    pipes = {place: KontextPipeline.from_pretrained(place) for place in places}
    for row in edited:
        if row.fingerprint != pipes[row.setting.weights].weights_fingerprint:
            raise ConfigError(f"{row.name}: its weights are others by now; measure them again.")
    cases = [case for case in bench_cases() if len(case.contexts) == 1][:count]
    seconds: dict[str, list[float]] = {row.name: [] for row in edited}
    for row in edited * (rounds + 1):
        start = time.perf_counter()
        edit_all(pipes[row.setting.weights], cases, quiet=True, **row.setting.call())
        seconds[row.name].append(time.perf_counter() - start)
    machine = f"cpu, {torch.get_num_threads()} threads, {platform.machine()}"
    return {
        name: {"per_edit": round(float(np.median(s[1:])) / len(cases), 4), "machine": machine}
        for name, s in seconds.items()
    }


def _edited(rows: dict[str, Row]) -> list[Row]:
    return [row for row in rows.values() if row.setting.weights != COPY]


def copied(every: int = 1, seed: int = 0) -> Row:
    """The first context unchanged: what doing nothing scores, beside results of a seed."""
    cases = [case for case in bench_cases(every) if case.contexts]
    scored = [(case, score(case.context_images()[0], case)) for case in cases]
    whole = summarise(scored, clusters=bases(every, 1))
    outcomes = "".join(str(int(s.success)) for _, s in scored)
    setting = SamplerSetting(COPY, 0, cfg=None)
    return Row(setting, "", part_name(every, seed) or "all", whole, [whole.success], [outcomes])


def run(
    names: list[str], steps: list[int], folder: Path, every: int = 1, seed: int = 0,
    again: bool = False,
) -> dict[str, Row]:  # fmt: skip
    """Measure what is missing (with `again`, everything) and store each row when it is there."""
    place = folder / "results.json"
    rows, label = study.load(place), part_name(every, seed) or "all"
    if others := {row.cases for row in rows.values()} - {label}:
        raise ConfigError(
            f"{place} holds results of {', '.join(sorted(others))} cases; got {label}. Use another "
            "--output, so that a part never replaces the whole."
        )

    def keep(row: Row) -> None:
        rows[row.name] = row
        study.save(dict(sorted(rows.items(), key=lambda item: _order(item[1]))), place)

    if again or COPY not in rows:
        keep(copied(every, seed))
    for name in names:
        pipe = KontextPipeline.from_pretrained(name)
        for n in steps:
            setting = SamplerSetting(called(pipe, name), n, cfg=None)
            if again or not study.fresh(rows.get(str(setting)), pipe, label, 1):
                keep(measure(pipe, setting, every, seed))
    return dict(sorted(rows.items(), key=lambda item: _order(item[1])))


def _order(row: Row) -> tuple[int, str, int]:
    return (0 if row.setting.weights == COPY else 1, row.setting.weights, row.setting.steps)


# ---------------------------------------------------------------- the page


def page(rows: dict[str, Row], times: dict[str, dict], folder: Path) -> str:
    """The Markdown page: what was measured, its figures, and every other result in the folder."""
    lines = ["# Results", "", "Made by `minikontext bench mini`; not written by hand.", ""]
    lines += ["## MiniKontextBench", "", table(rows, times), "", _intervals(rows), ""]
    lines += [*_decided(rows), "![Success by category](radar.png)", ""]
    lines += ["![Seconds an edit](latency.png)", ""] * bool(times)
    for stem, title in STUDIES.items():
        if known := [*study.load(folder / f"{stem}.json").values()]:
            lines += [f"## {title}", "", f"Made by `python -m minikontext.bench.study {stem}`: "
                      f"{known[0].cases}, {len(known[0].seeds)} seed(s)."]  # fmt: skip
            if len(known[0].seeds) > 1 and not all(row.outcomes for row in known):
                lines[-1] += (" Stored without outcomes: in the intervals a case's seeds are one, "
                              "and rows are compared as if their cases were others.")  # fmt: skip
            lines += ["", study.table(known), ""]
            decided = study.compared(known)
            heading = "Beside the first row, decided by `bench.compare`:"
            lines += [heading, "", *(f"- {line}" for line in decided), ""] * bool(decided)
    if facts := report.read_json(folder / "multiturn.json"):
        drifts = multiturn.load(folder / "multiturn.json")
        chains = next(iter(drifts.values())).chains
        lines += ["## Edits in a row", ""]
        lines += [f"{facts['weights']}, {facts['steps']} steps, {chains} chains.", ""]
        lines += [multiturn.table(drifts), "", multiturn.decided(drifts), ""]
        lines += ["![Drift by turn](multiturn.png)", ""]
    if (folder / "diversity.json").exists():
        known = diversity.load(folder / "diversity.json")
        lines += ["## Variety", "", "Right answers to open prompts, over the seeds.", ""]
        decided = diversity.compared(known)
        lines += [diversity.table(known), "", *decided, *[""] * bool(decided)]
    for stem, title in MORE_TABLES.items():
        if (folder / f"{stem}.md").exists():
            lines += [f"## {title}", "", (folder / f"{stem}.md").read_text().strip(), ""]
    return "\n".join(lines)


def _decided(rows: dict[str, Row]) -> list[str]:
    """Rows of all cases with outcomes beside the first of them, and all others by their shares."""
    measured = [row for row in _edited(rows) if row.outcomes]
    whole = [row for row in measured if len(row.outcomes[0]) == len(bases())]
    if len(whole) < 2:
        return []
    lines = study.compared(whole, bases())
    return ["Paired by case, clustered by base scene:", "", *(f"- {line}" for line in lines), ""]


def _intervals(rows: dict[str, Row]) -> str:
    """What the intervals take into account."""
    if all(row.outcomes for row in rows.values()):
        return "Intervals: 95 %, clustered by base scene."
    return (
        "Intervals: 95 %. Rows that were stored before outcomes were kept take the cases of one "
        "base scene as independent, which is too narrow; `--again --store` measures them anew."
    )


def table(rows: dict[str, Row], times: dict[str, dict]) -> str:
    """Success in percent, in all and by category, and seconds an edit."""
    tasks = list(dict.fromkeys(t for row in rows.values() for t in row.report.by_task))
    head = ["", "cases", "success", "95 % interval", "followed", *tasks, "s an edit"]
    lines = []
    for name, row in rows.items():
        r = row.report
        cells = [name, r.cases, r.success, report.span(row.interval), r.followed]
        cells += [r.by_task.get(task) for task in tasks]
        lines.append([*cells, times.get(name, {}).get("per_edit")])
    return report.table(head, lines)


def radar(rows: dict[str, Row]) -> Figure:
    """Success by category: one wheel for each weights folder, the darker the more steps."""
    edited = _edited(rows)
    tasks = list(dict.fromkeys(t for row in edited for t in row.report.by_task))
    angles = np.linspace(0, 2 * np.pi, len(tasks), endpoint=False)
    names = list(dict.fromkeys(row.setting.weights for row in edited))
    columns = min(2, len(names))
    figure = Figure(figsize=(4.2 * columns, 3.9 * -(-len(names) // columns)), layout="constrained")
    for i, name in enumerate(names):
        axes = figure.add_subplot(-(-len(names) // columns), columns, i + 1, projection="polar")
        mine = [row for row in edited if row.setting.weights == name]
        for row, shade in zip(mine, np.linspace(0.35, 0.95, len(mine))):
            values = [row.report.by_task.get(task, np.nan) for task in tasks]
            axes.plot([*angles, angles[0]], [*values, values[0]], marker=".", color=SHADES(shade),
                      label=f"{row.setting.steps} steps")  # fmt: skip
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
    times = report.read_json(folder / "latency.json", {})
    report.write_figure(radar(rows), folder / "radar.png")
    if times:
        report.write_figure(latency(times), folder / "latency.png")
    report.write_text(page(rows, times, folder), folder / "README.md")
    return folder / "README.md"


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.results"
) -> None:
    """Command line: measure and write the page."""
    parser = report.parser(
        prog, "MiniKontextBench, scored exactly.", weights=..., steps=..., seed=0
    )
    parser.add_argument("--weights", nargs="+", help="names or folders (default: all shipped)")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 10], help="(default: 4 10)")
    parser.add_argument("--every", type=int, default=1, help="only every n-th case (default: 1)")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--clock", action="store_true", help="only time the rows that are there")
    options = parser.parse_args(arguments)
    report.positive(options, "every", "steps")
    folder = report.folder(options, part_name(options.every, options.seed))
    if options.clock:
        rows = study.load(folder / "results.json")
        if not _edited(rows):
            raise ConfigError(f"--clock times rows that are there, and {folder} has none.")
        report.write_json(timed(rows), folder / "latency.json")
    else:
        names = shipped() if options.weights is None else options.weights
        rows = run(names, options.steps, folder, options.every, options.seed, options.again)
    print(write_page(rows, folder).read_text())


if __name__ == "__main__":
    main()
