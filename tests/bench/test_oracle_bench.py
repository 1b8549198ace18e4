"""The bench itself: averages, intervals, tables."""

import pytest

from minikontext.bench import mini, oracle_bench
from minikontext.bench.oracle_bench import bootstrap, held_out_cases, summarise, table
from minikontext.pretrained.native import home
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


def test_weights_are_called_by_their_place_unless_they_are_shipped(tmp_path):
    pipe = type("Pipe", (), {"name": "toy"})()
    for place in ("toy", "./toy", home() / "toy"):
        assert oracle_bench.called(pipe, place) == "toy"
    for place in (tmp_path / "toy", tmp_path / "mine"):
        assert oracle_bench.called(pipe, place) == place.as_posix()


def test_cases_of_one_base_scene_are_a_cluster(monkeypatch, capsys):
    rows = [mini.cases()[i] for i in (0, 1, 600, 900)]
    told = []

    def noted(rows, seconds=0.0, clusters=None):
        told.append(clusters)
        return summarise(rows)

    monkeypatch.setattr(oracle_bench, "summarise", noted)
    monkeypatch.setattr(oracle_bench.mini, "cases", lambda more: rows)
    monkeypatch.setattr(oracle_bench.KontextPipeline, "from_pretrained", lambda place: Pipe())
    pictures = [case.target_image() for *_, case in rows]
    monkeypatch.setattr(oracle_bench, "edit_all", lambda *_, **__: pictures)
    oracle_bench.main(["--mini", "--baselines"])
    bases = [base for _, _, base, _ in rows]
    assert told == [bases] * 3 and "| cases | 4 | 4 | 4 |" in capsys.readouterr().out


class Pipe:
    """Encodes and decodes without a loss."""

    name = "toy"

    def encode(self, pictures):
        return pictures

    def decode(self, pictures):
        return pictures
