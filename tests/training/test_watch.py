"""What is watched: the speed, and a loss that can be compared."""

import importlib.util
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from minikontext.errors import MissingPackageError
from minikontext.training.editor import Editor, EditorLossConfig, editor_loss, validate_editor
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.watch import TIMES, Watch

CPU = torch.device("cpu")


@pytest.fixture
def parts(tiny):
    """An editor, and six random pairs of nought to two contexts."""
    from minikontext.training.data import Pairs

    pipe, draw = tiny(), torch.Generator().manual_seed(0)
    model = Editor(pipe.transformer, pipe.text_encoder)
    words = model.text.tokenize(["make the hat red", "a sign"] * 3)[:, None]
    latents = [torch.randn(6, *n, 4, 8, 8, generator=draw) for n in ((), (2,))]
    return model, Pairs(*latents, torch.arange(6) % 3, words, torch.arange(6))


def test_validation_is_the_same_every_time_and_falls_with_training(parts, tmp_path):
    model, pairs = parts
    first = validate_editor(model, pairs, False, CPU)
    torch.manual_seed(99)
    assert validate_editor(model.train(), pairs, False, CPU) == first and model.training
    assert len(first) == 9 and {f"validation_{t:g}" for t in TIMES} < first.keys()
    mean = sum(value for name, value in first.items() if "_" in name) / 8
    assert first["validation"] == pytest.approx(mean, rel=1e-5)
    null = model.text.tokenize([""])[0]
    loss = editor_loss(model, pairs, null, EditorLossConfig(6, bf16=False), CPU)
    watch = Watch(6, 1e9, lambda step: validate_editor(model, pairs, False, CPU), peak=2.0)
    dials = LoopConfig(40, lr=3e-3, muon_lr=1e-2, warmup=2, log_every=15, validate_every=20)
    Loop(model, dials, tmp_path, watch=watch).run(loss)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [15, 20, 30, 40]
    assert ["validation" in line for line in lines] == [False, True, False, True]
    assert lines[3]["validation"] < 0.9 * first["validation"]
    assert all(line["samples_per_second"] > 0 for line in lines)


def test_rates_are_those_of_the_clock():
    told = Watch(samples=16, flops=3e12, peak=4.0).rates(steps=10, seconds=5.0, processes=2)
    assert told == {"samples_per_second": 32.0, "tflops": 3.0, "share": 0.75}
    assert Watch(16, 3e12).rates(10, 0.0) == {}


def test_tensorboard_is_written_or_asked_for(tmp_path):
    model, dials = torch.nn.Linear(1, 1), LoopConfig(1, tensorboard=True)
    if importlib.util.find_spec("tensorboard") is None:
        with pytest.raises(MissingPackageError, match="pip install tensorboard"):
            Loop(model, dials, tmp_path)
        return
    Loop(model, dials, tmp_path).run(lambda step: (model.weight.square().sum(), {}))
    assert list(tmp_path.glob("events.out.tfevents.*"))


def test_wild_steps_are_left_out_and_ten_in_a_row_stop_the_run(tmp_path):
    from minikontext.errors import TrainingError

    model = torch.nn.Linear(1, 1, bias=False)
    loop = Loop(
        model, LoopConfig(60, spike=5.0, warmup=1, decay=0.0, muon_lr=0.0, log_every=1), tmp_path
    )
    seen = []

    def loss(step):
        seen.append(float(model.weight.detach()))
        factor = float("nan") if step == 20 or step > 40 else 1000.0 if step == 30 else 1.0
        return factor * model.weight.sum(), {}

    with pytest.raises(TrainingError, match="ten wild gradients"):
        loop.run(loss)
    assert seen[21] == seen[20] and seen[31] == seen[30] and seen[32] != seen[31]
    assert all(torch.isfinite(p).all() for p in model.parameters()) and len(seen) == 51
    lines = (tmp_path / "log.jsonl").read_text()
    assert '"loss": null' in lines and "NaN" not in lines  # which JSON does not have


