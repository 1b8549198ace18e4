"""Write the measured tables into docs and cards, so that no number is typed by hand.

python tools/tables.py            # from stored results, and from the notebooks
python tools/tables.py --check    # only say whether they are up to date
"""

import argparse
import json
import re
import sys
from pathlib import Path

import reading

from minikontext.bench import report, study
from minikontext.bench.oracle_bench import Report, table

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- (\w+): ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def reports(name: str) -> dict[str, Report]:
    """The stored measurements of some weights and their baselines."""
    stored = json.loads((ROOT / "data" / "weights" / name / "bench.json").read_text())
    return {who: Report(**values) for who, values in stored.items()}


def overview(name: str) -> str:
    """The table that `python -m minikontext.bench` prints."""
    return table(reports(name))


def operations(name: str, columns: int = 3) -> str:
    """Success by operation, in a few columns."""
    rates = sorted(reports(name)[name].by_operation.items())
    cells = [x for operation, rate in rates for x in (operation.replace("_", " "), rate)]
    cells += [""] * (-len(cells) % (2 * columns))
    rows = [cells[i : i + 2 * columns] for i in range(0, len(cells), 2 * columns)]
    return report.table(["operation", "%"] * columns, rows)


def bench(steps: str) -> str:
    """Rows of MiniKontextBench with these numbers of steps: success, and the weakest category."""
    head = ("weights", "steps", "success, %", "95 % interval", "weakest category, %")
    rows = [
        (f"`{r.setting.weights}`", r.setting.steps, r.success, report.span(r.interval), r.weakest)
        for r in study.load("results").values()
        if str(r.setting.steps) in steps.split("-")
    ]
    return report.table(head, rows)


KINDS = {
    "overview": overview,
    "operations": operations,
    "bench": bench,
    "reading": lambda _: reading.table(),
}


def filled(text: str) -> str:
    """The text with every marked table made anew."""
    return PLACE.sub(lambda m: f"{m[1]}{KINDS[m[2]](m[3])}\n{m[4]}", text)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--check", action="store_true", help="write nothing, fail if out of date")
    check = options.parse_args().check
    stale = []
    for path in (ROOT / "docs" / "inside.md", *sorted(ROOT.glob("data/weights/*/README.md"))):
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(path.relative_to(ROOT))
            if not check:
                path.write_text(filled(text), encoding="utf-8")
    print("out of date:" if check else "written:", *stale or ["nothing"])
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
