"""A challenge for a class: how well does an editor edit after 30 minutes of training on two cores?

`python -m benchmarks.records make records/baseline/config.toml` trains what a config says
and makes an entry of the config's folder; `… check records/*/` checks entries and measures them.

World, oracle and evaluation are fixed, and an entry says which it was trained for: `rules` is their
fingerprint. Only the training is free. See records/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import logging
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from minikontext import toyworld
from minikontext.bench import compare, oracle_bench, report
from minikontext.errors import ConfigError, MinikontextError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.config import fits_type, parse_json
from minikontext.runtime.log import printable, say
from minikontext.toyworld import Case, score
from minikontext.training.jobs import read_job
from minikontext.training.run import run_job

MINUTES, THREADS = 30.0, 2
LATE = 0.2  # minutes: the last step ends after the time
LEVEL, CASES, SEED, STEPS = 4, 500, 2026, 8
CONFIG, LOG, FACTS, RESULT = "config.toml", "log.jsonl", "entry.json", "result.json"
log = logging.getLogger(__name__)


# ---------------------------------------------------------------- what is fixed


def cases(count: int = CASES) -> list[Case]:
    """The cases of the evaluation: characters that no training shows, 64 × 64 pixels."""
    return oracle_bench.held_out_cases(count, LEVEL, SEED)


def outcomes(pipe: KontextPipeline, chosen: list[Case]) -> list[bool]:
    """Whether the oracle passes each edit: one noise for each case, no guidance."""
    call = {"num_inference_steps": STEPS, "true_cfg_scale": 1.0}
    pictures = oracle_bench.edit_all(pipe, chosen, seed=SEED, **call)
    return [score(made, case).success for made, case in zip(pictures, chosen, strict=True)]


def rules() -> str:
    """SHA-256 of the world with its oracle, and of this evaluation; 16 hex digits of it."""
    numbers = (MINUTES, THREADS, LEVEL, CASES, SEED, STEPS)
    digest = hashlib.sha256(repr(numbers).encode())
    world = Path(toyworld.__file__).parent
    for path in sorted(one for one in world.iterdir() if one.suffix in (".py", ".toml")):
        digest.update(f"{path.name}\n{path.read_text(encoding='utf-8')}".encode())
    for function in (cases, outcomes, oracle_bench.held_out_cases, oracle_bench.edit_all):
        digest.update(inspect.getsource(function).encode())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- an entry


@dataclass(frozen=True)
class Result:
    """What an entry reached: success in percent with its interval, and the minutes it took."""

    success: float
    interval: tuple[float, float]
    cases: int
    minutes: float
    rules: str


def minutes_of(path: Path) -> float:
    """The minutes that a log tells. Raises ConfigError unless its steps and seconds only rise."""
    try:
        lines = [parse_json(line) for line in files.read_text(path).splitlines()]
        counts = [(float(one["step"]), float(one["seconds"])) for one in lines]
    except (OSError, ValueError, ArithmeticError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: no log of steps and seconds: {error!s:.100}") from error
    rises = all(a[0] < b[0] and a[1] <= b[1] for a, b in pairwise([(-1.0, 0.0), *counts]))
    if not counts or not rises or not math.isfinite(counts[-1][1]):
        raise ConfigError(f"{path}: expected one run, in which steps and seconds only rise")
    return counts[-1][1] / 60


def complaints(entry: Path) -> Iterator[str]:
    """Why an entry does not count, all but its weights."""
    facts = report.read_json(entry / FACTS, {})
    if not fits_type(facts, dict[str, Any]):
        raise ConfigError(f"{entry / FACTS} holds no JSON object: make the entry anew.")
    if (got := facts.get("rules")) != rules():
        yield f"it was made for the rules {got}, and these are {rules()}: train anew"
    if facts.get("threads") not in range(1, THREADS + 1):
        yield f"it says {facts.get('threads')} threads; expected 1 to {THREADS}"
    try:
        if (minutes := minutes_of(entry / LOG)) > MINUTES + LATE:
            yield f"its log ends after {minutes:.1f} minutes; expected at most {MINUTES:g}"
    except ConfigError as error:
        yield str(error)
    try:
        if job_start := getattr(read_job(entry / CONFIG), "start", None):
            yield f"it starts from {job_start}; an entry starts from nothing"
    except MinikontextError as error:
        yield str(error)


def opened(entry: Path) -> KontextPipeline:
    """An entry's weights. Raises ConfigError where the autoencoder is not the given one."""
    pipe = KontextPipeline.from_pretrained(entry / "weights", device="cpu")
    given = KontextPipeline.from_pretrained("toy", device="cpu").autoencoder
    ours, theirs = given.state_dict(), pipe.autoencoder.state_dict()
    equal = ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    if not equal or given.config != pipe.autoencoder.config:
        raise ConfigError("its autoencoder is another; expected that of data/weights/toy")
    return pipe


