"""No fault ends silently wrong, in a traceback, in a hang, or with a stranger's code run."""

import os
import sys

import kinds
import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes and links")


@pytest.mark.parametrize("kind", kinds.KINDS, ids=lambda kind: kind.__name__)
def test_no_case_of_a_kind_misbehaves(kind):
    ends = [(case.name, *kinds.outcome(case)) for case in kind()]
    assert len(ends) > 20 and not [one for one in ends if one[1] not in kinds.GOOD]


def misled(folder):
    kinds.right(1 == 2, "another sum")


@pytest.mark.parametrize(
    ("run", "end"),
    [
        (misled, "silent"),
        (lambda folder: {}["x"], "traceback"),
        (lambda folder: os.system("true") and "opens", "code"),
        (lambda folder: eval("1 + 1") and "opens", "code"),
        (lambda folder: "opens", "opens"),
    ],
)
def test_each_outcome_is_seen(run, end):
    assert kinds.outcome(kinds.Case("a kind", "a case", run))[0] == end


def test_the_stored_table_is_of_these_cases_and_has_no_fault():
    text = (kinds.ROOT / "data/bench/faults.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    numbers = {row[0].strip(): [int(cell) for cell in row[1:]] for row in rows[1:]}
    assert numbers["**all**"][0] >= 300 and not any(numbers["**all**"][4:])
    assert all(row[0] == sum(row[1:]) for row in numbers.values())
    cases = list(kinds.cases())
    assert numbers["**all**"][0] == len(cases)
    assert {one.kind for one in cases} == numbers.keys() - {"**all**"}
