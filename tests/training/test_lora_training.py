"""A LoRA trained on a folder of triplets: the base stays, the file opens, the run goes on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from minikontext import training
from minikontext.course import sepia, tiny_flux
from minikontext.errors import ConfigError, WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.pretrained import lora
from minikontext.toyworld import sample_edit


def train(values, **more):
    """Run a config's training as the command does."""
    return training.run_job(training.build_job(values), **more)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return sepia.write(tmp_path_factory.mktemp("sepia"), count=8, others=0).parent


def config(source, folder, steps):
    return {
        "kind": "lora", "parts": "toy", "run": str(folder / "run"),
        "output": str(folder / "x.safetensors"), "data": {"source": str(source), "side": 64},
        "lora": {"rank": 4}, "training": {"batch": 4, "bf16": False},
        "loop": {"steps": steps, "lr": 5e-3, "muon_lr": 0.0, "warmup": 2, "ema": 0.0},
    }  # fmt: skip


def test_a_lora_learns_and_its_file_opens(source, tmp_path):
    losses = []
    path = train(config(source, tmp_path, 40), on_log=lambda m: losses.append(m["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    before = {n: p.clone() for n, p in pipe.transformer.named_parameters()}
    with_it = sepia.measure(pipe.load_lora(path), count=8, cases=1, steps=4)
    without = sepia.measure(pipe.unload_lora(), count=8, cases=1, steps=4)
    assert with_it.sepia > without.sepia + 2
    assert all(torch.equal(p, before[n]) for n, p in pipe.transformer.named_parameters())


@pytest.mark.parametrize("offload", ["8-bit", "4-bit", "stream"])
def test_a_lora_trains_on_a_base_that_takes_little_room(tmp_path, offload):
    flux = tiny_flux.write(tmp_path / "flux")
    source = sepia.write(tmp_path / "sepia", count=2, others=0).parent
    told = config(source, tmp_path, 3) | {"parts": str(flux), "offload": offload}
    losses = []
    path = train(told | {"dtype": "float32"}, on_log=lambda m: losses.append(m["loss"]))
    assert losses and all(np.isfinite(losses))
    pipe = KontextPipeline.from_pretrained(flux, "cpu", "float32", offload)
    one = pipe.load_lora(path).loras[0]
    assert len(one.names) == 2 * 8 + 3 * 2  # of two double and three single blocks
    assert all(thin.up.abs().max() > 0 for thin in one.updates)  # gradients came everywhere


def test_checkpointing_changes_no_lora(source, tmp_path):
    made = []
    for level in ("none", "full"):
        told = config(source, tmp_path / level, 4) | {"parallel": {"checkpointing": level}}
        made.append(load_file(train(told)))
    assert made[0].keys() == made[1].keys()
    for name, tensor in made[0].items():
        assert torch.allclose(tensor, made[1][name], atol=1e-6), name


def test_alpha_is_in_the_file_and_a_lora_is_gone_on_from(source, tmp_path):
    plain = load_file(train(config(source, tmp_path / "plain", 2)))
    strong = config(source, tmp_path / "strong", 2) | {"lora": {"rank": 4, "alpha": 12.0}}
    path = train(strong)
    made = load_file(path)
    name = next(n for n in made if "lora_B" in n)
    ratio = made[name].abs().mean() / plain[name].abs().mean()
    assert 1.5 < ratio < 4.5  # AdamW's steps are of one length, and the file has them three times
    for alpha in (12.0, 1.0, None):
        further = strong | {"run": str(tmp_path / f"{alpha}"), "start": str(path)}
        further |= {"output": str(tmp_path / f"{alpha}.safetensors")}
        further |= {"lora": {"rank": 4} | ({"alpha": alpha} if alpha else {})}
        further |= {"loop": strong["loop"] | {"lr": 0.0}}
        again = load_file(train(further))
        assert all(torch.allclose(again[n], made[n], rtol=1e-5, atol=0) for n in made)
    (tmp_path / "broken.safetensors").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(WeightsError, match="broken"):
        train(further | {"start": str(tmp_path / "broken.safetensors"), "run": str(tmp_path / "b")})


def test_what_no_lora_goes_on_from_is_told_before_the_pictures_are_encoded(source, tmp_path):
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32")
    path = lora.save(lora.new(pipe.transformer, 4), pipe.transformer, tmp_path / "x.safetensors")
    state = {}
    for name, down in load_file(path).items():
        layer, found, _ = name.partition(".lora_A")
        if found:
            up = load_file(path)[f"{layer}.lora_B.weight"]
            state[f"{layer}.diff"] = torch.ones(len(up), down.shape[1])
    save_file(state, tmp_path / "start.safetensors")
    told = config(source, tmp_path, 1) | {"start": str(tmp_path / "start.safetensors")}
    with pytest.raises(ConfigError, match="no plain pair"):
        train(told)
    assert not (tmp_path / "run/encoded").exists()


def test_files_pictures_and_losses_on_the_way(source, tmp_path):
    told = config(source, tmp_path, 4)
    told["data"] |= {"validation": str(source), "tries": 2}
    told |= {"lora": {"rank": 4, "keep": True, "alpha": 8.0}}
    told["loop"] |= {"validate_every": 2, "log_every": 1, "ema": 0.9}
    logged = []
    path = train(told, on_log=logged.append)
    assert ["validation" in line for line in logged] == [False, True, False, True]
    kept = sorted((tmp_path / "run" / "loras").iterdir())
    assert [one.name for one in kept] == [f"step-{n:08d}.safetensors" for n in (2, 4)]
    made, last = load_file(path), load_file(kept[1])
    assert all(torch.equal(made[n], last[n]) for n in made)  # averaged, as the result is
    assert any(not torch.equal(made[n], one) for n, one in load_file(kept[0]).items())
    sheets = sorted((tmp_path / "run" / "samples").iterdir())
    assert [one.name for one in sheets] == ["step-00000002.png", "step-00000004.png"]
    page = Image.open(sheets[1])
    assert page.size == (3 * 64, 2 * 64)
    pipe = KontextPipeline.from_pretrained("toy", device="cpu", dtype="float32").load_lora(path)
    got = page.crop((128, 0, 192, 64))
    rows = [json.loads(line) for line in (source / "metadata.jsonl").read_text().splitlines()]
    out = pipe(rows[0]["prompt"], image=[str(source / rows[0]["contexts"][0])], seed=0)
    apart = np.asarray(out.images[0], float) - np.asarray(got, float)
    assert np.abs(apart).mean() < 4  # contexts and words are stored in bfloat16
    silent = config(source, tmp_path / "silent", 4) | {"lora": {"rank": 4, "alpha": 8.0}}
    silent["loop"] |= {"ema": 0.9}
    undisturbed = load_file(train(silent))
    assert all(torch.equal(made[n], undisturbed[n]) for n in made)  # looking changes nothing


def test_streamed_blocks_cannot_be_made_again_which_is_told_before_the_encoding(tmp_path):
    flux = tiny_flux.write(tmp_path / "flux")
    source = sepia.write(tmp_path / "sepia", count=2, others=0).parent
    told = config(source, tmp_path, 1) | {"parts": str(flux), "offload": "stream"}
    with pytest.raises(ConfigError, match="streamed blocks"):
        train(told | {"parallel": {"checkpointing": "full"}})
    assert not (tmp_path / "run/encoded").exists()


def test_ordinary_edits_lie_among_the_sepia_pairs(tmp_path):
    lines = sepia.write(tmp_path, count=2, others=6).read_text().splitlines()
    told = [json.loads(line) for line in lines]
    assert [one["prompt"] == sepia.PROMPT for one in told] == [True] * 2 + [False] * 6
    cases = [sample_edit(i, 4, split="train", seed=1) for i in range(6)]
    assert [one["prompt"] for one in told[2:]] == [case.prompt for case in cases]
    for one, case in zip(told[2:], cases):
        assert np.array_equal(Image.open(tmp_path / one["file_name"]), case.target_image())
        contexts = [Image.open(tmp_path / name) for name in one["contexts"]]
        pairs = zip(contexts, case.context_images(), strict=True)
        assert all(np.array_equal(*pair) for pair in pairs)


def test_an_unknown_dial_is_named(source, tmp_path):
    wrong = config(source, tmp_path, 1) | {"lora": {"ranks": 4}}
    with pytest.raises(ConfigError, match="ranks"):
        train(wrong)


def test_sepia_keeps_light_and_dark():
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0] = 255
    got = np.asarray(sepia.sepia(picture))
    assert got[0, 0].tolist() == sepia.PAPER.tolist() and got[1, 0].tolist() == sepia.INK.tolist()
