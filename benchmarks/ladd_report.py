"""What came out of the LADD laboratory, and what of it is decided: see `benchmarks.ladd_lab`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from minikontext.bench import compare, report

STEPS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Run:
    """What came of an arm and a seed: outcomes by steps (a 0 or 1 a case), distinct answers of each
    open prompt, the thinned log, and what went wrong, if anything."""

    arm: str
    seed: int
    outcomes: dict[str, str] = field(default_factory=dict)
    distinct: list[float] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)
    error: str = ""

    @property
    def name(self) -> str:
        """Its key in the file."""
        return f"{self.arm} / {self.seed}"


def values(runs: list[Run], steps: int, rows: np.ndarray | slice) -> np.ndarray:
    """Outcomes (seeds, cases) of an arm with so many steps, of some of the cases."""
    found = [[int(one) for one in run.outcomes[str(steps)]] for run in runs if run.outcomes]
    return np.array(found, dtype=float)[:, rows] if found else np.zeros((0, 1))


def beside(first: np.ndarray, second: np.ndarray) -> compare.Comparison:
    """Two arms on the same cases; the fewer seeds come again, and a case is a cluster."""
    seeds = max(len(first), len(second))
    one, two = (np.resize(x, (seeds, x.shape[1])) for x in (first, second))
    return compare.paired(one.ravel(), two.ravel(), [*range(one.shape[1])] * seeds)


def page(plan: str, runs: dict[str, Run], free: Sequence[bool]) -> str:
    """Tables for closed and open cases, distinct answers, the discriminator's logs, failures.

    free: whether a case is open, in the order of the outcomes.
    """
    arms: dict[str, list[Run]] = {}
    for one in runs.values():
        arms.setdefault(one.arm, []).append(one)
    is_open = np.array(free)
    parts = ["# The LADD laboratory", "Made by `python -m benchmarks.ladd_lab`; not written "
             f"by hand. {plan}", "A word says how an arm does beside the start / beside more flow "
             "training, decided by case, training seeds as clusters."]  # fmt: skip
    for title, rows in (("Closed cases", ~is_open), ("Open cases", is_open)):
        parts += [f"## {title}: {rows.sum()}, success %", _successes(arms, rows)]
    parts += ["## At half the steps, beside the start, points", _halves(arms)]
    parts += ["## Distinct valid answers of an open prompt, with four steps", _distincts(arms)]
    parts += ["## The discriminator at the end", _discriminators(arms)]
    failed = [f"- {one.name}: {one.error}" for one in runs.values() if one.error]
    return "\n\n".join([*parts, *(["## Failed", *failed] if failed else [])])


def _successes(arms: dict[str, list[Run]], rows: np.ndarray) -> str:
    lines = []
    for name, runs in arms.items():
        cells = []
        for n in STEPS:
            mine = values(runs, n, rows)
            words = [beside(mine, other).word() if len(mine) and len(other) else "" for other in
                     (values(arms.get(base, []), n, rows) for base in ("start", "flow"))
                     ]  # fmt: skip
            share = f"{100 * mine.mean():.1f}" if len(mine) else "failed"
            plain = name == "start" or not len(mine)
            cells.append(share if plain else f"{share} ({' / '.join(words)})")
        lines.append([name, sum(bool(one.outcomes) for one in runs), *cells])
    return report.table(["", "seeds", *(f"{n} steps" for n in STEPS)], lines)


def _halves(arms: dict[str, list[Run]]) -> str:
    """The claim of distillation: as often as the start with twice the steps, a point at most below.

    "no" is worse, decided; "yes" is not more than a point worse, decided.
    """
    lines, pairs, every = [], [*pairwise(STEPS)], slice(None)
    for name, runs in arms.items():
        cells = []
        for few, many in pairs:
            mine, base = values(runs, few, every), values(arms.get("start", []), many, every)
            if len(mine) and len(base):
                found = beside(mine, base)
                word = "yes" if found.not_worse(0.01) else "no" if found.word() == "worse" else \
                    compare.NOT_DECIDED  # fmt: skip
                cells.append(f"{100 * found.difference:+.1f} ({word})")
        lines.append([name, *cells])
    return report.table(["", *(f"{few} for {many}" for few, many in pairs)], lines)


def _distincts(arms: dict[str, list[Run]]) -> str:
    """Also whether at least 80 % of the start's are left, prompt by prompt."""
    base, lines = np.array([one.distinct for one in arms.get("start", [])]), []
    for name, runs in arms.items():
        mine = np.array([one.distinct for one in runs if one.distinct])
        if len(mine):
            word = beside(mine, 0.8 * base).word() if len(base) and name != "start" else ""
            lines.append([name, f"{mine.mean():.1f}", word])
    return report.table(["", "of each prompt, mean", "beside 80 % of the start's"], lines)


def _discriminators(arms: dict[str, list[Run]]) -> str:
    """2.0 is the loss of heads that know nothing, 50 % what they tell apart."""
    names, lines = ("heads", "told_apart", "on_real", "on_fake", "spread"), []
    for name, runs in arms.items():
        last = [line for one in runs for line in one.log[-4:] if "heads" in line]
        if last:
            means = [
                round(float(np.mean([line.get(key, np.nan) for line in last])), 3) for key in names
            ]
            lines.append([name, *means])
    return report.table(["", "loss of the heads", "told apart", "on real", "on fake", "spread"],
                        lines)  # fmt: skip
