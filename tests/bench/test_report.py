"""Where results go: never from a part to the place of the whole, to data/bench only if told."""

import argparse
from pathlib import Path

import pytest

from benchmarks import ablations, failures, ladd_lab, outside, suite, words, wrong_answers
from benchmarks.reader import __main__ as reader
from minikontext.bench import (
    autoencoder_bench,
    diversity,
    multiturn,
    report,
    results,
    safety_bench,
    study,
)
from minikontext.bench.reader.network import HOME
from minikontext.course import plane_ladd
from minikontext.errors import ConfigError


def options(*words):
    return report.parser("bench", "words").parse_args(words)


def test_results_go_to_runs_or_where_they_are_told_to(tmp_path):
    assert report.folder(options()) == Path("runs/bench")
    assert report.folder(options(), "every 200th") == Path("runs/bench/every-200th")
    assert report.folder(options("--output", str(tmp_path)), "every 2th") == tmp_path
    assert report.folder(options("--store")) == report.STORED


@pytest.mark.parametrize("words", [("--store",), ("--output", str(report.STORED))])
def test_a_part_never_reaches_what_is_committed(words):
    with pytest.raises(ConfigError, match="--store"):
        report.folder(options(*words), "every 200th")


def test_what_is_committed_needs_the_flag():
    with pytest.raises(ConfigError, match="use --store"):
        report.folder(options("--output", str(report.STORED)))
    with pytest.raises(ConfigError, match="one of them"):
        report.folder(options("--store", "--output", "x"))


@pytest.mark.parametrize(
    "command",
    [
        (results.main, "--every", "200"),
        (failures.main, "--every", "2"),
        (study.main, "students", "--cases", "10"),
        (study.main, "caching", "--seeds", "2"),
        (diversity.main, "--seeds", "2"),
        (multiturn.main, "--chains", "1"),
        (multiturn.main, "--ways", "known"),
        (autoencoder_bench.main, "--scenes", "10"),
        (safety_bench.main, "--count", "12"),
        (suite.main, "--share", "0.1"),
        (words.main, "--half", "all", "--steps", "2"),
        (wrong_answers.main, "--right"),
        (wrong_answers.main, "--cases", "5"),
        (outside.main, "--count", "1"),
        (ablations.main, "--steps", "1"),
        (ladd_lab.main, "--seeds", "1"),
        (plane_ladd.main, "--seeds", "1"),
        (reader.main, "--train", "--cases", "3"),
    ],
)
def test_the_commands_refuse_to_store_a_part(command):
    main, *words = command
    with pytest.raises(ConfigError, match="this is a part"):
        main([*words, "--store"])


def test_a_part_does_not_replace_whole_runs_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the place of whole runs.*1 chains"):
        multiturn.main(["--chains", "1", "--output", "runs/bench"])
    assert report.folder(options("--output", "./runs/bench")) == Path("runs/bench")


def test_a_clock_without_rows_is_refused_and_writes_nothing(tmp_path):
    with pytest.raises(ConfigError, match="--clock times rows that are there"):
        results.main(["--clock", "--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_a_part_does_not_replace_the_whole_in_a_folder_of_ones_own(tmp_path):
    study.save({results.COPY: study.load("results")[results.COPY]}, tmp_path / "results.json")
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ConfigError, match="never replaces the whole"):
        results.main(["--weights", "toy", "--every", "600", "--output", str(tmp_path)])
    assert (tmp_path / "results.json").read_bytes() == before


@pytest.mark.parametrize("word", ["--stor", "--out=x", "--weight=toy"])
def test_options_are_taken_by_their_whole_names(word, capsys):
    with pytest.raises(SystemExit):
        results.main([word, "--every", "0"])
    assert word in capsys.readouterr().err


def test_tables_and_numbers():
    assert report.table(["a", "b"], [[1, None]]) == "| a | b |\n|---|---|\n| 1 |  |"
    assert report.side_by_side({"x": 0, "y": 0}, {"row": [1, 2]}).endswith("| row | 1 | 2 |")
    with pytest.raises(ConfigError, match="--steps 0"):
        report.positive(argparse.Namespace(steps=[4, 0]), "steps")


def test_writes_are_whole_or_nothing(tmp_path):
    path = tmp_path / "deep" / "x.json"
    report.write_json({"a": 1}, path)
    with pytest.raises(TypeError):
        report.write_json({"a": object()}, path)
    assert report.read_json(path) == {"a": 1} and report.read_json(tmp_path / "no", 7) == 7


@pytest.mark.parametrize("work", ["--train", "--calibrate"])
def test_the_shipped_reader_is_replaced_only_if_told(work, tmp_path):
    before = {path: path.read_bytes() for path in HOME.rglob("*.*")}
    with pytest.raises(ConfigError, match="use --store"):
        reader.main([work, "--folder", str(HOME), "--run", str(tmp_path)])
    assert {path: path.read_bytes() for path in HOME.rglob("*.*")} == before
