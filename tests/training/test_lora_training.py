"""A LoRA trained on a folder of triplets: the base stays, the file opens, the run goes on."""

import numpy as np
import pytest
import torch

from minikontext.course import sepia
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.training.recipes import train_lora


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sepia.write(tmp_path_factory.mktemp("sepia"), count=8).parent


def config(source, folder, steps):
    return {
        "parts": "toy", "run": folder / "run", "output": folder / "x.safetensors",
        "data": {"source": source, "side": 64}, "lora": {"rank": 4},
        "training": {"batch": 4, "bf16": False},
        "loop": {"steps": steps, "lr": 5e-3, "muon_lr": 0.0, "warmup": 2, "ema": 0.0},
    }  # fmt: skip


def test_a_lora_learns_and_its_file_opens(source, tmp_path):
    losses = []
    path = train_lora(config(source, tmp_path, 40), on_log=lambda m: losses.append(m["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    before = {n: p.clone() for n, p in pipe.transformer.named_parameters()}
    with_it = sepia.measure(pipe.load_lora(path), count=8, cases=1, steps=4)
    without = sepia.measure(pipe.unload_lora(), count=8, cases=1, steps=4)
    assert with_it.sepia > without.sepia + 2
    assert all(torch.equal(p, before[n]) for n, p in pipe.transformer.named_parameters())


def test_an_unknown_dial_is_named(source, tmp_path):
    wrong = config(source, tmp_path, 1) | {"lora": {"ranks": 4}}
    with pytest.raises(ConfigError, match="ranks"):
        train_lora(wrong)


def test_sepia_keeps_light_and_dark():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    got = np.asarray(sepia.sepia(picture))
    assert got[0, 0].tolist() == sepia.PAPER.tolist() and got[1, 0].tolist() == sepia.INK.tolist()
