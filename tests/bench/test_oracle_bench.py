"""The bench itself: averages, intervals, tables."""

import pytest

from minikontext.bench.oracle_bench import bootstrap, held_out_cases, summarise, table
from minikontext.toyworld import render, score


def test_an_interval_holds_the_mean_and_narrows_with_more_cases():
    few, many = bootstrap([True] * 9 + [False]), bootstrap(([True] * 9 + [False]) * 100)
    assert few[0] < many[0] < 90 < many[1] < few[1]
    assert bootstrap([True] * 5) == (100.0, 100.0)


def test_right_answers_and_copies_are_told_apart():
    cases = [case for case in held_out_cases(40, 3) if case.contexts]
    right = summarise([(case, score(render(case.target), case)) for case in cases])
    copied = summarise([(case, score(render(case.contexts[0]), case)) for case in cases])
    assert (right.success, right.psnr_untouched) == (100.0, 60.0)
    assert copied.success == 0.0 and copied.interval == (0.0, 0.0)
    assert right.known_phrasings == right.new_phrasings == 100.0
    shown = table({"right": right, "copy": copied})
    assert "| success | 100.0 | 0.0 |" in shown
    assert "| success, 95 % interval | 100.0 to 100.0 |" in shown


def test_cases_without_a_measurable_rest_do_not_count_as_perfect():
    cases = [c for c in held_out_cases(400, 4) if c.operation == "change_style"][:6]
    report = summarise([(case, score(render(case.target), case)) for case in cases])
    assert report.psnr_untouched in (0.0, pytest.approx(60.0))
