"""What came out of the ablations, which `python -m benchmarks.ablations` trains.

Small editors, equal budgets, one thing changed each time. Studies: how the context gets in, how far
it lies in virtual time, how training times are drawn. Notebooks 02, 03 and 05 show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from minikontext.bench import report

STORED = report.STORED / "ablations.json"


@dataclass(frozen=True)
class Run:
    """One training of one variant; curve: (samples seen, loss on held-out cases)."""

    study: str
    variant: str
    seed: int
    success: float
    followed: float
    psnr_untouched: float
    curve: list[tuple[int, float]] = field(default_factory=list)


def load(path: Path = STORED) -> list[Run]:
    """The runs in a file; without a path, those that the notebooks show."""
    return [Run(**values) for values in report.read_json(path)["runs"]]


def values(runs: list[Run], name: str, variant: str, what: str = "success") -> list[float]:
    """A number of a variant, one for each seed: success, followed, psnr_untouched or loss."""
    mine = [run for run in runs if (run.study, run.variant) == (name, variant)]
    return [run.curve[-1][1] if what == "loss" else getattr(run, what) for run in mine]


def _variants(runs: list[Run], name: str) -> list[str]:
    return list(dict.fromkeys(run.variant for run in runs if run.study == name))


def table(runs: list[Run], name: str) -> str:
    """Mean and spread (lowest to highest) over the seeds, as a Markdown table."""
    rows = []
    for label in _variants(runs, name):
        mine, losses = (values(runs, name, label, what) for what in ("success", "loss"))
        mean, last = (sum(v) / len(v) for v in (mine, losses))
        spread = f"{min(mine):.1f} to {max(mine):.1f}"
        rows.append((label, len(mine), f"{mean:.1f}", spread, f"{last:.4f}"))
    return report.table(("variant", "seeds", "success %", "spread", "last loss"), rows)


def plot(runs: list[Run], name: str) -> Figure:
    """The held-out loss of every run of a study against the samples seen."""
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for i, label in enumerate(_variants(runs, name)):
        mine = [run for run in runs if (run.study, run.variant) == (name, label)]
        for run in mine:
            seen, loss = zip(*run.curve, strict=True)
            axes.plot(seen, loss, color=f"C{i}", label=label if run is mine[0] else None)
    axes.set(xlabel="training samples", ylabel="held-out loss", yscale="log")
    axes.legend()
    return figure
