"""Training: it learns, it is the same when resumed, and it never pairs the wrong pictures."""

import copy
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from minikontext import distillation, training
from minikontext.autoencoder import AutoEncoder, AutoEncoderConfig
from minikontext.distillation.reproduce import read_stages
from minikontext.errors import ConfigError, OutputError, TrainingError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped
from minikontext.toyworld import language, render, sample_edit
from minikontext.training import models
from minikontext.training.data import build_cache, load_cache, wordings
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.optimizer import Muon, MuonAdamW, is_matrix, learning_rate
from minikontext.training.pictures import PictureTraining, picture_error, worst_places

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import snapshot

AUTOENCODER = {
    "ch": 4,
    "ch_mult": [1, 2, 2, 2],
    "norm_groups": 2,
    "num_res_blocks": 1,
}
TRANSFORMER = {
    "hidden_size": 32,
    "num_heads": 2,
    "axes_dim": [4, 6, 6],
    "depth": 1,
    "depth_single_blocks": 1,
    "context_in_dim": 16,
    "vec_in_dim": 16,
}
LOOP = {"steps": 6, "warmup": 2, "log_every": 1, "lr": 1e-3, "muon_lr": 1e-3}


def train(values, **more):
    """Run a config's training as the command does."""
    return training.run_job(training.build_job(values), **more)


def new_editor(values):
    job = training.build_job(values)
    return models.new_editor(job.transformer, job.text, job.seed)


@pytest.fixture(scope="module")
def autoencoder_folder(tmp_path_factory):
    """A small autoencoder, trained for a moment by the real recipe."""
    folder = tmp_path_factory.mktemp("autoencoder")
    config = {
        "kind": "world_autoencoder",
        "run": str(folder / "run"),
        "output": str(folder / "weights"),
        "autoencoder": AUTOENCODER,
        "training": {"pixels": 8192, "sizes": [[64, 64]], "bf16": False},
        "loop": LOOP,
    }
    return train(config)


def editor_config(folder, autoencoder_folder, **loop):
    return {
        "kind": "editor",
        "autoencoder": str(autoencoder_folder),
        "run": str(folder / "run"),
        "output": str(folder / "weights"),
        "transformer": TRANSFORMER,
        "text": {"depth": 1, "heads": 2},
        "data": {"level": 4, "count": 40},
        "training": {"batch": 4, "bf16": False},
        "loop": {**LOOP, **loop},
    }


def test_another_config_is_told_before_anything_is_encoded(tmp_path, autoencoder_folder):
    values = editor_config(tmp_path, autoencoder_folder, steps=1)
    train(values | {"data": {"level": 4, "count": 4}})
    before = snapshot(tmp_path / "run")
    with pytest.raises(TrainingError, match=r"\[data\] count was 4, is 8"):
        train(values | {"data": {"level": 4, "count": 8}})
    assert snapshot(tmp_path / "run") == before
    train(values | {"data": {"level": 4, "count": 8}}, resume=False)


def test_learning_rate_rises_stays_and_falls():
    rates = [learning_rate(s, 100, 10, decay=0.5) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[10:50] == [1.0] * 40
    assert rates[50:] == sorted(rates[50:], reverse=True) and rates[100] < 1e-6


def test_muon_gets_the_hidden_matrices_and_only_them():
    model = AutoEncoder(AutoEncoderConfig.toy())
    optimizer = MuonAdamW(model, 1e-3, 1e-3)
    assert "encoder.mid.block_1.conv1.weight" in optimizer.views
    assert "encoder.conv_in.weight" not in optimizer.views
    assert not is_matrix("double_blocks.0.img_mod.lin.weight", torch.ones(2, 2))
    assert all(model.get_parameter(n).ndim >= 2 for n in optimizer.views)
    kernel = torch.ones(2, 2, 3, 3)
    for alone in ("", "decoder."):  # what makes pixels is no hidden matrix; the latents' is
        assert is_matrix(f"{alone}mid.block_1.conv1.weight", kernel)
        assert not is_matrix(f"{alone}conv_out.weight", kernel)
    assert is_matrix("encoder.conv_out.weight", kernel)


def test_a_part_of_the_model_can_learn_faster():
    model = nn.ModuleDict({"body": nn.Linear(2, 2, bias=False), "heads": nn.Linear(2, 2)})
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = MuonAdamW(model, 1e-3, 1e-3, rates={"heads": 5.0})
    for p in model.parameters():
        p.grad = torch.eye(2) if p.ndim == 2 else torch.ones(2)
    optimizer.step(1.0)
    moved = {n: float((p.detach() - before[n]).abs().max()) for n, p in model.named_parameters()}
    assert moved["heads.weight"] == pytest.approx(5 * moved["body.weight"], rel=1e-3)
    assert moved["heads.bias"] == pytest.approx(5e-3, rel=1e-3)


def test_a_rate_of_a_part_that_is_not_there_is_refused():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "heads": nn.Linear(2, 2)})
    with pytest.raises(ConfigError, match="no part is called 'head'; there are body, heads"):
        MuonAdamW(model, 1e-3, 1e-3, rates={"body": 2.0, "head": 5.0})


