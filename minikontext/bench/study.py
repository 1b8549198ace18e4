"""A study: cases × sampler settings × seeds, scored by the oracle, one stored row a setting.

`python -m minikontext.bench.study students` (what distillation buys), `... caching` (what step
caching skips and costs), or any settings:
`python -m minikontext.bench.study mine --settings toy:28:cfg=1.5 toy-pro:4 --cases 200 --seeds 2`

A row that is there is kept, so that a study can be gone on with. Every row keeps the outcome of
each case and seed: intervals are clustered, and comparisons paired, by `bench.compare`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from minikontext.bench import compare, report
from minikontext.bench.oracle_bench import Report, called, edit_all, held_out_cases, summarise
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import config_fingerprint
from minikontext.runtime.step_cache import StepCache
from minikontext.toyworld import Case, psnr, score

CHUNK = 192  # cases whose answers are scored together: the oracle renders their scenes once


@dataclass(frozen=True)
class SamplerSetting:
    """One way of making pictures: weights, steps, guidance of one kind or none, a step cache.

    cfg: classifier-free guidance, two passes a step. guidance: the scale as the student's input.
    cache, order: the step cache's threshold and order. edits: only cases with a context image.
    """

    weights: str
    steps: int
    cfg: float | None = 1.0
    guidance: float | None = None
    edits: bool = False
    cache: float | None = None
    order: int = 1

    @classmethod
    def parse(cls, text: str) -> SamplerSetting:
        """Read `weights:steps[:name=number,…]`, as in toy:28:cfg=1.5. Raises ConfigError."""
        weights, _, rest = text.partition(":")
        steps, _, more = rest.partition(":")
        pairs = dict(pair.partition("=")[::2] for pair in more.split(",") if pair)
        try:
            numbers = {name: float(value or 1) for name, value in pairs.items()}
            numbers |= {n: kind(numbers[n]) for n, kind in (("edits", bool), ("order", int))
                        if n in numbers}  # fmt: skip
            return cls(weights, int(steps), **numbers)
        except (TypeError, ValueError) as error:
            known = ", ".join(one.name for one in fields(cls)[2:])
            raise ConfigError(
                f"Got the setting {text!r}; expected weights:steps, then :name=number with {known},"
                " as in toy:28:cfg=1.5"
            ) from error

    @property
    def evaluations(self) -> int:
        """Passes through the transformer for one picture, cached ones included."""
        return self.steps * (1 if self.cfg in (None, 1) else 2)

    def __str__(self) -> str:
        how = f", CFG {self.cfg:g}" if self.cfg not in (None, 1) else ""
        how += f", w = {self.guidance:g}" if self.guidance is not None else ""
        how += f", cache {self.cache:g}" if self.cache else ""
        how += ", order 0" if self.order == 0 else ""
        return f"{self.weights}, {self.steps} steps{how}" + (", edits only" if self.edits else "")

    def new_cache(self) -> StepCache | None:
        """A step cache of its threshold and order, or none."""
        return StepCache(self.cache, self.order) if self.cache else None

    def call(self, cache: StepCache | None = None) -> dict[str, object]:
        """The pipeline's arguments; a scale of None is the weights' own."""
        scales = {"true_cfg_scale": self.cfg, "guidance_scale": self.guidance}
        return {"num_inference_steps": self.steps, "step_cache": cache, **scales}


@dataclass(frozen=True)
class Row:
    """What came out of a setting, over all seeds; shares in percent.

    cases: the name of their set. outcomes: for each seed, one 0 or 1 a case. psnr: in dB to the
    pictures of the study's first setting, 60 where they are equal, and the lowest of all cases.
    skipped: passes that a step cache left out. fingerprint, config: of the weights, and of what
    else their config says; results of before have no config.
    """

    setting: SamplerSetting
    fingerprint: str
    cases: str
    report: Report
    seeds: list[float]
    outcomes: list[str] = field(default_factory=list)
    psnr: float | None = None
    lowest: float | None = None
    skipped: float | None = None
    config: str = ""

    @property
    def name(self) -> str:
        """What the row is called in tables and files."""
        return str(self.setting) if self.setting.steps else self.setting.weights

    @property
    def success(self) -> float:
        """Cases that pass, in percent, the mean over the seeds."""
        return self.report.success

    @property
    def interval(self) -> tuple[float, float]:
        """Where success lies with 95 % confidence.

        Where none was stored, nobody knows how alike the seeds of a case are: they count as one.
        """
        if self.report.interval:
            return self.report.interval
        cases = self.report.cases // len(self.seeds)
        careful = compare.wilson(self.success / 100 * cases, cases)
        return round(careful.low, 1), round(careful.high, 1)

    @property
    def whole(self) -> float:
        """Passes of one branch that a step cache left."""
        return round(self.setting.steps * (1 - (self.skipped or 0) / 100), 1)

    @property
    def weakest(self) -> str:
        """The task with the least success, and its success."""
        tasks = self.report.by_task
        return "{} {}".format(*min(tasks.items(), key=lambda item: item[1])) if tasks else ""

    def values(self) -> np.ndarray:
        """All outcomes, seed by seed. Raises ConfigError for a row that was stored without them."""
        if not self.outcomes:
            raise ConfigError(f"{self.name}: stored without outcomes; measure it again (--again).")
        return np.array([int(one) for seed in self.outcomes for one in seed], dtype=float)


def measure(
    pipe: KontextPipeline, setting: SamplerSetting, cases: Sequence[Case], label: str,
    seeds: Sequence[int] = (0,), clusters: Sequence[Hashable] | None = None, batch: int = 64,
    first: Sequence[Image.Image] | None = None,
) -> tuple[Row, list[Image.Image]]:  # fmt: skip
    """Edit and score every case with every seed; also the pictures of the first seed.

    clusters: what each case belongs to, where cases share a base scene; else each is its own.
    first: pictures to compare with, of the setting's cases. Caching is decided for a whole batch:
    give a batch of 1.
    """
    mine = [i for i, case in enumerate(cases) if case.contexts or not setting.edits]
    cache = setting.new_cache()
    scored: dict[int, list] = {seed: [] for seed in seeds}
    shown: list[Image.Image] = []
    for start in tqdm(range(0, len(mine), CHUNK), str(setting)):
        some = [cases[i] for i in mine[start : start + CHUNK]]
        for seed in seeds:
            results = edit_all(pipe, some, batch, seed, start, quiet=True, **setting.call(cache))
            shown += results if seed == seeds[0] else []
            scored[seed] += [(c, score(p, c)) for c, p in zip(some, results, strict=True)]
    names = [(clusters or range(len(cases)))[i] for i in mine] * len(seeds)
    whole = summarise([row for rows in scored.values() for row in rows], clusters=names)
    near = [psnr(np.asarray(a), np.asarray(b)) for a, b in zip(shown, first or [])]
    return Row(
        setting, pipe.weights_fingerprint, label, whole,
        [summarise(rows).success for rows in scored.values()],
        ["".join(str(int(s.success)) for _, s in rows) for rows in scored.values()],
        round(float(np.mean(near)), 1) if near else None,
        round(float(min(near)), 1) if near else None,
        round(100 * cache.share, 1) if cache else 0.0 if near else None, config_fingerprint(pipe),
    ), shown  # fmt: skip


def run(
    settings: Sequence[SamplerSetting], cases: Sequence[Case], label: str, place: Path,
    seeds: int = 1, clusters: Sequence[Hashable] | None = None, batch: int = 64,
    near: bool = False, again: bool = False, load_pipe: Callable = KontextPipeline.from_pretrained,
) -> dict[str, Row]:  # fmt: skip
    """Measure what is missing in `place`, and store each row when it is there; others stay.

    near: also compare pictures with those of the first setting, of the same cases and noise.
    batch: is 1 where any setting has a step cache, so that each picture has its own.
    """
    rows, first = load(place), {}
    batch = 1 if any(setting.cache for setting in settings) else batch
    load_once = lru_cache(maxsize=None)(load_pipe)
    for setting in settings:
        pipe = load_once(setting.weights)
        setting = replace(setting, weights=called(pipe, setting.weights))
        if not again and fresh(rows.get(str(setting)), pipe, label, seeds):
            continue
        if near and setting.edits not in first:
            some = [case for case in cases if case.contexts or not setting.edits]
            base, how = (load_once(settings[0].weights), some, batch), settings[0]
            first[setting.edits] = edit_all(*base, quiet=True, **how.call(how.new_cache()))
        shown = first.get(setting.edits)
        row, _ = measure(pipe, setting, cases, label, range(seeds), clusters, batch, shown)
        rows[row.name] = row
        save(rows, place)
    return rows


def fresh(row: Row | None, pipe: KontextPipeline, label: str, seeds: int) -> bool:
    """Whether a row is there, and of these weights, defaults, cases and seeds."""
    wanted = (pipe.weights_fingerprint, label, seeds)
    if row is None or (row.fingerprint, row.cases, len(row.seeds)) != wanted:
        return False
    return row.config in ("", config_fingerprint(pipe))


def save(rows: dict[str, Row], place: Path) -> None:
    """Write the rows as JSON."""
    report.write_json([asdict(row) for row in rows.values()], place)


def load(place: Path | str = "students") -> dict[str, Row]:
    """The rows of a file by name, or of a stored study; none if there is no such file."""
    path = report.STORED / f"{place}.json" if isinstance(place, str) else place
    return {row.name: row for row in map(_row, report.read_json(path, []))}


def _row(stored: dict) -> Row:
    values = stored["report"]
    found = Report(**values | {"interval": values["interval"] and tuple(values["interval"])})
    return Row(**stored | {"setting": SamplerSetting(**stored["setting"]), "report": found})


def compared(rows: Sequence[Row], clusters: Sequence[Hashable] | None = None) -> list[str]:
    """Each row beside the first: who is better, or "not decided"; see `between`.

    Rows of other cases or seeds are left out.
    """
    base, *others = rows
    known = [
        r for r in others if (r.report.cases, len(r.seeds)) == (base.report.cases, len(base.seeds))
    ]
    return [between(r, base, clusters).verdict(r.name, base.name) for r in known]


def between(
    first: Row, second: Row, clusters: Sequence[Hashable] | None = None
) -> compare.Comparison:
    """Two rows of the same cases: paired by case and seed, where outcomes are stored.

    Where they are not, as if the cases were others, and each case counts once: see `of_rates`. With
    clusters it counts for less, by the design effect of the row that has outcomes; raises
    ConfigError where neither has, for then nobody knows how alike the cases of a cluster are.
    """
    if first.outcomes and [*map(len, first.outcomes)] == [*map(len, second.outcomes)]:
        names = [*(clusters or range(len(first.outcomes[0])))] * len(first.outcomes)
        return compare.paired(first.values(), second.values(), names)
    effect = 1.0 if clusters is None else _effect((first, second), clusters)
    cases = (row.report.cases // len(row.seeds) / effect for row in (first, second))
    shares = zip((first.success, second.success), cases)
    return compare.of_rates(*(compare.wilson(p / 100 * n, round(n)) for p, n in shares))


def _effect(rows: Sequence[Row], clusters: Sequence[Hashable]) -> float:
    """By how much clusters widen the variance, the most of the rows that can tell."""
    known = [row for row in rows if row.outcomes and len(row.outcomes[0]) == len(clusters)]
    if not known:
        names = " and ".join(row.name for row in rows)
        raise ConfigError(
            f"{names}: stored without outcomes, so their clusters cannot be taken into account. "
            "Measure one again (--again), or compare without clusters."
        )
    found = (compare.design_effect(r.values(), [*clusters] * len(r.outcomes)) for r in known)
    return float(max(1.0, *found))


# ---------------------------------------------------------------- what came out


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; columns that no row fills are left out."""
    several = any(len(row.seeds) > 1 for row in rows)
    near = any(row.psnr is not None for row in rows)
    columns: dict[str, Callable[[Row], object]] = {
        "": lambda r: r.name,
        "evaluations": lambda r: r.setting.evaluations,
        "success %": lambda r: f"{r.success:.1f}",
        "95 % interval": lambda r: report.span(r.interval),
    }
    if several:
        columns["seeds"] = lambda r: f"{min(r.seeds):.1f} to {max(r.seeds):.1f}"
    if near:
        columns |= {
            "passes skipped %": lambda r: r.skipped, "whole passes": lambda r: r.whole,
            "PSNR to the first, dB": lambda r: r.psnr, "lowest": lambda r: r.lowest,
        }  # fmt: skip
    elif rows:
        columns |= {"PSNR of the rest, dB": lambda r: r.report.psnr_untouched,
                    "followed %": lambda r: r.report.followed,
                    "weakest task": lambda r: r.weakest}  # fmt: skip
    return report.table([*columns], [[cell(row) for cell in columns.values()] for row in rows])


