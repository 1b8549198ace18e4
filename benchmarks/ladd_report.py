"""What came out of the LADD laboratory, and what of it is decided: see `benchmarks.ladd_lab`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from minikontext.bench import compare, report

STEPS = (1, 2, 4, 8)
ANOTHER_TEACHER = ("weights:toy-max",)  # students of one: beside `toy` they test no claim


@dataclass(frozen=True)
class Claim:
    """What distillation is said to buy, written down before a run.

    pairs: of the teacher's steps and the student's. margin: how far below "as often" may lie, a
    share: as wide as the intervals of some hundred cases. distinct: the share of the teacher's
    distinct answers that must be left with the student's `variety` steps.
    """

    words: str = "at half the steps a distilled student passes as often as its teacher"
    pairs: tuple[tuple[int, int], ...] = ((28, 4), (4, 2), (2, 1))
    margin: float = 0.02
    distinct: float = 0.8
    variety: int = 4

    def __str__(self) -> str:
        pairs = ", ".join(f"{many} → {few}" for many, few in self.pairs)
        return (
            f"{self.words[0].upper()}{self.words[1:]} ({pairs} steps), which is to say at most "
            f"{100 * self.margin:g} points less often, with at least {100 * self.distinct:g} % of "
            f"its distinct answers. The teacher is sampled as it made the answers, with guidance."
        )


CLAIM = Claim()


@dataclass(frozen=True)
class Run:
    """What came of an arm and a seed: outcomes by steps (a 0 or 1 a case), distinct answers of each
    open prompt, the thinned log, and what went wrong, if anything. varied, sure: by steps, distinct
    answers of each open prompt, and percent of right ones of each closed prompt, of more seeds.
    weights: the fingerprint of those that were examined as they are."""

    arm: str
    seed: int
    outcomes: dict[str, str] = field(default_factory=dict)
    distinct: list[float] = field(default_factory=list)
    log: list[dict[str, float]] = field(default_factory=list)
    error: str = ""
    weights: str = ""
    varied: dict[str, list[float]] = field(default_factory=dict)
    sure: dict[str, list[float]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Its key in the file."""
        return f"{self.arm} / {self.seed}"


def values(runs: list[Run], steps: int, rows: np.ndarray | slice) -> np.ndarray:
    """Outcomes (seeds, cases) of an arm with so many steps, of some of the cases."""
    stored = [run.outcomes[str(steps)] for run in runs if str(steps) in run.outcomes]
    found = [[int(one) for one in outcomes] for outcomes in stored]
    return np.array(found, dtype=float)[:, rows] if found else np.zeros((0, 1))


def beside(first: np.ndarray, second: np.ndarray) -> compare.Comparison:
    """Two arms on the same cases; the fewer seeds come again, and a case is a cluster."""
    seeds = max(len(first), len(second))
    one, two = (np.resize(x, (seeds, x.shape[1])) for x in (first, second))
    return compare.paired(one.ravel(), two.ravel(), [*range(one.shape[1])] * seeds)


def page(
    plan: str, runs: dict[str, Run], free: Sequence[bool], prepared: float = 0.0,
    planned: Mapping[str, float] | None = None, draws: int | None = None, many: int = 64,
) -> str:  # fmt: skip
    """Tables for closed and open cases, distinct answers, the discriminator's logs, failures.

    free: whether a case is open, in the order of the outcomes. prepared, planned: see `costs`.
    draws: pictures of each open prompt, of which the distinct answers are counted; many: of each
    prompt, where they are counted by steps.
    """
    arms: dict[str, list[Run]] = {}
    for one in runs.values():
        arms.setdefault(one.arm, []).append(one)
    is_open = np.array(free)
    parts = ["# The LADD laboratory", "Made by `python -m benchmarks.ladd_lab`; not written "
             f"by hand. {plan}"]  # fmt: skip
    parts += ["## The claim, written before the runs", str(CLAIM)]
    if not runs:
        return "\n\n".join([*parts, "No arm has been run yet."])
    parts += [_claims(arms)]
    for title, rows in (("Closed cases", ~is_open), ("Open cases", is_open)):
        parts += [f"## {title}: {rows.sum()}, success %", _successes(arms, rows)]
    parts += ["A word says how an arm does beside the start / beside more flow training, decided "
              "by case: a case is a cluster, with all students that were asked it. So it is said "
              "of these students; others of the same training were not drawn."]  # fmt: skip
    parts += ["## Distinct valid answers of an open prompt", _distincts(arms, draws)]
    parts += _by_steps(arms, many)
    parts += ["## The discriminator at the end", _discriminators(arms)]
    parts += ["## What each arm cost", costs(arms, prepared, planned or {})]
    failed = [one for one in runs.values() if one.error]
    lines = [f"- {one.name}: {one.error} Its log: {_last(one)}" for one in failed]
    return "\n\n".join([*parts, *(["## Failed", *lines] if failed else [])])


