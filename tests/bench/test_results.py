"""The results page, chains of edits, variety, and the autoencoders' table, each in small."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image

from minikontext.bench import autoencoder_bench, diversity, multiturn, results, study
from minikontext.bench.oracle_bench import Report, summarise
from minikontext.bench.study import Row
from minikontext.cli import app
from minikontext.editing.defaults import Defaults
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import held_out, render
from minikontext.toyworld.scene import IDENTITY


@pytest.fixture(scope="module")
def toy():
    return KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")


# ---------------------------------------------------------------- the page


def test_the_bench_goes_on_and_gives_the_same_bytes(tmp_path, capsys, monkeypatch):
    command = ["bench", "mini", "--weights", "toy", "--steps", "1", "--every", "650"]
    for folder in ("a", "b"):
        assert app.main([*command, "--output", str(tmp_path / folder)]) == 0
    kept = (tmp_path / "a" / "results.json").read_bytes()
    assert kept == (tmp_path / "b" / "results.json").read_bytes()
    assert b"0.0" in kept
    rows = study.load(tmp_path / "a" / "results.json")
    assert list(rows) == [results.COPY, "toy, 1 steps"] and rows[results.COPY].report.success == 0
    assert not (tmp_path / "a" / "latency.json").exists()
    assert app.main(["bench", "mini", "--clock", "--output", str(tmp_path / "a")]) == 0
    assert json.loads((tmp_path / "a" / "latency.json").read_text())["toy, 1 steps"]["per_edit"] > 0
    for name in ("radar.png", "latency.png"):
        assert Image.open(tmp_path / "a" / name).width <= 800
    assert "| toy, 1 steps | 3 |" in (tmp_path / "a" / "README.md").read_text()
    monkeypatch.setattr(results, "measure", None)  # nothing is left to measure
    assert app.main([*command, "--output", str(tmp_path / "a")]) == 0
    assert (tmp_path / "a" / "results.json").read_bytes() == kept
    assert app.main([*command[:-1], "640", "--output", str(tmp_path / "a")]) == 2
    assert "never replaces the whole" in capsys.readouterr().err


def test_two_folders_with_weights_of_one_name_have_a_row_each_and_are_timed_by_it(
    tmp_path, monkeypatch
):
    class Pipe:
        defaults, modules, name = Defaults(), {}, "toy"

        def __init__(self, place):
            self.weights_fingerprint = place

    timed, whole = [], Report(cases=2, success=50.0, interval=(0.0, 100.0), followed=50.0)

    def measured(pipe, setting, *_):
        return Row(setting, pipe.weights_fingerprint, "every 900th", whole, [50.0], ["10"])

    monkeypatch.setattr(results.KontextPipeline, "from_pretrained", Pipe)
    monkeypatch.setattr(results, "measure", measured)
    places = ["a/toy", "b/toy", "toy"]
    rows = results.run(places, [4], tmp_path, 900)
    assert [*rows][1:] == [f"{place}, 4 steps" for place in places]
    monkeypatch.setattr(results, "edit_all", lambda pipe, *_, **__: timed.append(pipe))
    results.timed(rows, count=1, rounds=1)
    assert [pipe.weights_fingerprint for pipe in timed] == places * 2
    rows["toy, 4 steps"] = replace(rows["toy, 4 steps"], fingerprint="another")
    with pytest.raises(ConfigError, match="toy, 4 steps: its weights are others by now"):
        results.timed(rows, count=1, rounds=1)


def test_copied_inputs_are_clustered_by_base_scene_as_the_page_says(monkeypatch):
    told = []

    def noted(rows, clusters=None):
        told.append(clusters)
        return summarise(rows, clusters=clusters)

    monkeypatch.setattr(results, "summarise", noted)
    results.copied(400)
    assert told == [results.bases(400, 1)] and len(told[0]) > 1


def test_results_of_another_seed_are_others(tmp_path, monkeypatch, capsys):
    """Rows that are there are kept: they would be shown as those of the seed that is asked for."""
    command = ["bench", "mini", "--weights", "toy", "--steps", "1", "--every", "650"]
    there = ["--output", str(tmp_path)]
    assert app.main([*command, *there]) == 0 and results.part_name(1) == ""
    assert app.main([*command, *there, "--seed", "3"]) == 2
    assert "got every 650th seed 3" in capsys.readouterr().err
    assert app.main([*command[:-2], "--seed", "3", "--store"]) == 2
    monkeypatch.chdir(tmp_path)
    assert app.main([*command, "--seed", "3"]) == 0
    rows = study.load(tmp_path / "runs" / "bench" / "every-650th-seed-3" / "results.json")
    assert rows[results.COPY].cases == "every 650th seed 3"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mini", "--steps", "0", "--every", "900"], "from 1"),
        (["mini", "--weights", "none", "--every", "900"], "No weights called"),
        (["mini", "--weights", "toy", "none", "--every", "900", "--steps", "1"], "No weights"),
        (["diversity", "--weights", "toy", "none", "--prompts", "1"], "No weights called"),
        (["multiturn", "--chains", "0"], "--chains 0"),
        (["multiturn", "--turns", "0"], "--turns 0"),
        (["diversity", "--prompts", "0"], "--prompts 0"),
        (["diversity", "--seeds", "0"], "--seeds 0"),
    ],
)
def test_mistakes_are_told_before_any_work(tmp_path, capsys, arguments, words):
    assert app.main(["bench", *arguments, "--output", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", app.BENCHES)
def test_every_bench_has_help(capsys, name):
    with pytest.raises(SystemExit) as stop:
        app.main(["bench", name, "--help"])
    assert stop.value.code == 0
    assert f"usage: minikontext bench {name}" in capsys.readouterr().out


# ---------------------------------------------------------------- chains


def test_chains_join_and_keep_the_character():
    for number in range(6):
        cases = multiturn.chain(number)
        assert len(cases) == 8 and cases == multiturn.chain(number)
        for before, after in pairwise(cases):
            assert after.contexts == (before.target,)
        assert len({case.target.identity for case in cases}) == 1
        assert not {"species", "colour"} & {name for case in cases for name in case.claims}
    assert multiturn.chain(0) != multiturn.chain(1) and len(IDENTITY) == 4


def test_known_chains_show_nothing_that_is_held_out_and_the_others_characters_that_are():
    for number in range(6):
        known, usual = multiturn.chain(number, known=True), multiturn.chain(number)
        assert not any(case.unseen for case in known)
        held = [held_out("identity", *cases[0].target.identity) for cases in (known, usual)]
        assert held == [False, True]


def test_paste_back_keeps_what_was_not_touched():
    case = next(c for c in multiturn.chain(3) if c.task == "local")
    before, target = case.context_images()[0], case.target_image()
    noise = np.random.default_rng(0).normal(0, 3, (64, 64, 3))
    worse = Image.fromarray((np.asarray(target) + noise).clip(0, 255).astype(np.uint8))
    pasted = np.asarray(multiturn.paste_back(before, worse))
    same = (np.asarray(before) == pasted).all(-1)
    changed = np.abs(np.asarray(before).astype(int) - np.asarray(target)).max(-1) > 60
    assert same.mean() > 0.5
    assert np.abs(pasted.astype(int) - np.asarray(target))[changed].mean() < 6


def test_drift_is_measured_in_every_way(toy, tmp_path):
    chains = [multiturn.chain(i, 2) for i in range(2)]
    shown = {w: multiturn.run(toy, chains, w, num_inference_steps=2) for w in multiturn.WAYS}
    first = [np.asarray(turns[0][0]) for way, turns in shown.items() if way != "paste-back"]
    assert all(np.array_equal(first[0], one) for one in first), "the first edit starts alike"
    assert not np.array_equal(*(np.asarray(shown[w][1][0]) for w in ("pixels", "latents")))
    right = [[chain[turn].target_image() for chain in chains] for turn in range(2)]
    drift = multiturn.measure(toy, chains, right)
    assert drift.identity == drift.followed == [100, 100] and drift.psnr == [60, 60]
    assert drift.cosine == drift.right_cosine and all(0 < c < 1 for c in drift.cosine)
    drifts = {way: multiturn.measure(toy, chains, turns) for way, turns in shown.items()}
    kept = drift.outcomes
    assert kept == {"identity": ["11", "11"], "followed": ["11", "11"]} and drift.first == 0
    multiturn.save(drifts, {"weights": "toy"}, tmp_path)
    assert multiturn.load(tmp_path / "multiturn.json") == drifts
    # Each way is compared with the right answers of its own chains.
    drifts["known"] = replace(drift, right_cosine=[0.25, 0.125])
    own = {"right answers": drifts["latents"].right_cosine, "right answers, known": [0.25, 0.125]}
    cosines = multiturn.plot(drifts).axes[2]
    dotted = cosines.lines[4:]
    assert {line.get_label(): list(line.get_ydata()) for line in dotted} == own
    assert cosines.get_ylabel() == "cosine to the input"
    assert "| right answers, known | cosine | 0.250 | 0.125 |" in multiturn.table(drifts)


def test_ways_of_chaining_are_decided_by_chain_where_outcomes_are_stored():
    """108 base scenes, two chains of each: they are clusters."""
    lists = {n: [90.0, 50.0] for n in ("identity", "followed", "psnr", "cosine", "right_cosine")}
    words = "1" * 40 + "0" * 176, "1" * 32 + "0" * 184
    one, two = (
        multiturn.Drift(216, **lists, outcomes={"identity": ["1" * 216, word]}) for word in words
    )
    found = multiturn.beside(one, two, 2)
    assert (found.observations, found.clusters, found.word()) == (216, 108, "better")
    assert multiturn.beside(one, two, 1).word() == "not decided"
    text = multiturn.decided({"pixels": two, "latents": one}, (2,))
    assert "- after 2 turns, latents is 3.7 points above pixels" in text and "Stored" not in text
    bare = multiturn.Drift(216, **lists | {"identity": [90.0, 40.0]})
    assert multiturn.beside(multiturn.Drift(216, **lists), bare, 2).clusters == 432
    assert "Stored before outcomes" in multiturn.decided({"pixels": two, "latents": bare}, (2,))
    assert multiturn.decided({"latents": one}) == ""


# ---------------------------------------------------------------- variety


class OneAnswer:
    """Draws one right answer whatever the seed, or as many as there are seeds."""

    def __init__(self, scenes):
        self.scenes = scenes

    def __call__(self, prompts, image, seed, **_):
        out = type("Out", (), {})()
        out.images = [Image.fromarray(render(self.scenes[s % len(self.scenes)])) for s in seed]
        return out


def test_variety_is_counted_among_right_answers_only():
    case = next(c for c in diversity.open_prompts(6) if not c.contexts and "eyes" in c.free)
    scenes = [case.target.change(eyes=e) for e in ("round", "big", "sleepy", "single")]
    one = diversity.diversity(OneAnswer(scenes[:1]), [case], range(4), batch=3)
    four = diversity.diversity(OneAnswer(scenes), [case], range(4), batch=3)
    assert (one.right, one.distinct, one.bits["eyes"], one.spread) == (100, 1, 0, 0)
    assert (four.right, four.distinct, four.bits["eyes"]) == (100, 4, 2) and four.spread > 0
    wrong = case.target.change(species="cat" if case.target.species != "cat" else "bear")
    half = diversity.diversity(OneAnswer([scenes[0], wrong]), [case], range(4))
    assert (half.right, half.distinct) == (50, 1)
    assert "| distinct answers | 1.0 of 4 seeds |" in diversity.table({"one": one})
    assert four.each["distinct"] == [4] and four.each["eyes"] == [2.0]


def test_variety_is_decided_prompt_by_prompt():
    def with_answers(*distinct):
        bits = [1.0] * len(distinct)
        return diversity.Diversity(
            9, 4, 100.0, 3.0, 1.0, {}, {}, {}, {"distinct": distinct, "eyes": bits}
        )

    many, few = with_answers(*range(10, 19)), with_answers(*range(7, 16))
    (line,) = diversity.compared({"toy": many, "pro": few})
    assert line == "- pro beside toy, by prompt: distinct less varied, eyes not decided."
    assert diversity.beside(few, many, share=0.5).word() == "better"
    with pytest.raises(ConfigError, match="got 0 and 9"):
        diversity.beside(replace(few, each={}), many)


def test_variety_is_compared_among_equal_prompts_and_numbers_of_seeds_only():
    plain = diversity.Diversity(9, 4, 100.0, 3.0, 1.0, {}, {}, {}, {"distinct": [*range(9)]})
    more = replace(plain, each={"distinct": [*range(9, 18)]})
    results = {
        "toy": plain,
        "toy, more prompts": replace(plain, prompts=12, each={"distinct": [1] * 12}),
        "toy, more seeds": replace(more, seeds=64),
        "toy, edits": replace(plain, questions="edits"),
        "pro, edits": replace(more, questions="edits"),
    }
    lines = ["- pro, edits beside toy, edits, by prompt: distinct more varied."]
    assert diversity.compared(results) == lines
    case = next(c for c in diversity.open_prompts(6) if not c.contexts)
    one, other = (diversity.diversity(OneAnswer([case.target]), [c], range(2)).questions
                  for c in (case, replace(case, prompt="draw a fox")))  # fmt: skip
    assert one and one != other


def test_a_case_that_leaves_nothing_free_has_no_variety():
    scenes = [multiturn.chain(0)[0].target]
    closed = multiturn.chain(0)[0]
    with pytest.raises(ValueError, match="free"):
        diversity.diversity(OneAnswer(scenes), [closed], range(2))


# ---------------------------------------------------------------- autoencoders


def test_distances_know_equal_and_worse():
    right = render(multiturn.chain(0)[0].target)
    noise = np.random.default_rng(0).normal(0, 1, right.shape)
    little, much = (np.clip(right + s * noise, 0, 255).astype(np.uint8) for s in (5, 40))
    assert autoencoder_bench.ssim(right, right) == pytest.approx(1)
    assert autoencoder_bench.perceptual(right, right) == 0
    assert autoencoder_bench.ssim(right, little) > autoencoder_bench.ssim(right, much)
    assert autoencoder_bench.perceptual(right, little) < autoencoder_bench.perceptual(right, much)


def test_equal_budgets_are_trained_measured_and_written(tmp_path, capsys):
    command = ["bench", "autoencoder", "--channels", "4", "16", "--steps", "2", "--scenes", "4"]
    command += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path)]
    assert app.main(command) == 0
    found = json.loads((tmp_path / "autoencoder.json").read_text())
    assert list(found) == ["4 channels, 2 steps", "16 channels, 2 steps"]
    assert all(row["psnr"] > 5 and 0 <= row["ssim"] <= 1 for row in found.values())
    assert (tmp_path / "autoencoder.png").exists() and "SSIM" in capsys.readouterr().out
    for channels in (4, 16):
        model = autoencoder_bench.train(channels, 2, tmp_path / "runs")  # is there already
        assert model.encode(torch.zeros(1, 3, 64, 64)).shape == (1, channels, 8, 8)


def test_other_chains_can_be_asked(toy, tmp_path):
    asked = ["--chains", "1", "--first", "3", "--turns", "1", "--ways", "latents", "--steps", "1"]
    multiturn.main([*asked, "--output", str(tmp_path)])
    (case,) = multiturn.chain(3, 1)
    pictures = [case.context_images()[0], case.target_image()]
    before, right = (multiturn.features(toy, [picture]) for picture in pictures)
    found = multiturn.load(tmp_path / "multiturn.json")["latents"].right_cosine
    assert found == [pytest.approx(float(torch.cosine_similarity(before, right)), abs=1e-3)]
