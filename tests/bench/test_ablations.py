"""The ablations: variants differ in what they say, and a study can be gone on with."""

from dataclasses import replace

import pytest
import torch

from benchmarks import ablations
from benchmarks.ablations import STUDIES, Setting, Variant, VariantEditor
from minikontext.bench.ablations import Run, plot, values
from minikontext.denoiser import Denoiser
from minikontext.errors import ConfigError, TrainingError
from minikontext.training.editor import EditorLossConfig
from minikontext.training.runs import alone

TINY = Setting(level=1, pairs=8, steps=2, batch=4, cases=2, sampling_steps=1)


@pytest.fixture()
def inputs():
    draw = torch.Generator().manual_seed(0)
    z, context = (torch.randn(2, 16, 8, 8, generator=draw) for _ in range(2))
    return z, torch.tensor([0.2, 0.7]), [context]


def editor(variant: Variant) -> VariantEditor:
    """A variant whose output is not the zero of a fresh net."""
    model = VariantEditor(variant, seed=0)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.transformer.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


@torch.no_grad()
def test_virtual_time_one_is_the_usual_editor_and_others_are_not(inputs):
    z, t, contexts = inputs
    answers = {}
    for offset in (0, 1, 10):
        model = editor(Variant(offset=offset))
        words = model.text.tokenize(["make the cat red"] * 2)
        answers[offset] = model(z, t, words, contexts)
    usual = Denoiser(model.transformer, model.text(words), contexts)(z, t)
    assert torch.equal(answers[1], usual)
    assert not torch.allclose(answers[0], usual) and not torch.allclose(answers[10], usual)


@torch.no_grad()
def test_channels_see_the_context_and_cost_no_tokens(inputs):
    z, t, contexts = inputs
    model = editor(Variant(channels=True))
    words = model.text.tokenize(["make the cat red"] * 2)
    seen = []
    model.transformer.img_in.register_forward_hook(lambda m, i, o: seen.append(i[0].shape))
    answer = model(z, t, words, contexts)
    assert answer.shape == z.shape and seen[0] == (2, 16, 128)
    assert not torch.allclose(answer, model(z, t, words, [-contexts[0]]))


def test_training_times_follow_the_name():
    def mean(name):
        draw = torch.Generator().manual_seed(0)
        times = EditorLossConfig(timesteps=name).times(20000, 4096, draw)
        return float(times.mean()), float(((times > 0.1) & (times < 0.9)).float().mean())

    assert mean("uniform") == pytest.approx((0.5, 0.8), abs=0.02)
    assert mean("logit-normal") == pytest.approx((0.5, 0.972), abs=0.02)
    assert mean("shifted")[0] > 0.65
    with pytest.raises(ConfigError, match="timesteps"):
        EditorLossConfig(timesteps="cosine")


def test_a_study_trains_every_variant_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    runs = ablations.study(["context"], 1, TINY, tmp_path / "runs", out)
    mine = {run.variant: run for run in runs if run.study == "context"}
    assert list(mine) == list(STUDIES["context"])
    assert all(len(run.curve) == 2 and run.curve[-1][0] == 8 for run in runs)
    usual = [run for run in runs if STUDIES[run.study][run.variant] == Variant()]
    assert {run.study for run in usual} == set(STUDIES), "the usual editor is part of every study"
    assert all(run.curve == mine["sequence"].curve for run in usual)
    monkeypatch.setattr(ablations, "train_and_score", None)  # nothing is left to train
    assert ablations.study(["context"], 1, TINY, tmp_path / "runs", out) == ablations.load(out)
    with pytest.raises(ConfigError, match="use another --output"):  # runs of two budgets
        ablations.study(["context"], 1, replace(TINY, steps=9), tmp_path / "runs", out)


def test_table_and_plot_show_every_seed():
    runs = [
        Run("context", label, seed, success, 90.0, 30.0, [(64, 1.0), (128, 0.5)])
        for label, success in (("sequence", 80.0), ("channel", 60.0))
        for seed in range(3)
    ]
    runs[0] = Run("context", "sequence", 0, 83.0, 90.0, 30.0, [(64, 1.0), (128, 0.5)])
    assert "| sequence | 3 | 81.0 | 80.0 to 83.0 | 0.5000 |" in ablations.table(runs, "context")
    assert len(plot(runs, "context").axes[0].lines) == 6
    assert values(runs, "context", "sequence") == [83.0, 80.0, 80.0]
    assert values(runs, "context", "channel", "loss") == [0.5] * 3


def test_a_finished_training_is_scored_again_and_not_trained_again(tmp_path, monkeypatch):
    first = ablations.train_and_score(Variant(), 0, TINY, tmp_path)
    monkeypatch.setattr(ablations.Loop, "run", None)
    assert ablations.train_and_score(Variant(), 0, TINY, tmp_path) == first
    folder = next(path.parent for path in tmp_path.glob("*/log.jsonl"))
    with alone(folder), pytest.raises(TrainingError, match="Another training works in"):
        ablations.train_and_score(Variant(), 0, TINY, tmp_path)