def costs(arms: dict[str, list[Run]], prepared: float, planned: Mapping[str, float]) -> str:
    """Steps of every arm, and its minutes.

    prepared: processor minutes of what all arms share, 0 where it lay there already. planned:
    minutes of each arm by what a step cost before the runs.
    """
    rows = []
    for name, runs in arms.items():
        logs = [one.log for one in runs if one.log]
        if logs:
            spent = [float(np.mean([line["processor"] for line in log if "processor" in line] or
                                   [np.nan])) * log[-1]["step"] / 60 for log in logs]  # fmt: skip
            clock = np.mean([log[-1].get("seconds", np.nan) for log in logs]) / 60
            steps = " or ".join(map(str, sorted({int(log[-1]["step"]) for log in logs})))
            plan = f"{planned[name]:.1f}" if name in planned else None
            rows.append([name, steps, plan, f"{np.mean(spent):.1f}", f"{clock:.1f}"])
    minutes = f"{prepared:.1f} minutes without what lay in `--work` already"
    if prepared < 0.05:
        minutes = "whose minutes were not measured, for they lay in `--work` already"
    text = (
        "Minutes of one training. Planned are minutes of the processor: before the runs the arms "
        "took turns, and each got as many steps as take as long as LADD's. Arms whose steps are "
        "alike (μ, Adam's beta) still differ by what that clock differed. Measured are the means "
        "of the seeds while they trained. A busy machine needs more seconds of the processor for "
        "the same step: a run above its plan had not more steps. Not counted: encoding and the "
        f"teacher's answers, made once for all, {minutes}. Flow training needs no answers."
    )
    head = ["", "steps", "planned", "measured, processor", "measured, clock"]
    return f"{text}\n\n" + report.table(head, rows)


def _last(run: Run) -> str:
    """The last line of a log in words."""
    return ", ".join(f"{name} {value}" for name, value in run.log[-1].items()) if run.log else "–"


def _successes(arms: dict[str, list[Run]], rows: np.ndarray) -> str:
    lines, shown = [], (*STEPS, CLAIM.pairs[0][0])
    for name, runs in arms.items():
        cells = []
        for n in shown:
            mine = values(runs, n, rows)
            words = [beside(mine, other).word() if len(mine) and len(other) else "" for other in
                     (values(arms.get(base, []), n, rows) for base in ("start", "flow"))
                     ]  # fmt: skip
            failed = "failed" if any(one.error for one in runs) else None
            share = f"{100 * mine.mean():.1f}" if len(mine) else failed
            plain = name in ("teacher", "start") or not len(mine)
            cells.append(share if plain else f"{share} ({' / '.join(words)})")
        lines.append([name, sum(bool(one.outcomes) for one in runs), *cells])
    return report.table(["", "seeds", *(f"{n} steps" for n in shown)], lines)


def _claims(arms: dict[str, list[Run]]) -> str:
    """Every arm beside the teacher, and what of the claim is decided: "yes", "no" or neither."""
    head = [f"{few} for {many} steps, points" for many, few in CLAIM.pairs]
    lines = []
    for name, runs in arms.items():
        if name == "teacher" or name in ANOTHER_TEACHER:
            continue
        compared = [_beside_teacher(arms, runs, *pair) for pair in CLAIM.pairs]
        found = [(one, _answer(one, CLAIM.margin)) for one in compared if one]
        cells = [f"{100 * one.difference:+.1f} ({word})" for one, word in found]
        words = [word for _, word in found]
        if kept := _kept(arms, runs):
            words += [_answer(kept, 0.0)]
            cells += [words[-1]]
        if len(words) > len(CLAIM.pairs):
            whole = next((w for w in ("no", compare.NOT_DECIDED) if w in words), "yes")
            lines.append([name, *cells, whole])
    distinct = f"{100 * CLAIM.distinct:g} % of the answers with {CLAIM.variety} steps"
    others = ", ".join(f"`{name}`" for name in ANOTHER_TEACHER if name in arms)
    text = f"\n\nNot here: {others}, for another teacher made it. It is in the tables below."
    return report.table(["", *head, distinct, "the claim"], lines) + text * bool(others)