def check(entry: Path, count: int = CASES) -> Result:
    """Measure an entry, and keep the result in its folder if all cases were asked.

    Raises ConfigError with every reason why the entry does not count.
    """
    found = []
    try:
        found += complaints(entry)
        pipe = opened(entry)
    except MinikontextError as error:
        found.append(str(error))
    if found:
        raise ConfigError(f"{entry} does not count: " + "; ".join(found) + ".")
    hits = outcomes(pipe, cases(count))
    interval = compare.percent_interval(hits)
    success = round(100 * sum(hits) / len(hits), 1)
    result = Result(success, interval, count, round(minutes_of(entry / LOG), 1), rules())
    if count == CASES:
        report.write_json(asdict(result), entry / RESULT)
    return result


def make(config: Path) -> Path:
    """Train what a config says, with two threads, and make an entry of the config's folder.

    Raises ConfigError where the rules or the folder forbid it, before any work.
    """
    entry, job = config.parent, read_job(config)
    if config.name != CONFIG:
        raise ConfigError(f"Got {config}; expected a file {CONFIG} in a folder of its own.")
    if not 0 < job.loop.minutes <= MINUTES or getattr(job, "start", None):
        raise ConfigError(f"{config}: expected 0 < minutes <= {MINUTES:g} in [loop], and no start.")
    if there := [name for name in ("weights", LOG, FACTS) if (entry / name).exists()]:
        raise ConfigError(f"{entry} holds {', '.join(there)} already: move that away first.")
    run = Path("runs", "records", entry.resolve().name)
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    log.warning("load of this machine before the start: %s; an idle one has nearly 0", busy)
    torch.set_num_threads(THREADS)
    job = replace(job, run=str(run), output=str(entry / "weights"), device="cpu")
    run_job(job, resume=False)
    shutil.copyfile(run / LOG, entry / LOG)
    facts = {"rules": rules(), "threads": torch.get_num_threads(), "load_before": busy}
    facts |= {"machine": platform.processor() or platform.machine(), "torch": torch.__version__}
    report.write_json(facts, entry / FACTS)
    return entry


def line(name: str, result: Result) -> tuple[object, ...]:
    """An entry's row in the table of records."""
    span = report.span(result.interval)
    return name, result.success, span, result.cases, result.minutes, result.rules


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: make an entry, or check entries; 1 where one does not count."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.records", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("what", choices=("make", "check"))
    parser.add_argument("paths", type=Path, nargs="+", help="configs, or folders of entries")
    parser.add_argument("--cases", type=int, default=CASES, help="fewer are no record")
    options = parser.parse_args(arguments)
    report.positive(options, "cases")
    entries = [make(path) for path in options.paths] if options.what == "make" else options.paths
    rows, refused = [], 0
    for entry in entries:
        try:
            rows.append(line(entry.resolve().name, check(entry, options.cases)))
        except ConfigError as error:
            refused += 1
            print(printable(str(error), keep="\n"), file=sys.stderr)
    head = ("entry", "success %", "95 %", "cases", "minutes", "rules")
    say(report.table(head, sorted(rows, key=lambda row: -row[1])))
    return int(refused > 0)


if __name__ == "__main__":
    sys.exit(main())
