"""What a table by size says of failures, beside how many there are."""

from PIL import Image

from benchmarks import sizes
from minikontext.course.failures import Answer
from minikontext.toyworld import score
from minikontext.toyworld.render import render


def test_failures_are_told_by_what_they_show_and_should_not():
    """Right answers are drawn, then drawn wrong: once other eyes, once eyes and a pattern."""
    closed = (case for case in sizes.cases_of(60, 4, "dev", pictures=1) if not case.free)
    cases = [case for case in closed if case.target.eyes == "round"
             and case.target.pattern == "plain" and case.target.style == "plain"
             and not {"eyes", "pattern"} & set(case.claims)][:3]  # fmt: skip
    changes = ({}, {"eyes": "sleepy"}, {"eyes": "sleepy", "pattern": "spotted"})
    drawn = [Image.fromarray(render(case.target.change(**change), 96, 96))
             for case, change in zip(cases, changes, strict=True)]  # fmt: skip
    answers = [Answer(c, p, score(p, c)) for c, p in zip(cases, drawn, strict=True)]
    assert [answer.score.success for answer in answers] == [True, False, False]
    found = sizes.misread(answers)
    assert found == {"eyes": [2, 1], "pattern": [1, 0]} and list(found) == ["eyes", "pattern"]
    row = sizes.Row(96, 96, True, 3, 33.3, (0, 100), 0, 0, 0, 30.0, "100", found)
    right = sizes.Row(64, 64, True, 1, 100, (100, 100), 0, 0, 0, 30.0, "1")
    assert sizes.failures([row, right]).splitlines() == [
        "96 × 96, 2 failures, other than wanted: eyes in 2, alone in 1; pattern in 1, alone in 0",
        "64 × 64, 0 failures, other than wanted: nothing that the oracle names",
    ]


def test_what_failures_show_stands_in_a_measured_row(tiny):
    """Weights that learned nothing fail every case, and what they show has a name."""
    cases = [case for case in sizes.cases_of(20, 2, "dev", pictures=1) if not case.free][:2]
    row = sizes.measure(tiny(), cases, (64, 64), num_inference_steps=1)
    assert row.outcomes == "00"
    assert row.misread and all(1 <= n <= 2 and m <= n for n, m in row.misread.values())