def _answer(found: compare.Comparison, margin: float) -> str:
    """Whether the first is at most `margin` below the second, if that is decided.

    Of fewer than six clusters even the most extreme signs come about by chance too often.
    """
    if found.clusters < 6:
        return compare.NOT_DECIDED
    if found.not_worse(margin):
        return "yes"
    return "no" if found.high < -margin else compare.NOT_DECIDED


def _beside_teacher(
    arms: dict[str, list[Run]], runs: list[Run], many: int, few: int
) -> compare.Comparison | None:
    every = slice(None)
    mine, base = values(runs, few, every), values(arms.get("teacher", []), many, every)
    return beside(mine, base) if len(mine) and len(base) else None


def _kept(arms: dict[str, list[Run]], runs: list[Run]) -> compare.Comparison | None:
    """Distinct answers beside the claim's share of the teacher's, prompt by prompt."""
    base = np.array([one.distinct for one in arms.get("teacher", []) if one.distinct])
    mine = np.array([one.distinct for one in runs if one.distinct])
    return beside(mine, CLAIM.distinct * base) if len(mine) and len(base) else None


def _distincts(arms: dict[str, list[Run]], draws: int | None) -> str:
    """Of each arm, with so many steps: means over its open prompts."""
    lines, asked = [], set()
    for name, runs in arms.items():
        if mine := [one.distinct for one in runs if one.distinct]:
            steps = CLAIM.pairs[0][0] if name == "teacher" else CLAIM.variety
            lines.append([name, steps, f"{np.mean(mine):.1f}"])
            asked |= {len(one) for one in mine}
    seeds = f"of {draws} seeds" if draws else "of the seeds"
    head = f"{seeds}, mean of {' or '.join(map(str, sorted(asked)))} prompts"
    return (
        f"What the claim asks: {CLAIM.variety} steps (the teacher's {CLAIM.pairs[0][0]} are "
        "guided).\n\n"
    ) + report.table(["", "steps", head], lines)


def _by_steps(arms: dict[str, list[Run]], many: int) -> list[str]:
    """Distinct answers of open prompts and right ones of closed ones, by number of steps."""
    if not any(one.varied for runs in arms.values() for one in runs):
        return []
    parts = [f"Of {many} seeds a prompt, where they were drawn. Words as above; a prompt is a "
             "cluster. The teacher is guided."]  # fmt: skip
    titles = {"varied": "Distinct valid answers of an open prompt, by steps",
              "sure": "Right answers of a closed prompt, by steps, %"}  # fmt: skip
    for field_name, title in titles.items():
        found = {name: [getattr(one, field_name) for one in runs if one.varied]
                 for name, runs in arms.items()}  # fmt: skip
        shown = sorted({int(n) for runs in found.values() for one in runs for n in one})
        lines = [
            [name, len(of_seeds), *(_beside_start(found, name, str(n)) for n in shown)]
            for name, of_seeds in found.items() if of_seeds
        ]  # fmt: skip
        head = ["", "seeds", *(f"{n} steps" for n in shown)]
        parts += [f"### {title}", report.table(head, lines)]
    return parts


def _beside_start(found: dict[str, list[dict[str, list[float]]]], name: str, n: str) -> str | None:
    """The mean with n steps, and what is decided beside the start and beside more flow training."""
    mine, start, flow = (
        np.array([one[n] for one in found.get(arm, []) if n in one])
        for arm in (name, "start", "flow")
    )
    if not len(mine):
        return None
    if name in ("teacher", "start"):
        return f"{mine.mean():.1f}"
    words = [beside(mine, base).word() if len(base) else "–" for base in (start, flow)]
    return f"{mine.mean():.1f} ({' / '.join(words)})"


def _discriminators(arms: dict[str, list[Run]]) -> str:
    """2.0 is the loss of heads that know nothing, 50 % what they tell apart."""
    names, lines = ("heads", "told_apart", "on_real", "on_fake", "spread"), []
    for name, runs in arms.items():
        logs = [[line for line in one.log if "heads" in line] for one in runs]
        if any(logs):
            last = [line for log in logs for line in log[-4:]]
            means = [_mean([line.get(key, np.nan) for line in last]) for key in names]
            thirds = [
                [x["heads"] for log in logs for x in np.array_split(log, 3)[i]] for i in range(3)
            ]
            lines.append([name, *means, ", ".join(str(_mean(x)) for x in thirds if x)])
    head = ["", "loss of the heads", "told apart", "on real", "on fake", "spread",
            "loss by thirds of the run"]  # fmt: skip
    return report.table(head, lines)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 3)
