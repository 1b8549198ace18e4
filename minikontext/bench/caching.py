"""What step caching skips and what it costs, on the toy: `python -m minikontext.bench.caching`.

Each row edits the same held-out cases with the same seeds, one by one, for a batch skips together.
Its pictures are compared with those of the plain 28 steps, and scored by the oracle. Rows with
fewer plain steps stand beside them: they, too, save passes. A row that is there is kept.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from minikontext.bench.oracle_bench import edit_all, held_out_cases
from minikontext.pipeline import KontextPipeline
from minikontext.runtime import files
from minikontext.runtime.files import shipped
from minikontext.runtime.step_cache import StepCache
from minikontext.toyworld import Case, psnr, score

STORED = shipped("data", "bench", "caching.json")
STEPS = 28


@dataclass(frozen=True)
class Setting:
    """Steps, and the cache's threshold and order; without a threshold there is no cache."""

    steps: int = STEPS
    threshold: float | None = None
    order: int = 1

    def __str__(self) -> str:
        cache = f", cache {self.threshold:g}" if self.threshold else ""
        return f"{self.steps} steps{cache}{', order 0' if self.order == 0 else ''}"


@dataclass(frozen=True)
class Row:
    """Means over the cases: passes skipped and success in percent, whole passes of one branch.

    psnr: in dB to the picture of the plain steps, 60 where they are equal; lowest: of all cases.
    """

    weights: str
    sha256: str
    cases: int
    skipped: float
    whole: float
    psnr: float
    lowest: float
    success: float


SETTINGS = (
    Setting(),
    *(Setting(threshold=x) for x in (0.05, 0.1, 0.2, 0.3)),
    *(Setting(threshold=x, order=0) for x in (0.1, 0.2)),
    *(Setting(steps) for steps in (12, 6, 4)),
)


def measure(
    pipe: KontextPipeline, cases: list[Case], setting: Setting, plain: list[Image.Image]
) -> Row:
    """Edit and score the cases with one setting; `plain` are their pictures without a cache."""
    cache, made = StepCache(setting.threshold or 0, setting.order), plain
    if setting != Setting():
        made = edit(pipe, cases, setting.steps, cache if setting.threshold else None)
    near = [psnr(np.asarray(a), np.asarray(b)) for a, b in zip(made, plain, strict=True)]
    success = np.mean([score(picture, case).success for picture, case in zip(made, cases)])
    numbers = (100 * cache.share, setting.steps * (1 - cache.share), np.mean(near), min(near))
    rounded = (round(float(x), 1) for x in (*numbers, 100 * success))
    return Row(pipe.name, pipe.weights_fingerprint, len(cases), *rounded)


def edit(
    pipe: KontextPipeline, cases: list[Case], steps: int, cache: StepCache | None = None
) -> list[Image.Image]:
    """One case after the other, as a user would."""
    return edit_all(pipe, cases, 1, quiet=True, num_inference_steps=steps, step_cache=cache)


def run(
    pipe: KontextPipeline, count: int, place: Path, settings: tuple[Setting, ...] = SETTINGS
) -> Iterator[tuple[str, Row]]:
    """Measure the rows that are missing in `place`, and give each when it is stored."""
    rows = load(place) if place.exists() else {}
    cases = held_out_cases(count, 4)
    plain: list[Image.Image] = []
    for setting in settings:
        known = rows.get(str(setting))
        if known is None or (known.sha256, known.cases) != (pipe.weights_fingerprint, count):
            plain = plain or edit(pipe, cases, STEPS)
            rows[str(setting)] = measure(pipe, cases, setting, plain)
            ordered = {str(s): asdict(rows[str(s)]) for s in settings if str(s) in rows}
            with files.replacing(place) as temporary:
                temporary.write_text(json.dumps(ordered, indent=1) + "\n")
        yield str(setting), rows[str(setting)]


def load(place: Path = STORED) -> dict[str, Row]:
    """The stored rows by setting."""
    return {name: Row(**row) for name, row in json.loads(place.read_text()).items()}


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    head = ["", "passes skipped %", "whole passes", "PSNR to 28 plain, dB", "lowest", "success %"]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, r in rows.items():
        cells = (name, r.skipped, r.whole, r.psnr, r.lowest, r.success)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure and store."""
    parser = argparse.ArgumentParser(prog="python -m minikontext.bench.caching")
    parser.add_argument("--weights", default="toy", help="name or folder (default: toy)")
    parser.add_argument("--cases", type=int, default=100, help="held-out cases (default: 100)")
    parser.add_argument("--output", type=Path, default=STORED, help="a JSON file")
    options = parser.parse_args(arguments)
    pipe = KontextPipeline.from_pretrained(options.weights)
    print(table(dict(run(pipe, options.cases, options.output))))


if __name__ == "__main__":
    main()