@dataclass(frozen=True)
class Study:
    """Settings in words, and on what they are measured."""

    settings: str
    cases: int
    seeds: int = 1
    batch: int = 64
    near: bool = False


GUIDED = " ".join(
    f"toy:10:cfg={w},edits toy-dev:10:guidance={w},edits" for w in ("1.25", "1.5", "2")
)
STUDIES = {
    "students": Study(
        f"toy:28:cfg=1.5 toy:4 toy-pro:4 toy:2 toy-pro:2 toy:1 toy-pro:1 {GUIDED}", 1000, seeds=3
    ),
    "caching": Study(
        "toy:28 toy:28:cache=0.05 toy:28:cache=0.1 toy:28:cache=0.2 toy:28:cache=0.3 "
        "toy:28:cache=0.1,order=0 toy:28:cache=0.2,order=0 toy:12 toy:6 toy:4",
        100, batch=1, near=True,
    ),
}  # fmt: skip


def main(
    arguments: list[str] | None = None, prog: str = "python -m minikontext.bench.study"
) -> dict[str, Row]:
    """Command line: measure, store, print the table and what it decides."""
    parser = report.parser(prog, __doc__, weights=..., steps=..., seed=...)
    parser.add_argument("name", help=f"{' or '.join(STUDIES)}, or a new one's: names the file")
    parser.add_argument("--settings", nargs="+", help="weights:steps[:name=number,…]")
    parser.add_argument("--cases", type=int, help="held-out cases of level 4")
    parser.add_argument("--seeds", type=int, help="sampling seeds of each case")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    options = parser.parse_args(arguments)
    report.positive(options, "cases", "seeds")
    known = STUDIES.get(options.name, Study("", 200))
    settings = [SamplerSetting.parse(s) for s in options.settings or known.settings.split()]
    if not settings:
        raise ConfigError(f"{options.name} is no known study: give --settings. Known: {STUDIES}")
    count, seeds = options.cases or known.cases, options.seeds or known.seeds
    requested = (
        f"{count} cases {seeds} seeds" if (count, seeds) != (known.cases, known.seeds) else ""
    )
    part = requested if options.name in STUDIES else ""
    place = report.folder(options, part) / f"{options.name}.json"
    rows = run(settings, held_out_cases(count, 4), f"{count} held out", place, seeds,
               batch=known.batch, near=known.near, again=options.again)  # fmt: skip
    print(table([*rows.values()]), *compared([*rows.values()]), sep="\n\n")
    return rows


if __name__ == "__main__":
    main()
