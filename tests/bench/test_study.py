"""Studies: rows are measured once, hold every outcome, and are compared case by case."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from minikontext.bench import report, results, study
from minikontext.bench.compare import interval
from minikontext.bench.oracle_bench import Report, evaluate, held_out_cases
from minikontext.bench.study import Row, SamplerSetting
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import config_fingerprint
from minikontext.toyworld import psnr

PARSED = {
    "toy:4": SamplerSetting("toy", 4),
    "toy:28:cfg=1.5": SamplerSetting("toy", 28, cfg=1.5),
    "toy-dev:10:guidance=2,edits": SamplerSetting("toy-dev", 10, guidance=2.0, edits=True),
    "toy:28:cache=0.2,order=0": SamplerSetting("toy", 28, cache=0.2, order=0),
}


@pytest.mark.parametrize("text", PARSED)
def test_a_setting_is_read_from_words(text):
    assert SamplerSetting.parse(text) == PARSED[text]


@pytest.mark.parametrize("text", ["toy", "toy:x", "toy:4:speed=3", "toy:4:cfg=much"])
def test_a_setting_that_is_none_is_refused(text):
    with pytest.raises(ConfigError, match="expected weights:steps"):
        SamplerSetting.parse(text)


def row(setting=None, outcomes=("1101", "1001"), **more):
    whole = Report(cases=8, success=62.5, interval=(25.0, 100.0), followed=90.0,
                   by_task={"local": 88.0})  # fmt: skip
    return Row(setting or SamplerSetting("toy", 4), "x", "4", whole, [75.0, 50.0], [*outcomes],
               **more)  # fmt: skip


def test_rows_are_kept_and_replaced_by_setting(tmp_path):
    place = tmp_path / "s.json"
    other = row(SamplerSetting("toy", 28, cfg=1.5))
    rows = {r.name: r for r in (row(), other)}
    study.save(rows, place)
    assert study.load(place) == rows and study.load(tmp_path / "none.json") == {}
    text = study.table([*rows.values()])
    assert "| toy, 28 steps, CFG 1.5 | 56 | 62.5 | 25.0 to 100.0 | 50.0 to 75.0 |" in text
    assert "PSNR to the first" in study.table([replace(row(), psnr=50.0, skipped=75.0)])


def test_without_an_interval_the_seeds_of_a_case_count_as_one():
    known = row()
    unknown = replace(known, outcomes=[], report=replace(known.report, interval=None))
    assert unknown.interval == (21.9, 90.8)  # Wilson's, of 2.5 in 4
    assert known.interval == (25.0, 100.0)


def test_outcomes_are_what_comparisons_need():
    one, other = row(), row(SamplerSetting("toy-pro", 4), ("1111", "1111"))
    assert list(one.values()) == [1, 1, 0, 1, 1, 0, 0, 1]
    (line,) = study.compared([one, other])
    assert "toy-pro, 4 steps" in line and "4 clusters" in line
    fewer = row(outcomes=("11", "11"))
    assert study.compared([one, replace(fewer, report=replace(one.report, cases=4))]) == []
    assert "8 observations in 8 clusters" in study.compared([one, row(outcomes=())])[0]
    with pytest.raises(ConfigError, match="again"):
        row(outcomes=()).values()


def test_rows_are_compared_by_case_and_without_outcomes_as_if_the_cases_were_others():
    words = "1" * 90 + "0" * 10, "1" * 82 + "0" * 18
    one, other = (row(outcomes=(word, word)) for word in words)
    found = study.between(one, other)
    assert (found.observations, found.clusters, found.word()) == (200, 100, "better")
    bare = [
        replace(r, outcomes=[], report=replace(r.report, cases=200, success=share))
        for r, share in ((one, 90.0), (other, 82.0))
    ]
    careful = study.between(*bare)  # 100 cases of each, not 200: the seeds are no cases
    assert careful.word() == "not decided" and careful.observations == 200
    assert careful.difference == pytest.approx(0.08)
    assert careful.high - careful.low > found.high - found.low


def test_clusters_are_never_dropped_where_one_row_has_no_outcomes():
    """Ten cases a cluster, of which all pass or none: ten cases, not a hundred."""
    clusters = [i // 10 for i in range(100)]
    one = row(outcomes=("1" * 90 + "0" * 10,))
    one = replace(one, seeds=[90.0], report=replace(one.report, cases=100, success=90.0))
    bare = replace(one, outcomes=[], report=replace(one.report, success=75.0))
    alone, together = study.between(one, bare), study.between(one, bare, clusters)
    assert alone.word() == "better" and together.word() == "not decided"
    assert together.observations == 20 and study.between(bare, one, clusters).observations == 20
    every = study.between(one, replace(one, outcomes=["1" * 100]), clusters)
    assert every.clusters == 10  # paired, where both have outcomes
    with pytest.raises(ConfigError, match="stored without outcomes, so their clusters"):
        study.between(bare, bare, clusters)


@pytest.mark.weights
def test_a_study_is_scored_as_the_bench_scores_it_and_gone_on_with(tmp_path, monkeypatch):
    cases = [case for case in held_out_cases(40, 4) if len(case.contexts) < 2][:6]
    cases.append(next(c for c in held_out_cases(200, 4) if not c.contexts))
    settings = [SamplerSetting("toy", 2), SamplerSetting("toy", 1, cfg=2.0, edits=True)]
    place = tmp_path / "mine.json"
    plain, guided = study.run(settings, cases, "seven", place, seeds=2).values()
    pipe = KontextPipeline.from_pretrained("toy")
    reports = [evaluate(pipe, cases, seed, num_inference_steps=2)[0] for seed in range(2)]
    assert plain.seeds == [one.success for one in reports] and plain.report.cases == 14
    low, high = interval(plain.values(), [*range(7)] * 2)
    assert plain.report.interval == (round(100 * low, 1), round(100 * high, 1))
    assert len(guided.outcomes[0]) < 7 and "text to image" not in guided.report.by_task
    monkeypatch.setattr(study, "measure", None)  # nothing is left to measure
    assert study.run(settings, cases, "seven", place, seeds=2) == study.load(place)
    with pytest.raises(TypeError):  # other cases are measured anew
        study.run(settings, cases, "eight", place, seeds=2)


@pytest.mark.weights
def test_what_a_step_cache_skips_and_costs(tmp_path):
    words = ("toy:28", "toy:4", "toy:28:cache=0.1", "toy:28:cache=0.1,order=0")
    settings, cases = [SamplerSetting.parse(text) for text in words], held_out_cases(2, 4)
    rows = study.run(settings, cases, "two", tmp_path / "caching.json", batch=1, near=True)
    assert [*rows] == [str(one) for one in settings]
    plain, four, line, flat = rows.values()
    assert (plain.psnr, plain.skipped, four.skipped, four.whole) == (60, 0, 0, 4)
    assert line.skipped > 50 and line.whole == pytest.approx(28 * (1 - line.skipped / 100), abs=0.1)
    assert 60 > line.psnr > flat.psnr > 30 and line.psnr >= line.lowest
    assert f"| {line.skipped} | {line.whole} |" in results.page({}, {}, tmp_path)


def test_pictures_are_compared_with_the_first_settings_own_of_the_same_case(tmp_path, monkeypatch):
    """Also where its row is there already, and for a setting of edits only."""

    class Pipe:
        weights_fingerprint, defaults, modules = "x", Defaults(), {}

        def __init__(self, name):
            self.name = name

    def drawn(pipe, cases, *_, **__):  # a picture tells by whom and of which case it is
        shade = {"one": 40, "two": 90}[pipe.name]
        return [Image.new("RGB", (64, 64), (shade, hash(c.prompt) % 256, 0)) for c in cases]

    monkeypatch.setattr(study, "edit_all", drawn)
    cases = held_out_cases(60, 4)
    cases = [*[c for c in cases if not c.contexts][:1], *[c for c in cases if c.contexts][:2]]
    settings = [SamplerSetting("one", 4), SamplerSetting("two", 4)]
    settings += [SamplerSetting("two", 4, edits=True)]
    place, options = tmp_path / "s.json", {"near": True, "load_pipe": Pipe}
    study.run(settings[:1], cases, "three", place, **options)
    rows = [*study.run(settings, cases, "three", place, **options).values()]
    shades = [np.full((64, 64, 3), (shade, 0, 0), np.uint8) for shade in (40, 90)]
    apart = round(psnr(*shades), 1)
    assert [one.psnr for one in rows] == [60, apart, apart]
    assert [one.lowest for one in rows] == [60, apart, apart]


@pytest.mark.parametrize("name", study.STUDIES)
def test_the_stored_rows_are_all_there_and_on_the_page(name):
    rows = study.load(name)
    assert [*rows] == [str(SamplerSetting.parse(s)) for s in study.STUDIES[name].settings.split()]
    assert study.table([*rows.values()]) in (report.STORED / "README.md").read_text()


def test_a_study_that_nobody_knows_needs_settings():
    with pytest.raises(ConfigError, match="give --settings"):
        study.main(["mine"])


def test_the_interval_is_that_of_clusters():
    """Three seeds that agree say no more than one."""
    cases = np.random.default_rng(0).random(60) < 0.8
    text = "".join(str(int(x)) for x in cases)
    three = row(outcomes=(text,) * 3)
    assert interval(three.values(), [*range(60)] * 3) == interval(cases)


def test_a_row_is_kept_for_the_same_weights_and_defaults_only():
    class Pipe:
        weights_fingerprint, defaults, modules = "x", Defaults(), {}

    known = row(config=config_fingerprint(Pipe))
    assert study.fresh(known, Pipe, "4", 2) and study.fresh(replace(known, config=""), Pipe, "4", 2)
    Pipe.defaults = Defaults(num_inference_steps=3)
    assert not study.fresh(known, Pipe, "4", 2)
    assert study.fresh(replace(known, config=""), Pipe, "4", 2)  # of before: nobody knows


def test_a_step_cache_is_of_each_picture_and_of_the_first_settings_own_too(tmp_path, monkeypatch):
    class Pipe:
        weights_fingerprint, defaults, modules, name = "x", Defaults(), {}, "toy"

        def __init__(self, place):
            pass

    calls = []

    def drawn(pipe, cases, batch, *_, step_cache=None, **__):
        calls.append((batch, step_cache and (step_cache.threshold, step_cache.order)))
        return [Image.new("RGB", (64, 64), "red") for _ in cases]

    monkeypatch.setattr(study, "edit_all", drawn)
    settings = [SamplerSetting.parse(text) for text in ("toy:4:cache=0.1,order=0", "toy:2")]
    study.run(settings, held_out_cases(1, 4), "one", tmp_path / "s.json", near=True, load_pipe=Pipe)
    assert calls == [(1, (0.1, 0)), (1, (0.1, 0)), (1, None)]


def test_two_folders_with_weights_of_one_name_have_a_row_each(tmp_path, monkeypatch):
    class Pipe:
        defaults, modules, name = Defaults(), {}, "toy"

        def __init__(self, place):
            self.weights_fingerprint = place

    monkeypatch.setattr(study, "measure", lambda pipe, setting, *_: (
        replace(row(setting), fingerprint=pipe.weights_fingerprint), []))  # fmt: skip
    settings = [SamplerSetting(place, 4) for place in ("toy", "a/toy", "b/toy")]
    rows = study.run(settings, [], "4", tmp_path / "s.json", 2, load_pipe=Pipe)
    assert {name: one.fingerprint for name, one in rows.items()} == {
        "toy, 4 steps": "toy", "a/toy, 4 steps": "a/toy", "b/toy, 4 steps": "b/toy"
    }  # fmt: skip
