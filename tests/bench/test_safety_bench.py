"""The safety bench: its rates by hand, its reading of pictures, and one small run of all of it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext.bench import compare
from minikontext.bench import safety_bench as bench
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError
from minikontext.safety import Safety, placeholder
from minikontext.safety.clip import ClipConfig, TwoTowers, save_safety
from minikontext.text import ToyTextConfig
from minikontext.toyworld import render, vocabulary
from minikontext.toyworld.attacks import ATTACKS
from minikontext.toyworld.concept import PURPLE_STAR, refused


class Knows:
    """A filter that knows the answers it was given; everything else passes."""

    threshold, reason = 0.5, "known"

    def __init__(self, known):
        self.known = known

    def score(self, items):
        return [float(item in self.known) for item in items]


def test_rates_by_hand():
    one = compare.rate([True] + [False] * 3)
    assert (one.count, one.of, one.percent) == (1, 4, 25.0)
    assert one.low == pytest.approx(4.56, abs=0.02) and one.high == pytest.approx(69.94, abs=0.02)
    none = compare.rate([False] * 1000)
    assert none.low == 0 and none.high == pytest.approx(0.38, abs=0.01)
    assert compare.rate([]).of == 0
    assert compare.grouped("aba", [1, 0, 0])["a"].percent == 50


def test_a_roc_curve_by_hand():
    points = bench.roc(np.array([0.2, 0.8]), np.array([0.1, 0.3]))
    assert (0.8, 0.0, 0.5) in points and (0.1, 1.0, 1.0) in points
    assert (0.3, 0.5, 0.5) in points


def test_a_layer_counts_by_sort():
    report = bench.measure_layer(Knows(["x"]), [("a", "x"), ("b", "y")], [("c", "z"), ("c", "x")])
    assert (report.recall.percent, report.false_alarms.percent) == (50, 50)
    assert report.recall_by["a"].percent == 100 and report.recall_by["b"].percent == 0


def test_a_card_is_told_from_pictures():
    assert bench.is_card(placeholder((64, 64)))
    noisy = np.full((64, 64, 3), 128) + np.random.default_rng(0).normal(0, 8, (64, 64, 3))
    assert bench.is_card(Image.fromarray(noisy.astype(np.uint8)))
    for _, case in bench.attack_cases(24):
        assert not bench.is_card(case.target_image())


def test_attacks_are_of_all_kinds_and_benign_cases_have_none():
    attacks = bench.attack_cases(24)
    assert {kind for kind, _ in attacks} == set(ATTACKS)
    assert sum(case.phrasing_held_out for _, case in attacks) == 12
    assert all(refused(case) and case.unseen for _, case in attacks)
    assert not any(map(refused, bench.benign_cases(10) + bench.near_miss_cases(14)))


def test_the_first_layer_that_stops_an_attack_gets_it():
    cases = [case for kind, case in bench.attack_cases(12) if case.contexts][:4]
    pictures = [placeholder((64, 64)).copy() for _ in cases]
    pictures[0].putpixel((0, 0), (9, 9, 9))
    inputs = [image for case in cases[:2] for image in case.context_images()]
    guard = Safety(Knows([cases[0].prompt]), Knows([pictures[0]]), Knows(inputs))
    same = [case.prompt == cases[0].prompt for case in cases]
    assert same.count(True) == 1
    assert bench.stopping_layers(guard, cases, pictures) == ["prompt", "input", "", ""]
    guard = replace(guard, prompt=Knows([]), inputs=Knows([]))
    assert bench.stopping_layers(guard, cases, pictures) == ["output", "", "", ""]


def test_the_price_is_paired_and_called_by_the_engine():
    assert bench.price("1101", "1010").difference == -0.25
    assert bench.price("1101", "1101").word() == "not decided"
    assert bench.price("1" * 40, "0" * 20 + "1" * 20).word() == "worse"
    assert bench.benign_table([], ["a or b: not decided."]).endswith("\n\na or b: not decided.")


def test_the_price_is_beside_the_first_of_the_weights_whatever_was_measured_before(
    tmp_path, monkeypatch
):
    """toy-safe alone at first: its row is the first in the file, and not what others are beside."""

    class Pipe:
        weights_fingerprint, defaults, modules = "x", Defaults(), {}

        def __init__(self, name):
            self.name = name

    rows = {"toy": "1" * 40, "toy-safe": "0" * 20 + "1" * 20}
    zero = {"count": 0, "of": 0, "percent": 0.0}

    def measured(part, pipe, *_):
        row = dict.fromkeys(("success", "near_miss_success", "needless_cards", "near_miss_cards",
                             "shown", "shown_behind_filters", "refused"), zero)  # fmt: skip
        stopped = dict.fromkeys(bench.LAYERS, zero)
        more = {"filter_false_alarms": stopped, "stopped_by": stopped, "shown_by": {}}
        return {"weights": pipe.name, "fingerprint": "x", "successes": rows[pipe.name]} | row | more

    monkeypatch.setattr(bench.KontextPipeline, "from_pretrained", lambda name, **_: Pipe(name))
    monkeypatch.setattr(bench.safety, "load", lambda _: None)
    monkeypatch.setattr(bench, "measure", measured)
    monkeypatch.setattr(bench, "_benign", lambda every: [(i, None) for i in range(40)])
    settings = bench.Settings("toy", "", 4, 12, 300)
    run = {"settings": settings, "folder": tmp_path, "parts": ("attacks", "benign")}
    assert bench.run(["toy-safe"], **run)["price"] == []
    found = bench.run(["toy", "toy-safe"], **run)
    assert found["price"] == [bench.price(rows["toy"], rows["toy-safe"]).verdict("toy-safe", "toy")]
    assert [*found["benign"]] == [*found["attacks"]] == ["toy", "toy-safe"]
    assert "toy-safe is 50.0 points below toy" in (tmp_path / "safety.md").read_text()
    # Weights of one name in two folders have a row each, and changed defaults are measured anew.
    monkeypatch.setattr(bench.KontextPipeline, "from_pretrained", lambda name, **_: Pipe("toy"))
    found = bench.run(["toy", "mine/toy"], **run)
    assert [*found["benign"]] == ["toy", "mine/toy", "toy-safe"]
    assert found["attacks"]["mine/toy"]["weights"] == "mine/toy"
    assert bench.run(["toy"], again=True, **run | {"parts": ("attacks",)}) == found
    monkeypatch.setattr(bench, "measure", None)  # nothing is left to measure
    with pytest.raises(TypeError):
        bench.run(["toy"], again=True, **run)
    assert bench.run(["toy", "mine/toy"], **run) == found
    Pipe.defaults = Defaults(num_inference_steps=3)
    with pytest.raises(TypeError):
        bench.run(["toy"], **run)


@pytest.mark.slow
@pytest.mark.weights
def test_a_small_run_of_everything(tmp_path, monkeypatch):
    torch.manual_seed(0)
    text = ToyTextConfig(vocabulary(), width=16, depth=1, heads=2, pooled=12)
    towers = TwoTowers(ClipConfig(text, channels=(8, 8, 8), groups=4))
    limits = {"prompt": 0.5, "image": 0.5}
    save_safety(towers, tmp_path / "filter", *PURPLE_STAR.captions(), limits)
    options = ["--weights", "toy", "--filter", str(tmp_path / "filter"), "--steps", "2"]
    options += ["--count", "12", "--every", "300", "--output", str(tmp_path)]
    found = bench.main(options)
    assert json.loads((tmp_path / "safety.json").read_text()) == found
    assert "| caption, known phrasing |" in (tmp_path / "safety.md").read_text()
    row = found["attacks"]["toy"]
    assert row["shown"]["of"] == 12
    assert row["shown"]["count"] > 2  # the shipped editor draws what it is asked for
    assert set(found["layers"]) == {
        "prompt", "picture, as rendered", "picture, through the autoencoder",
    }  # fmt: skip
    row["shown"]["count"] = 99  # what was measured is kept, unless the settings are others
    (tmp_path / "safety.json").write_text(json.dumps(found))
    assert bench.main(options)["attacks"]["toy"]["shown"]["count"] == 99
    other = bench.Settings("toy", "", 3, 12, 300)
    assert bench.known(tmp_path / "safety.json", other) == {}


def test_the_oracle_guess_does_not_matter_for_cards():
    blank = np.asarray(placeholder((64, 64)))
    assert not any(PURPLE_STAR.seen_in(blank, case.target) for _, case in bench.attack_cases(12))
    shown = [case for _, case in bench.attack_cases(12) if PURPLE_STAR.shown_in(case.target)]
    assert all(PURPLE_STAR.seen_in(render(case.target), case.target) for case in shown)


def test_senseless_numbers_are_refused(tmp_path):
    for option in (["--steps", "0"], ["--every", "0"], ["--count", "3"]):
        with pytest.raises(ConfigError, match="whole numbers"):
            bench.main([*option, "--output", str(tmp_path)])


def test_results_of_version_0_1_are_read_under_the_name_of_today(tmp_path):
    settings = bench.Settings("toy", "f", 4, 12, 300)
    rows = {"attacks": {"toy": {"weights": "toy", "fingerprint": "x"}}}
    new = {"settings": asdict(settings)} | rows
    for text in (json.dumps(new), json.dumps(new).replace("fingerprint", "sha256")):
        (tmp_path / "safety.json").write_text(text)
        assert bench.known(tmp_path / "safety.json", settings) == new


def _keys(value):
    inner = value.values() if isinstance(value, dict) else value
    if isinstance(value, (dict, list)):
        yield from value if isinstance(value, dict) else ()
        for one in inner:
            yield from _keys(one)


def test_what_is_stored_calls_no_fingerprint_a_sha256():
    """`files.fingerprint` is none: `sha256sum` gives another for large files, and for several."""
    for path in sorted((Path(__file__).parents[2] / "data/bench").rglob("*.json")):
        assert not [key for key in _keys(json.loads(path.read_text())) if "sha256" in key], path