@pytest.mark.parametrize("config", ["toy_pro", "toy_max", None])
def test_both_players_of_ladd_forget_fast_and_other_trainings_as_ever(config, tmp_path):
    torch.manual_seed(0)
    stages = read_stages(shipped("configs", "lineage"))
    how = LoopConfig(**stages[config].config["loop"]) if config else LoopConfig(2, muon_lr=0.0)
    model = nn.ModuleDict({"student": nn.Linear(3, 2), "heads": nn.Linear(3, 2)})
    beside, rates = copy.deepcopy(model), {"heads": 1.0} | how.rates
    loop = Loop(model, how, tmp_path)
    parts = [{"params": beside[n].parameters(), "lr": how.lr * rates.get(n, 1)} for n in beside]
    right = torch.optim.AdamW(parts, betas=(0.5 if config else 0.9, 0.99), weight_decay=0.0)
    for sign in (1.0, -2.0):
        for p, q in zip(model.parameters(), beside.parameters(), strict=True):
            p.grad, q.grad = torch.full_like(p, sign), torch.full_like(p, sign)
        loop.optimizer.step(1.0)
        right.step()
    for p, q in zip(model.parameters(), beside.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")
@pytest.mark.parametrize("shape", [(24, 8), (8, 24)])
def test_muon_agrees_with_pytorchs(shape):
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    shaped = {"adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.1}
    parts = Muon([ours], 0.1, 0.1), torch.optim.Muon([theirs], 0.1, **shaped)
    for _ in range(4):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        for part in parts:
            part.step()
    assert (ours - 1).abs().mean() > 0.05
    torch.testing.assert_close(ours, theirs, atol=5e-3, rtol=0)  # theirs is rounded to bfloat16


def test_muon_trains_the_weights_themselves_not_copies():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4, 1))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = MuonAdamW(model, 1e-2, 1e-2)
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step(1.0)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())
    copied = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    with pytest.raises(ConfigError, match="contiguous"):
        MuonAdamW(copied, 1e-2, 1e-2)


def test_a_loop_learns_a_line(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 4)
    x = torch.randn(64, 4)
    y = x @ torch.randn(4, 4)

    def loss(step):
        return (model(x) - y).square().mean(), {}

    loop = Loop(model, LoopConfig(steps=300, lr=3e-2, muon_lr=3e-2, warmup=5), tmp_path)
    first = float(loss(0)[0].detach())
    loop.run(loss)
    assert float(loss(0)[0].detach()) < 0.01 * first


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    model = torch.nn.Linear(1, 1)
    loop = Loop(model, LoopConfig(steps=3), tmp_path)
    with pytest.raises(TrainingError, match="nan"):
        loop.run(lambda step: (model.weight.sum() * float("nan"), {}))


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(tmp_path, autoencoder_folder):
    whole = editor_config(tmp_path / "whole", autoencoder_folder)
    train(whole)

    class Stop(Exception):
        pass

    def interrupt(facts):
        if facts["step"] == 3:
            raise Stop

    parts = editor_config(tmp_path / "parts", autoencoder_folder)
    with pytest.raises(Stop):
        train(parts, on_log=interrupt)
    train(parts)
    a, b = (
        KontextPipeline.from_pretrained(tmp_path / name / "weights") for name in ("whole", "parts")
    )
    for (name, p), q in zip(
        a.transformer.state_dict().items(), b.transformer.state_dict().values(), strict=True
    ):
        assert torch.equal(p, q), name
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "parts" / "run" / "log.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 7))


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    import resource

    loop = Loop(torch.nn.Linear(64, 64), LoopConfig(steps=2), tmp_path)
    loop.save()
    whole = (tmp_path / "checkpoint.safetensors").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))
    try:
        with pytest.raises(OutputError, match="Cannot write"):
            loop.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == whole
    assert loop.store.newest() and len(list(tmp_path.iterdir())) == 1


