"""One thing changed at a time: small editors of the lineage, equal steps, the same dev cases.

`python -m benchmarks.variants configs/lineage/variants.toml --set training.mu_16=0.46,1.2
--seeds 3 --sizes 64x64 --cases 200 --store`

Every value after `--set` is a variant, trained with each seed in a folder of its own below the
config's `run`, and measured by `benchmarks.sizes`. What is done is kept: the same command goes on,
and what the config itself says, `base`, is trained once for all tables.
With the same seed all variants see the same pairs in the same order, so they are compared in pairs.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from benchmarks.sizes import Row, cases_of, measure
from minikontext.bench import report
from minikontext.bench.compare import NOT_DECIDED, paired
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.toyworld import sizes
from minikontext.training import build_job, read_config, run_job
from minikontext.training.jobs import WorldEditorJob, tomllib
from minikontext.training.models import find_autoencoder, load_autoencoder
from minikontext.training.runs import require_same_config
from minikontext.training.store import headers
from minikontext.training.stream import Stream


@dataclass(frozen=True)
class Result:
    """What a variant of one seed reached at each size."""

    setting: str
    value: str
    seed: int
    rows: list[Row]
    tasks: list[str] = field(default_factory=list)  # of each case

    @property
    def success(self) -> float:
        """The mean success rate over the sizes, in percent."""
        return float(np.mean([row.success for row in self.rows]))

    @property
    def outcomes(self) -> list[int]:
        """A 1 or a 0 for every case at every size."""
        return [int(one) for row in self.rows for one in row.outcomes]

    @property
    def cases(self) -> list[int]:
        """The number of the case of each outcome: of all sizes and seeds one cluster."""
        return [number for row in self.rows for number in range(len(row.outcomes))]

    @property
    def psnr(self) -> float:
        """The mean PSNR over the sizes, in dB."""
        return float(np.mean([row.psnr for row in self.rows]))


def variants(text: str) -> list[tuple[str, Any]]:
    """ "training.mu_16=0.46,1.2" as (path, value) pairs, each value as TOML has it.

    Raises ConfigError for anything else.
    """
    path, _, values = text.partition("=")
    try:
        return [(path, tomllib.loads(f"x = {value}")["x"]) for value in values.split(",")]
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--set {text}: give section.name=value,value: {error}") from error


def changed(config: dict[str, Any], path: str, value: Any, seed: int) -> dict[str, Any]:
    """The config with one entry changed, another seed, and a folder of its own."""
    config = copy.deepcopy(config)
    *sections, name = path.split(".")
    place = config
    for section in sections:
        place = place.setdefault(section, {})
    label = "base" if place.get(name) == value else f"{path}={value}"
    place[name] = value
    config["seed"] = config.get("seed", 0) + seed
    training = config.setdefault("training", {})
    training["seed"] = training.get("seed", 0) + seed
    folder = Path(config["run"]) / label / f"seed-{seed}"
    return config | {"run": str(folder), "output": str(folder / "weights")}


def examine(
    config: dict[str, Any], path: str, value: Any, seed: int, shapes: Sequence[sizes.Size],
    count: int, pictures: int | None = None, **call: Any,
) -> Result:  # fmt: skip
    """Train one variant with one seed and measure it on the first dev cases of so many pictures.

    Raises TrainingError for one that is there of another config.
    """
    mine = changed(config, path, value, seed)
    job, folder = build_job(mine), Path(mine["output"])
    require_same_config(job)
    done = [int(facts["step"]) for facts in headers(job.folder).values() if facts]
    if not files.exists(folder / "config.json") or max(done, default=0) != job.loop.steps:
        encode(job, Path(config["run"]) / "streams")
        run_job(job)
    pipe = KontextPipeline.from_pretrained(folder)
    cases = cases_of(count, job.stream.level, "dev", pictures=pictures)
    rows = [measure(pipe, cases, s, **call) for s in shapes]
    return Result(path, str(value), seed, rows, [case.task for case in cases])


def encode(job: WorldEditorJob, folder: Path) -> None:
    """Encode a variant's batches, once for all variants of the same stream.

    Its folder of batches is a link to the one that they share.
    """
    said = json.dumps([asdict(job.stream), job.autoencoder], sort_keys=True)
    place = folder / hashlib.sha256(said.encode()).hexdigest()[:12]
    model = load_autoencoder(find_autoencoder(job.autoencoder), torch.device("cpu"))
    stream = Stream(job.stream, model, place, job.training.bf16)
    for number in tqdm(range(job.stream.batches), "encoding", leave=False):
        stream.batch(number)
    own = job.folder / "stream"
    own.parent.mkdir(parents=True, exist_ok=True)
    if not own.exists():
        own.symlink_to(place.resolve(), target_is_directory=True)


def table(results: Sequence[Result]) -> str:
    """Every variant with its mean over seeds, and whether it differs from the first, in pairs."""
    lines: list[tuple[object, ...]] = []
    first = {r.seed: r for r in results if r.value == results[0].value}
    for value in dict.fromkeys(r.value for r in results):
        mine = [r for r in results if r.value == value and r.seed in first]
        success, psnr = (np.mean([getattr(r, n) for r in mine]) for n in ("success", "psnr"))
        shown = against([first[r.seed] for r in mine], mine) if mine[0] is not results[0] else None
        name = f"{mine[0].setting} = {value}"
        lines.append((name, len(mine), f"{success:.1f}", f"{psnr:.2f}", shown))
    return report.table(("variant", "seeds", "success %", "PSNR dB", "against the first"), lines)


def by_task(results: Sequence[Result]) -> str:
    """Success in percent by the kind of task, mean over seeds and sizes, variants as columns."""
    values = [*dict.fromkeys(r.value for r in results)]
    lines = []
    for task in sorted(set(results[0].tasks)):
        found: list[object] = [task, results[0].tasks.count(task)]
        for value in values:
            rows = ((row.outcomes, r.tasks) for r in results if r.value == value for row in r.rows)
            hits = [int(hit) for pair in rows for hit, its in zip(*pair) if its == task]
            found.append(f"{100 * np.mean(hits):.1f}")
        lines.append(found)
    return report.table(("task", "cases", *values), lines)


def page(stored: dict[str, Any]) -> str:
    """All stored tables: what was changed, by how much it differs, by which task."""
    text = ["# One thing changed at a time", "Made by `python -m benchmarks.variants … --store`; "
            "not written by hand. Small editors from nothing, equal steps, the same batches, the "
            "first dev cases. What is decided is decided by case: a case's seeds are a cluster. "
            "The shares by task are shown, not compared."]  # fmt: skip
    for setting, one in stored.items():
        results = [Result(**{**r, "rows": [Row(**row) for row in r["rows"]]})
                   for r in one["results"]]  # fmt: skip
        text += [f"## {setting}", one["about"], table(results), by_task(results)]
    return "\n\n".join(text)


def about(options: argparse.Namespace) -> str:
    """What the measurements of a table share."""
    shapes = ", ".join(f"{w} × {h}" for w, h in options.sizes)
    pictures = "any number of" if options.pictures is None else options.pictures
    return (f"{options.config.as_posix()}; {options.seeds} seeds, {options.cases} cases at {shapes}"
            f" with {pictures} pictures{' of sizes of their own' * options.own}, {options.steps} "
            "sampling steps.")  # fmt: skip


def against(first: Sequence[Result], others: Sequence[Result]) -> str:
    """The difference to the first variant in points: same cases, same seeds."""
    pairs = [[one for r in some for one in r.outcomes] for some in (others, first)]
    found = paired(*pairs, clusters=[number for r in first for number in r.cases])
    low, high = (f"{100 * x:+.1f}" for x in (found.low, found.high))
    decided = "decided" if found.decided else NOT_DECIDED
    return f"{100 * found.difference:+.1f} ({low} to {high}), {decided}"


def main(arguments: list[str] | None = None) -> list[Result]:
    """Command line: train and measure all variants, and print the table after each."""
    parser = report.parser("python -m benchmarks.variants", __doc__, weights=..., steps=12,
                           seed=...)  # fmt: skip
    parser.add_argument("config", type=Path, help="of kind world_editor, to change one entry of")
    parser.add_argument("--set", required=True, type=variants, help="section.name=value,value,…")
    parser.add_argument("--seeds", type=int, default=1, help="of each variant (default: 1)")
    parser.add_argument("--sizes", type=sizes.parse, default="64x64", help=sizes.parse.__doc__)
    parser.add_argument("--cases", type=int, default=200, help="at each size (default: 200)")
    parser.add_argument("--own", action="store_true", help="contexts have sizes of their own")
    parser.add_argument("--pictures", type=int, help="context pictures (default: all numbers)")
    options = parser.parse_args(arguments)
    report.positive(options, "seeds", "cases", "steps")
    few = {"few cases": options.cases < 100, "few seeds": options.seeds < 3}
    part = " ".join(name for name, there in few.items() if there)
    place = report.folder(options, part) / "variants.json"
    config, own = read_config(options.config, ("world_editor",)), options.own
    call = {"pictures": options.pictures, "own": own, "num_inference_steps": options.steps}
    stored, results = report.read_json(place, {}), list[Result]()
    for seed in range(options.seeds):
        for path, value in options.set:
            results.append(examine(config, path, value, seed, options.sizes, options.cases, **call))
            print(table(results))
            found = {"about": about(options), "results": [asdict(one) for one in results]}
            stored[path] = found  # what was measured stays, whatever comes
            report.write_json(stored, place)
            report.write_text(page(stored), place.with_suffix(".md"))
    return results


if __name__ == "__main__":
    main()
