"""The exercise checker: it must never pass what is wrong, and never depend on the student."""

from functools import partial

import pytest
import torch

from minikontext import course
from minikontext.course.checks import REGISTRY, Report, describe, exercise


@pytest.fixture
def doubled():
    """An exercise for the time of a test."""

    @exercise
    def doubled(report, answer):
        report.equal("three", answer, (torch.full((2, 2), 3.0),), torch.full((2, 2), 6.0))
        report.equal("nothing", answer, (torch.zeros(3),), torch.zeros(3))

    yield doubled
    del REGISTRY["doubled"]


def printed(capsys, function, name="doubled"):
    function.__name__ = name
    course.check(function)
    return capsys.readouterr().out


def test_a_right_answer(doubled, capsys):
    out = printed(capsys, lambda x: 2 * x)
    assert out.count("[OK]") == 2 and "2 of 2 passed. Well done!" in out


def test_a_wrong_answer_shows_expected_and_got_with_shapes(doubled, capsys):
    out = printed(capsys, lambda x: x.sum())
    assert "[FAIL]" in out and "expected tensor (2, 2) float32: [[6.0, 6.0], [6.0, 6.0]]" in out
    assert "got      tensor () float32: 12.0" in out and "Well done" not in out


def test_long_answers_show_where_they_first_differ(capsys):
    right = torch.arange(24.0).view(2, 12)
    wrong = right.clone()
    wrong[1, 3:] += 1
    Report().equal("24 numbers", lambda: wrong, (), right)
    assert "9 of 24 numbers differ; the first is at [1, 3]: expected 15.0, got 16.0" in (
        capsys.readouterr().out
    )


def test_a_forgotten_return_is_guessed(doubled, capsys):
    assert "`return`?" in printed(capsys, lambda x: None)


def test_errors_under_a_wrapper_name_the_students_line(capsys):
    def edit_chain(pipe, picture, prompts):
        return prompts.no_such_thing()

    course.check(edit_chain)
    assert "in the line: return prompts.no_such_thing()" in capsys.readouterr().out


def test_a_stub_is_not_attempted_yet(doubled, capsys):
    def stub(x):
        raise NotImplementedError

    assert printed(capsys, stub) == "doubled: not attempted yet\n"


def test_an_error_names_the_line(doubled, capsys):
    def broken(x):
        return x @ torch.ones(7)

    out = printed(capsys, broken)
    assert "your code raised RuntimeError" in out and "x @ torch.ones(7)" in out


def test_a_changed_input_is_found(doubled, capsys):
    out = printed(capsys, lambda x: x.mul_(2))
    assert "changed its input" in out


@pytest.mark.parametrize("nonsense", [None, "six", [6.0], torch.zeros(0), {}, print])
def test_nonsense_fails_quietly(doubled, capsys, nonsense):
    assert "[FAIL]" in printed(capsys, lambda x: nonsense)


def test_a_known_mistake_is_named_and_another_one_is_not(capsys):
    report = Report(known={"you double": lambda x: 2 * x, "you raise": lambda x: 1 / 0})
    report.equal("square", lambda x: x + x, (torch.full((3,), 4.0),), torch.full((3,), 16.0))
    report.finish()
    assert "this is what you get if you double" in capsys.readouterr().out
    report.equal("square", lambda x: x + 1, (torch.full((3,), 4.0),), torch.full((3,), 16.0))
    report.finish()
    assert "this is what you get" not in capsys.readouterr().out


def test_a_case_that_looks_like_a_mistake_names_none(capsys):
    """Two and two, two times two: only the other cases tell them apart."""
    report = Report(known={"you double": lambda x: 2 * x})
    for side in (2.0, 3.0):
        report.equal("one more", lambda x: x**2, (torch.tensor([side]),), torch.tensor([side + 1]))
    report.finish()
    printed = capsys.readouterr().out
    assert "0 of 2 passed" in printed and "this is what you get" not in printed


def test_a_right_answer_that_fails_elsewhere_names_none(capsys):
    report = Report(known={"you double": lambda x: 2 * x})
    report.equal("double", lambda x: x + x, (torch.ones(3),), torch.full((3,), 2.0))
    report.true("by one product", False, "a sum")
    report.equal("double", lambda x: x, (torch.zeros(3),), torch.zeros(3))
    report.known = {"you halve": lambda x: x / 2}
    report.finish()
    assert "this is what you get" not in capsys.readouterr().out


def test_checks_that_break_on_an_answer_say_so(capsys):
    @exercise
    def halved(report, answer):
        report.true("half of four", answer(4) + 0 == 2, "not 2")

    try:
        assert "[FAIL] what comes back can be read" in printed(capsys, lambda x: "two", "halved")
    finally:
        del REGISTRY["halved"]


def test_several_things_may_come_in_any_container(capsys):
    report, two = Report(), torch.tensor([1.0, 2.0])
    for got in (two, two.numpy(), [two[0], 2.0], (1.0, two[1])):
        report.equal("a pair", lambda got=got: got, (), (1.0, 2.0))
    for got in ([two, two], (two, two), two.expand(2, 2)):
        report.equal("rows", lambda got=got: got, (), torch.stack([two, two]))
        report.equal("rows", lambda got=got: got, (), [two, two])
    assert all(report.results)
    report.equal("too many", lambda: two.repeat(2), (), (1.0, 2.0))
    report.equal("rows of other lengths", lambda: [two, two[:1]], (), torch.stack([two, two]))
    assert report.results[-2:] == [False, False]


def test_nan_is_not_a_number_that_passes(doubled, capsys):
    assert "[FAIL]" in printed(capsys, lambda x: x * float("nan"))


def test_shapes_must_match_even_if_numbers_broadcast(doubled, capsys):
    assert "[FAIL]" in printed(capsys, lambda x: (2 * x)[None])


def test_unknown_exercises_and_double_names_are_refused():
    with pytest.raises(KeyError, match="No exercise is called 'nobody'"):
        course.check(type("nobody", (), {}))

    def psnr(report, answer): ...

    with pytest.raises(ValueError, match="Two exercises"):
        exercise(psnr)


def test_a_lambda_and_a_partial_go_by_the_name_of_their_variable(capsys):
    def from_one_end(start, conditional, unconditional, scale):
        return unconditional + start + scale * (conditional - unconditional)

    for guide in (lambda c, u, scale: u + scale * (c - u), partial(from_one_end, 0)):
        course.check(guide)
        assert "3 of 3 passed. Well done!" in capsys.readouterr().out
    for guide in (lambda c, u, scale: c, partial(from_one_end, 1)):
        course.check(guide)
        assert "[FAIL]" in capsys.readouterr().out
    with pytest.raises(KeyError, match="No exercise is called '<lambda>'"):
        course.check(lambda c, u, scale: u)


def test_tuples_floats_and_words():
    report = Report()
    report.equal("pair", lambda: (1.0, 2), (), (1.0, 2))
    report.equal("tensor for a float", lambda: torch.tensor(1.0), (), 1.0)
    report.equal("too short", lambda: (1.0,), (), (1.0, 2))
    report.equal("word", lambda: "a", (), "a")
    assert report.results == [True, True, False, True]


def test_descriptions_are_short():
    assert describe(torch.arange(100)).endswith("0, 1, 2, 3, …")
    assert len(describe("x" * 1000)) == 200
    assert describe((1.23456789, 2)) == "(1.23457, 2)"