def small_run(folder, until=9, **dials):
    """A loop over a small net that learns from noise, and its loss."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8)

    def loss(step):
        x = torch.randn(4, 8, generator=torch.Generator().manual_seed(step))
        return (model(x) - 1).square().mean(), {}

    return Loop(model, LoopConfig(until, warmup=1, log_every=1, **dials), folder), loss


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_step_lets_it_end(tmp_path, number):
    whole, loss = small_run(tmp_path / "whole")
    whole.run(loss)
    cut, loss = small_run(tmp_path / "cut")
    update = cut.optimizer.step

    def interrupted(rate):
        if cut.step == 4:
            os.kill(os.getpid(), number)
        update(rate)

    cut.optimizer.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        cut.run(loss)
    assert cut.step == 5
    again, loss = small_run(tmp_path / "cut")
    assert again.resume() and again.step == 5
    again.run(loss)
    for one, other in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(whole.ema[name], again.ema[name]) for name in whole.ema)


def test_a_second_signal_does_not_wait_and_saves_nothing_half_done(tmp_path):
    loop, loss = small_run(tmp_path, save_every=2)

    def stuck(rate):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one was not heard")

    update = loop.optimizer.step
    loop.optimizer.step = lambda rate: stuck(rate) if loop.step == 5 else update(rate)
    with pytest.raises(KeyboardInterrupt):
        loop.run(loss)
    assert loop.store.newest()[1]["step"] == "4"


def test_a_run_that_fails_keeps_the_last_two_good_checkpoints(tmp_path):
    loop, loss = small_run(tmp_path, save_every=3)
    with pytest.raises(TrainingError, match="loss is nan at step 7"):
        loop.run(lambda step: (loss(step)[0] * (float("nan") if step == 7 else 1), {}))
    file, last = tmp_path / "checkpoint.safetensors", tmp_path / "checkpoint.last.safetensors"
    place, facts = loop.store.newest()
    assert (place, facts["step"]) == (file, "6")
    file.write_bytes(file.read_bytes()[:-9])
    place, facts = loop.store.newest()
    assert (place, facts["step"]) == (last, "3")
    again, loss = small_run(tmp_path)
    assert again.resume() and again.step == 3


def test_what_cannot_be_validated_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="validate_every"):
        small_run(tmp_path, validate_every=2)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    loop = Loop(torch.nn.Linear(2, 2), LoopConfig(steps=1), tmp_path)
    loop.save()
    with pytest.raises(TrainingError, match="another model"):
        Loop(torch.nn.Linear(3, 2), LoopConfig(steps=1), tmp_path).resume()


def test_cached_pairs_are_keyed_by_sample_and_survive_an_interruption(tmp_path, autoencoder_folder):
    autoencoder = models.load_autoencoder(autoencoder_folder, torch.device("cpu"))
    model = new_editor(editor_config(tmp_path, autoencoder_folder))
    build_cache(tmp_path / "c", 4, 12, 0, autoencoder, "x", shard=4)
    (tmp_path / "c" / "pairs-00000004.safetensors").unlink()
    build_cache(tmp_path / "c", 4, 12, 0, autoencoder, "x", shard=4)
    pairs = load_cache(tmp_path / "c", model.text)
    assert pairs.index.tolist() == list(range(12))
    for i in (0, 5, 11):
        case = sample_edit(i, 4)
        pixels = torch.from_numpy(render(case.target).copy()).permute(2, 0, 1)[None] / 127.5 - 1
        latents = autoencoder.encode(pixels)[0].detach().bfloat16()
        assert torch.allclose(latents.float(), pairs.target[i].float(), atol=0.05)
        assert torch.equal(pairs.tokens[i], model.text.tokenize(wordings(case)))
        assert wordings(case)[0] == case.prompt and len(set(wordings(case))) > 1
        assert int(pairs.count[i]) == len(case.contexts)
    with pytest.raises(TrainingError, match="remove it"):
        build_cache(tmp_path / "c", 4, 12, 0, autoencoder, "another", shard=4)


def test_trainings_can_share_a_folder_of_pairs(tmp_path, autoencoder_folder):
    config = editor_config(tmp_path, autoencoder_folder)
    config["data"]["folder"] = str(tmp_path / "pairs")
    train(config)
    file = tmp_path / "pairs" / "pairs-00000000.safetensors"
    before = file.stat().st_mtime_ns
    train(config | {"run": str(tmp_path / "second")})
    assert file.stat().st_mtime_ns == before
    assert not (tmp_path / "second" / "pairs").exists()


def test_a_cache_of_another_world_is_refused(tmp_path, autoencoder_folder, monkeypatch):
    autoencoder = models.load_autoencoder(autoencoder_folder, torch.device("cpu"))
    build_cache(tmp_path, 1, 2, 0, autoencoder, "x")
    heard = language.PHRASINGS["recolour_character"]
    monkeypatch.setitem(language.PHRASINGS, "recolour_character", heard[::-1])
    with pytest.raises(TrainingError, match="world"):
        build_cache(tmp_path, 1, 2, 0, autoencoder, "x")


def test_squared_errors_count_as_much_as_asked():
    right = torch.zeros(2, 3, 8, 8)
    spread, single = right + 0.1, right.clone()
    single[0, 0, 0, 0] = 0.1 * single.numel()  # the same absolute error, in one place
    dials = [PictureTraining(squared=s, gradient=0.0) for s in (0.0, 1.0, 5.0)]
    by = [picture_error(spread, right, one) for one in dials]
    assert [float(v) for v in by] == pytest.approx([0.1, 0.11, 0.15], abs=1e-4)
    assert float(picture_error(single, right, dials[0])) == pytest.approx(0.1, abs=1e-4)
    assert picture_error(single, right, dials[2]) > 10 * by[2]


def test_what_is_lost_in_one_place_counts_more_than_the_same_everywhere():
    even, lost = torch.full((2, 3, 16, 16), 0.1), torch.zeros(2, 3, 16, 16)
    lost[..., 4:8, 8:12] = 0.4  # one place of sixteen, of the same squared error in the mean
    assert float(worst_places(even)) == pytest.approx(0.01, rel=1e-3)
    assert float(worst_places(lost)) == pytest.approx(0.16 / 4, rel=1e-3)
    dials = [PictureTraining(worst=w) for w in (0.0, 2.0)]
    errors = [float(picture_error(lost, torch.zeros_like(lost), one)) for one in dials]
    assert errors[1] - errors[0] == pytest.approx(2 * 0.04, rel=1e-3)
    assert torch.isfinite(torch.func.grad(worst_places)(torch.zeros(1, 3, 8, 8))).all()


@pytest.mark.parametrize(
    "text", ["kind = 'painter'", "kind = ", "", "kind = 'editor'\nloop = {stride = 3}"]
)
def test_configs_that_do_not_fit_are_refused(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises((ConfigError, KeyError)):
        training.main(path)


def test_the_shipped_configs_can_be_read():
    from pathlib import Path

    for path in (Path(__file__).parents[2] / "configs").glob("*.toml"):
        kinds = (*training.run.TRAIN, *distillation.KINDS)
        assert training.read_config(path, kinds)["kind"] in kinds
