"""Failures are counted where they belong: by operation, verdict, attribute and cause."""

from benchmarks import failures
from minikontext.bench import mini
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import score


def test_a_copy_of_the_input_is_not_the_decoders_fault(tmp_path):
    pipe = KontextPipeline.from_pretrained("toy")
    known = [c for *_, c in mini.cases() if c.operation == "change_background"][:3]
    rows = [(case, score(case.context_images()[0], case)) for case in known]
    (found,) = failures.analyse(rows, pipe)
    assert (found.operation, found.cases, found.failed, found.decoder) == (
        "change_background", 3, 3, 0,
    )  # fmt: skip
    assert found.lacked["followed"] == 3
    assert sum(n for name, n in found.misread.items() if name.startswith("background")) == 3
    failures.save("toy", 4, [found], tmp_path / "failures.json")
    assert "| **all** | 3 | 3 | 0 |" in (tmp_path / "failures.md").read_text()


def test_answers_that_are_right_leave_no_line():
    case = next(c for *_, c in mini.cases() if c.operation == "change_sign")
    rows = [(case, score(case.target_image(), case))]
    (found,) = failures.analyse(rows, KontextPipeline.from_pretrained("toy"))
    assert found.failed == 0 and "change_sign" not in failures.table([found])
