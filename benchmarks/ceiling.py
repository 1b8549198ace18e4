"""What no editor can better: right answers through the autoencoder, by size, for both judges.

`python -m benchmarks.ceiling --weights FOLDER --cases 200` reads the autoencoder of a
weights folder, or one that stands alone. Choices are made on `--split dev`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from tqdm.auto import tqdm

from minikontext.autoencoder import AutoEncoder
from minikontext.bench import compare, report
from minikontext.bench.autoencoder_bench import round_trip
from minikontext.bench.reader import judgement
from minikontext.toyworld import Case, score, sizes
from minikontext.toyworld.edits import sample_case
from minikontext.toyworld.sizes import Size
from minikontext.training.models import find_autoencoder, load_autoencoder


@dataclass(frozen=True)
class Ceiling:
    """Of right answers at one size: shares that the judges pass, in percent, and PSNR in dB."""

    width: int
    height: int
    cases: int
    oracle: float
    interval: tuple[float, float]
    reader: float
    psnr: float


def measure(model: AutoEncoder, cases: Sequence[Case], size: Size) -> Ceiling:
    """Score the right answers of cases at one size."""
    decoded = [*round_trip(model, [case.target for case in cases], size)]
    scores = [score(picture, case) for picture, case in zip(decoded, cases, strict=True)]
    read = [judgement.judge(p, case).success for p, case in zip(decoded, cases, strict=True)]
    passed = compare.rate([one.success for one in scores])
    return Ceiling(
        *size, len(cases), passed.percent, (passed.low, passed.high),
        round(100 * sum(read) / len(read), 1), round(float(np.mean([s.psnr for s in scores])), 2),
    )  # fmt: skip


def table(rows: Sequence[Ceiling]) -> str:
    """All sizes as a Markdown table."""
    head = ("w × h", "cases", "oracle %", "95 %", "reader %", "PSNR dB")
    lines = [
        (f"{r.width} × {r.height}", r.cases, r.oracle, report.span(r.interval), r.reader, r.psnr)
        for r in rows
    ]
    return report.table(head, lines)


def main(arguments: list[str] | None = None) -> list[Ceiling]:
    """Command line: measure, write `ceiling.json`, print the table."""
    parser = report.parser("python -m benchmarks.ceiling", __doc__, steps=..., seed=...)
    parser.add_argument("--cases", type=int, default=200, help="at each size (default: 200)")
    parser.add_argument("--split", default="dev", choices=("dev", "test"))
    parser.add_argument("--level", type=int, default=4, help="level of the world (default: 4)")
    parser.add_argument("--sizes", type=sizes.parse, default="all", help=sizes.parse.__doc__)
    options = parser.parse_args(arguments)
    report.positive(options, "cases")
    parts = {"few cases": options.cases < 100, "some sizes": options.sizes != sizes.parse("all"),
             f"level {options.level}": options.level != 4}  # fmt: skip
    part = " ".join(name for name, there in parts.items() if there)
    target = report.folder(options, part, find_autoencoder)
    model = load_autoencoder(find_autoencoder(options.weights), torch.device("cpu"))
    cases = [sample_case(i, options.level, options.split) for i in range(options.cases)]
    rows = [measure(model, cases, size) for size in tqdm(options.sizes, "sizes")]
    content: dict[str, object] = {"weights": options.weights, "split": options.split}
    content["rows"] = [asdict(row) for row in rows]
    report.write_json(content, target / "ceiling.json")
    print(table(rows))
    return rows


if __name__ == "__main__":
    main()
