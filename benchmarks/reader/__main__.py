"""`python -m benchmarks.reader`: train the reader, calibrate it, or validate it."""

from __future__ import annotations

from pathlib import Path

from benchmarks.reader.calibration import calibrated
from benchmarks.reader.training import ReaderTraining, train
from benchmarks.reader.validation import Counts, validate
from minikontext.bench import report
from minikontext.bench.reader.judgement import Reader
from minikontext.bench.reader.network import HOME, load_network, save
from minikontext.errors import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Command line: see --help."""
    parser = report.parser(
        "python -m benchmarks.reader", __doc__, weights="toy-max", steps=..., seed=...
    )
    parser.add_argument("--train", action="store_true", help="train, or go on, and calibrate")
    parser.add_argument("--calibrate", action="store_true", help="choose the limits anew")
    parser.add_argument("--validate", action="store_true", help="measure and write the page")
    parser.add_argument("--run", type=Path, default=Path("runs/reader"), help="checkpoints")
    parser.add_argument(
        "--folder", type=Path, help="the reader's weights (default: shipped; trained ones: --run)"
    )
    parser.add_argument("--split", default="test", help="cases to validate on: test (default), dev")
    for name in ("scenes", "cases", "answers"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Counts, name))
    options = parser.parse_args(arguments)
    report.positive(options, "scenes", "cases", "answers")
    counts = Counts(options.scenes, options.cases, options.answers, options.split)
    place = report.folder(options, counts.part)
    source = options.folder or HOME
    if options.train or options.calibrate:  # the shipped ones are replaced by --store alone
        made = HOME if options.store else options.folder or options.run / "weights"
        if made.resolve() == HOME.resolve() and not options.store:
            raise ConfigError(f"{made} holds what is committed: use --store to change that.")
        if options.train:
            save(train(options.run, ReaderTraining()), source := made)
        save(calibrated(load_network(source)), source := made)
    if options.validate:
        print(validate(Reader(load_network(source)), place, counts, options.weights))


if __name__ == "__main__":
    main()