def test_validation_is_no_part_of_the_rate(tmp_path):
    model = torch.nn.Linear(1, 1)
    watch = Watch(samples=8, validate=lambda step: time.sleep(0.4) or {})
    dials = LoopConfig(6, log_every=3, validate_every=3, muon_lr=0.0)
    rates = []

    def loss(step):
        time.sleep(0.02)
        return model.weight.sum(), {}

    loop = Loop(model, dials, tmp_path, watch=watch)
    loop.run(loss, lambda facts: rates.append(facts))
    assert "tflops" not in rates[1]
    assert rates[1]["samples_per_second"] > 3 * 8 / 0.4  # the second three steps came after it


def test_steps_that_the_clock_left_out_are_no_part_of_the_rate(tmp_path):
    model, rates = torch.nn.Linear(1, 1), []

    def loss(step):
        time.sleep(0.02)
        return model.weight.sum(), {}

    dials = LoopConfig(10_000, minutes=0.003, log_every=100, muon_lr=0.0)
    Loop(model, dials, tmp_path, watch=Watch(samples=1)).run(loss, rates.append)
    assert rates[-1]["step"] < 20 and 0 < rates[-1]["samples_per_second"] < 60


def test_a_run_that_the_clock_ended_goes_on_with_more_minutes(tmp_path):
    def run(steps, minutes, told=()):
        model = torch.nn.Linear(1, 1)
        dials = LoopConfig(steps, minutes=minutes, log_every=1, muon_lr=0.0)
        loop = Loop(model, dials, tmp_path)
        loop.resume()
        before = loop.step
        loop.run(lambda step: (time.sleep(0.01) or model.weight.sum(), {}))
        return before, loop.step

    first, second, third = (run(10_000, minutes) for minutes in (0.001, 0.001, 0.003))
    assert first[0] == 0 and 0 < first[1] < 10  # its steps are those that were done
    assert second == (first[1], first[1]) and third[0] == first[1] < third[1] < 30
    steps = [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert steps == [*range(1, third[1] + 1)]
    with pytest.warns(UserWarning, match="the config's last: no step is done. For all of its min"):
        assert run(third[1], 1.0) == (third[1], third[1])


def test_wild_steps_in_a_row_are_counted_through_an_interruption(tmp_path):
    from minikontext.errors import TrainingError

    def loop():
        model = torch.nn.Linear(1, 1, bias=False)
        dials = LoopConfig(60, spike=5.0, warmup=1, decay=0.0, muon_lr=0.0)
        one = Loop(model, dials, tmp_path)
        return one, lambda step: ((1.0 if step < 5 else 1000.0) * model.weight.sum(), {})

    first, loss = loop()
    for _ in range(12):
        first._one(loss)
    first.save()
    second, loss = loop()
    assert second.resume() and second.skipped == 7
    with pytest.raises(TrainingError, match="ten wild gradients"):
        second.run(loss)
    assert second.step == 14


def test_edits_are_tried_and_shown_while_training(tmp_path):
    from PIL import Image

    from minikontext.training import jobs, models
    from minikontext.training.parallel import ALONE
    from minikontext.training.tries import held_out_check

    toy = Path(__file__).parents[2] / "data" / "weights" / "toy"
    config = {"kind": "editor", "run": str(tmp_path), "output": "x", "autoencoder": str(toy)}
    config |= {"data": {"level": 4, "count": 1, "validation": 6, "tries": 4}}
    job = jobs.build_job(config | {"loop": {"steps": 1, "validate_every": 1}})
    model = models.new_editor(job.transformer, job.text, start=str(toy)).float()
    autoencoder = models.load_autoencoder(toy, CPU)
    check = held_out_check(model, autoencoder, job.data, tmp_path, False, ALONE)
    assert check(7)["validation"] < 1  # the shipped weights
    for p in model.parameters():
        p.data.mul_(0.5)
    assert check(8)["validation"] > 1
    errors = []
    for step in (7, 8):
        sheet = Image.open(tmp_path / "samples" / f"step-{step:08d}.png")
        assert sheet.size == (3 * 64, 4 * 64)  # the input, the right answer, what came out
        right, out = np.asarray(sheet, dtype=float)[:, 64:].reshape(4 * 64, 2, 64, 3).swapaxes(0, 1)
        errors.append(np.abs(right - out).mean())
    assert errors[0] < 10 < errors[1]
