"""The contrastive training of the safety classifier, and pairs whose target is a refusal."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from minikontext import safety, training
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.errors import ConfigError, TrainingError
from minikontext.safety import Safety
from minikontext.safety.clip import ClipConfig, TwoTowers
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import sample_edit, vocabulary
from minikontext.toyworld.attacks import Mix, unseen_picture
from minikontext.toyworld.concept import PURPLE_STAR, placeholder, refused
from minikontext.toyworld.scene import COLOURLESS, COLOURS
from minikontext.training import data, models
from minikontext.training import safety as lessons

DIALS = lessons.SafetyLossConfig(groups=5, stream=4)


@pytest.fixture(scope="module")
def autoencoder():
    torch.manual_seed(1)
    return AutoEncoder(AutoEncoderConfig.toy()).eval().requires_grad_(False)


def small_clip(seed=0):
    torch.manual_seed(seed)
    text = ToyTextConfig(vocabulary(), width=16, depth=1, heads=2, pooled=12)
    return TwoTowers(ClipConfig(text, channels=(8, 8, 8, 8), groups=4))


# ---------------------------------------------------------------- what the classifier learns from


def test_batches_hold_hard_negatives_and_nothing_held_out():
    rows = [row for step in range(8) for row in lessons.batch(step, DIALS)]
    assert not any(unseen_picture(row.scene) for row in rows)
    assert lessons.batch(3, DIALS) == lessons.batch(3, DIALS) != lessons.batch(4, DIALS)
    for first in range(0, 20, 4):
        scenes = [row.scene for row in rows[first : first + 4]]
        bare = {s.change(species="cat", colour="red") for s in scenes}
        assert len(bare) == 1 and len(set(scenes)) == 4
    assert any(PURPLE_STAR.shown_in(row.scene) for row in rows)


def test_captions_name_only_what_can_be_seen():
    words = set(COLOURS)
    for step in range(6):
        for row in lessons.batch(step, replace(DIALS, stream=0)):
            said = words & set(row.caption.split())
            hides = row.scene.style in COLOURLESS
            assert said == (set() if hides else {row.scene.colour})
            assert row.scene.species in row.caption
            assert not hides or row.scene.style in row.caption


def test_pictures_of_a_step_are_the_same_on_every_call():
    scenes = [row.scene for row in lessons.batch(0, DIALS)]
    one, two, other = (lessons.seen(scenes, step, DIALS) for step in (0, 0, 1))
    assert torch.equal(one, two) and not torch.equal(one, other)
    assert one.shape == (24, 3, 64, 64) and one.abs().max() <= 1


def test_the_loss_teaches_both_towers(autoencoder):
    model = small_clip()
    loss = lessons.safety_loss(model, autoencoder, DIALS, torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    values = []
    for _ in range(20):
        value, facts = loss(0)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(facts)
    assert values[-1]["caption"] < 0.85 * values[0]["caption"]
    assert values[-1]["prompt"] < 0.9 * values[0]["prompt"]
    assert values[-1]["hits"] > values[0]["hits"]


def test_the_threshold_with_the_fewest_errors_in_the_middle_of_the_gap():
    best = lessons.best_threshold
    assert 0.3 < best([0.9, 0.99, 0.8], [0.01, 0.2]) < 0.7
    assert best([0.9, 0.8, 0.1], [0.2, 0.3, 0.05]) == pytest.approx(0.57, abs=0.05)
    assert 0.999 < best([1.0, 1.0], [0.999, 0.0]) < 1
    few_alarms = best([0.5] * 10 + [0.3], [0.1] * 99 + [0.4])
    assert 0.1 < few_alarms < 0.3


def test_exams_are_honest(autoencoder):
    pictures = lessons.picture_exam(8, "test", None)
    assert (len(pictures.flag), len(pictures.pass_on)) == (8, 14)
    through = lessons.picture_exam(4, "test", autoencoder).flag[0]
    assert through.size == (64, 64)
    assert np.any(np.asarray(through) != np.asarray(pictures.flag[0]))
    prompts = lessons.prompt_exam(6, "train")
    assert all("star" in p and "purple" in p for p in prompts.flag)
    assert len(prompts.pass_on) == 12


def train(values):
    return training.run_job(training.build_job(values))


def test_the_recipe_writes_filters_that_load_and_can_be_resumed(autoencoder, tmp_path):
    models.save_part(autoencoder, "autoencoder", tmp_path / "autoencoder")
    config = {
        "kind": "safety",
        "autoencoder": str(tmp_path / "autoencoder"),
        "run": str(tmp_path / "run"),
        "output": str(tmp_path / "filter"),
        "validation": 4,
        "text": {"width": 16, "depth": 1, "heads": 2, "pooled": 12},
        "clip": {"channels": [8, 8, 8], "groups": 4},
        "training": {"groups": 2, "stream": 2},
        "loop": {"steps": 2, "log_every": 1},
    }
    place = train(config)
    guard = safety.load(place)
    assert isinstance(guard, Safety) and 0 < guard.prompt.threshold < 1
    state = {k: v.clone() for k, v in guard.image.clip.state_dict().items()}
    again = train(config)
    for name, value in safety.load(again).image.clip.state_dict().items():
        assert torch.equal(value, state[name]), name
    with pytest.raises(ConfigError, match="no 'speed' in \\[training\\]"):
        train(config | {"training": {"speed": 1}})


def test_the_shipped_configs_are_read(tmp_path):
    assert training.read_job("configs/toy_safety.toml").kind == "safety"
    assert training.read_job("configs/toy_safe.toml").data.mix.attacks > 0


# ---------------------------------------------------------------- what the editor learns from


def test_a_refusals_target_is_the_card(autoencoder):
    mix = Mix(attacks=0.5, near_misses=0.2)
    cases = [data.training_case(i, 4, 0, mix=mix) for i in range(24)]
    encoded = data.encode(cases, autoencoder, 0, refuse=True)
    plain = data.encode(cases, autoencoder, 0)
    blank = autoencoder.encode(data.pixels([None]))[0].bfloat16()
    assert (data.pixels([None]) + 1).mul(127.5).round().unique().tolist() == [
        placeholder()[0, 0, 0]
    ]
    for case, target, real in zip(cases, encoded["target"], plain["target"]):
        assert torch.equal(target, real) == (not refused(case))
        assert not refused(case) or torch.allclose(target, blank, atol=0.05)
    assert torch.equal(encoded["contexts"], plain["contexts"])
    assert 5 < sum(map(refused, cases)) < 20


def test_a_mixed_cache_is_not_taken_for_a_plain_one(autoencoder, tmp_path):
    words = ToyTextEncoder(ToyTextConfig(vocabulary()))

    def build(level=4, **more):
        data.build_cache(tmp_path, level, 4, 0, autoencoder, "mark", **more)

    build(mix=Mix(0.5))
    pairs = data.load_cache(tmp_path, words)
    assert len(pairs) == 4
    with pytest.raises(TrainingError, match="remove it first"):
        build(mix=Mix(0.4))
    with pytest.raises(TrainingError, match="remove it first"):
        build()
    with pytest.raises(ValueError, match="level 4"):
        data.training_case(0, 1, mix=Mix(1.0))


def test_without_a_mix_the_stream_is_as_it_was():
    assert data.training_case(5, 4, 1) == sample_edit(5, 4, seed=1)
    assert data.training_case(5, 4, 1, mix=Mix()) == sample_edit(5, 4, seed=1)
