"""The benchmark of a full-size training step at tiny size: the recipe's, as deep as fits."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import gpu_full as gpu
import gpu_training

from minikontext.errors import NotEnoughMemoryError
from minikontext.training import parallel, plan
from minikontext.transformer import TransformerConfig

FLUX = TransformerConfig.flux_dev()


def run(path, monkeypatch, *words):
    given = ["--tiny", "--rounds", "1", "--device", "cpu", "--json", str(path), *words]
    monkeypatch.setattr(gpu, "ready", lambda *_: None)  # the compiler's limits would stay
    monkeypatch.setattr(sys, "argv", ["gpu_training.py", *given])
    gpu_training.main()


def test_it_measures_the_levels_of_checkpointing(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    run(out, monkeypatch, "--only", "full", "selective")
    report = json.loads(out.read_text())
    full, selective = report["cases"]["full"], report["cases"]["selective"]
    assert not report["failed"] and full["double_blocks"] == gpu.TINY.depth
    assert full["seconds"] > 0 and full["samples_per_second"] == pytest.approx(1 / full["seconds"])
    assert full["share_of_rate"] == pytest.approx(full["tflops"] / report["rate_tflops"])
    again = [one["computed_tflops"] / one["tflops"] for one in (full, selective)]
    assert again[0] > again[1] > 1  # a forward pass more, and Muon's products in both
    assert "1 sample(s) on each" in capsys.readouterr().out


def test_what_fails_is_noted(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    free = iter((1000.0, 1e12))
    monkeypatch.setattr(gpu_training, "free_everywhere", lambda world: next(free))
    with pytest.raises(SystemExit) as ended:
        run(out, monkeypatch, "--only", "full", "selective")
    report = json.loads(out.read_text())
    assert ended.value.code == 1 and report["cases"].keys() == {"selective"}
    assert "NotEnoughMemoryError: One double block" in report["failed"]["full"]


@pytest.mark.parametrize("free", [40e9, 79e9, 140e9])
def test_the_cut_is_the_deepest_that_fits(free):
    config = gpu_training.settings("full", 1, tiny=False)
    job = gpu_training.deepest(config, FLUX, free, gpus=1)
    deeper = dict(config, transformer=config["transformer"] | {"depth": job.sizes.depth + 1})
    deeper["transformer"]["depth_single_blocks"] += 2
    loads = [gpu_training.workload(gpu_training.build_job(c)) for c in (config, deeper)]
    peaks = [plan.memory(load, 1)["peak"] for load in loads]
    assert peaks[0] + plan.RESERVE <= free < peaks[1] + plan.RESERVE
    assert job.sizes.depth_single_blocks == 2 * job.sizes.depth
    assert (job.target, job.contexts, job.text) == (4096, 4096, 512)
    assert job.sizes.hidden_size == FLUX.hidden_size


def test_all_of_it_is_taken_where_it_fits_and_nothing_where_nothing_does():
    config = gpu_training.settings("selective", 8, tiny=False)
    assert gpu_training.deepest(config, FLUX, 79e9, gpus=8).sizes == FLUX
    with pytest.raises(NotEnoughMemoryError, match="One double block takes"):
        gpu_training.deepest(config, FLUX, 5e9, gpus=1)


def test_a_step_trains_every_weight(tmp_path):
    """With random weights: zeros of a training from nothing would give most gradients zero."""
    config = gpu_training.settings("selective", 2, tiny=True)
    job = gpu_training.deepest(config, gpu.TINY, math.inf, 1)
    step = gpu_training.training(config, job, parallel.ALONE, str(tmp_path))
    (loss,), loop = step.args, step.func.__self__
    told = step()
    assert math.isfinite(told["loss"]) and told["norm"] > 0 and loop.step == 1
    assert loop.config.half_momentum and not loop.ema and "skipped" not in told  # the recipe's
    loop._gradients(loss)
    assert all(p.grad.abs().max() > 0 for p in loop.model.parameters())
