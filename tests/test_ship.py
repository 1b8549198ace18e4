"""`tools/ship.py`: a training's weights become shipped ones, and share what is the same file."""

import importlib.util
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from minikontext.errors import WeightsError
from minikontext.pipeline import KontextPipeline

ROOT = Path(__file__).parent.parent


@pytest.fixture
def ship(tmp_path, monkeypatch):
    """The tool, with a home of its own in which `toy-max` lies."""
    spec = importlib.util.spec_from_file_location("ship", ROOT / "tools" / "ship.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "HOME", tmp_path / "home")
    KontextPipeline.from_pretrained("toy-max").save_pretrained(tmp_path / "home" / "toy-max")
    return tool


@pytest.fixture
def run(tmp_path):
    """The folder of a training that ended: toy-max with other words."""
    pipe = KontextPipeline.from_pretrained("toy-max")
    with torch.no_grad():
        pipe.text_encoder.embedding.weight.add_(1.0)
    pipe.save_pretrained(tmp_path / "run" / "weights")
    (tmp_path / "run" / "log.jsonl").write_text('{"step": 1}\n')
    return tmp_path / "run"


def test_shipped_weights_share_what_is_the_same_and_keep_their_card(ship, run, tmp_path):
    home = tmp_path / "home"
    (home / "new").mkdir()
    (home / "new" / "README.md").write_text("a card")
    assert ship.ship(run, "new", "toy-max") == home / "new"
    assert {path.name for path in (home / "new").glob("*.safetensors")} == {
        "text_encoder.safetensors"
    }
    pipe = KontextPipeline.from_pretrained(home / "new")
    old = KontextPipeline.from_pretrained(home / "toy-max")
    assert pipe.name == "new"
    assert torch.equal(pipe.transformer.img_in.weight, old.transformer.img_in.weight)
    assert not torch.equal(pipe.text_encoder.embedding.weight, old.text_encoder.embedding.weight)
    assert (home / "new" / "README.md").read_text() == "a card"
    assert json.loads((home / "new" / "training" / "log.jsonl").read_text()) == {"step": 1}


def test_without_others_all_parts_are_copied(ship, run):
    folder = ship.ship(run, "alone", None, steps=12)
    assert len([*folder.glob("*.safetensors")]) == 3
    pipe, before = map(KontextPipeline.from_pretrained, (folder, run / "weights"))
    assert (pipe.name, pipe.defaults.num_inference_steps) == ("alone", 12)
    assert replace(pipe.defaults, num_inference_steps=4) == before.defaults  # toy-max's


def test_another_decoder_is_taken_if_its_encoder_is_the_same(ship, run, tmp_path):
    pipe = KontextPipeline.from_pretrained(run / "weights")
    for name, part in (("decoder", "decoder"), ("other", "encoder")):
        (tmp_path / name / "run").mkdir(parents=True)
        (tmp_path / name / "run" / "log.jsonl").write_text('{"step": 2}\n')
        with torch.no_grad():
            getattr(pipe.autoencoder, part).conv_in.weight.add_(1.0)
        pipe.save_pretrained(tmp_path / name / "weights")
    with pytest.raises(WeightsError, match="other has another encoder than"):
        ship.ship(run, "new", decoder=tmp_path / "other")
    assert not (tmp_path / "home" / "new").exists()
    with pytest.raises(WeightsError, match="give --least-psnr"):  # the old bound was the old one's
        ship.ship(run, "new", decoder=tmp_path / "decoder")
    folder = ship.ship(run, "new", decoder=tmp_path / "decoder", least_psnr=26.5)
    pipes = map(KontextPipeline.from_pretrained, (folder, run / "weights"))
    made, before = (pipe.autoencoder for pipe in pipes)
    assert made.encoder_fingerprint() == before.encoder_fingerprint()
    weights = made.decoder.conv_in.weight.float(), before.decoder.conv_in.weight.float()
    assert torch.allclose(weights[0], weights[1] + 1.0, atol=0.02)
    assert "2" in (folder / "training" / "decoder.jsonl").read_text()


def test_weights_without_a_bound_for_strangers_are_not_shipped(ship, run):
    config = run / "weights" / "config.json"
    values = json.loads(config.read_text())
    values["defaults"]["least_psnr"] = None
    config.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="benchmarks.outside --reached"):
        ship.ship(run, "new")
    assert not (ship.HOME / "new").exists()
    folder = ship.ship(run, "new", least_psnr=20)
    assert KontextPipeline.from_pretrained(folder).defaults.least_psnr == 20


def test_a_folder_without_weights_is_refused(ship, tmp_path):
    (tmp_path / "empty" / "weights").mkdir(parents=True)
    with pytest.raises(WeightsError):
        ship.ship(tmp_path / "empty", "new", None)
    assert not (tmp_path / "home" / "new").exists()


def test_the_cards_of_a_new_decoder_say_which_bound_they_were_shipped_with():
    cards = {path: path.read_text(encoding="utf-8")
             for path in (ROOT / "data" / "weights").glob("*/README.md")}  # fmt: skip
    shipped = {path: text for path, text in cards.items() if "--decoder runs/" in text}
    assert shipped
    for path, text in shipped.items():
        config = json.loads((path.parent / "config.json").read_text(encoding="utf-8"))
        (said,) = re.findall(r"--least-psnr ([\d.]+)", text)
        assert float(said) == config["defaults"]["least_psnr"]
