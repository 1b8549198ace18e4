"""The lineage's graph: order, keys, what is made once and what is made anew; a walk in small."""

import json
import shutil

import pytest
import torch

from minikontext.cli import app
from minikontext.distillation import reproduce
from minikontext.errors import ConfigError
from minikontext.pipeline import KontextPipeline
from minikontext.runtime.files import shipped
from minikontext.training.jobs import read_job
from minikontext.training.models import load_autoencoder

CONFIGS = shipped("configs", "lineage")


@pytest.fixture
def configs(tmp_path):
    shutil.copytree(CONFIGS, tmp_path / "configs")
    return tmp_path / "configs"


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The stages that all others begin with, made in small: each test goes on in its own copy."""
    home = tmp_path_factory.mktemp("begun")
    first, last = reproduce.reproduce("autoencoder", CONFIGS, home, smoke=True)
    assert first.done and last.done
    return home


def keys(name, configs, home):
    stages = reproduce.read_stages(configs)
    return {one.stage.name: one.key for one in reproduce.plan(name, stages, home)}


def test_stages_come_in_order_and_only_those_that_are_needed():
    stages = reproduce.read_stages(CONFIGS)
    assert [one.name for one in reproduce.graph("toy", stages)] == [
        "autoencoder_first",
        "autoencoder",
        "toy_plain",
        "toy_wide",
        "toy",
    ]
    assert [one.name for one in reproduce.graph("autoencoder", stages)] == [
        "autoencoder_first",
        "autoencoder",
    ]
    assert "level2_sizes" not in stages  # a trial, no stage


def test_every_stage_says_what_to_expect():
    for stage in reproduce.read_stages(CONFIGS).values():
        assert stage.about.keys() == {"result", "minutes", "samples"}
        assert "minutes" not in stage.config["loop"]  # schedules go by step


def test_a_key_follows_from_config_and_inputs_alone(configs, tmp_path):
    before = keys("toy", configs, tmp_path)
    plain = configs / "toy_plain.toml"
    text = plain.read_text()
    plain.write_text(text.replace('run = "runs/toy_plain"', 'run = "elsewhere"') + "# a remark\n")
    assert keys("toy", configs, tmp_path) == before
    plain.write_text(text.replace("steps = 1700", "steps = 1701"))
    after = keys("toy", configs, tmp_path)
    changed = {name for name in before if before[name] != after[name]}
    # what builds on it, too; not what it builds on
    assert changed == {"toy_plain", "toy_wide", "toy"}


def test_mistakes_are_told_before_anything_is_made(configs, tmp_path):
    home = tmp_path / "runs"
    names = ", ".join(sorted(reproduce.read_stages(configs)))
    assert "toy_base, toy_dev" in names
    with pytest.raises(ConfigError, match=f"there are {names}"):
        reproduce.reproduce("toy-ultra", configs, home)
    last = configs / "toy.toml"
    text = last.read_text()
    last.write_text(text.replace("tokens = 3072", "tokns = 3072"))
    with pytest.raises(ConfigError, match="toy: .*tokns.*tokens"):
        reproduce.reproduce("toy", configs, home)
    last.write_text(text.replace("stage:toy_wide", "stage:toy"))
    with pytest.raises(ConfigError, match="toy -> toy form a circle"):
        reproduce.reproduce("toy", configs, home)
    assert not home.exists()
    with pytest.raises(ConfigError, match="no stages"):
        reproduce.read_stages(tmp_path)


def test_a_config_with_stages_is_reproduced_not_trained():
    with pytest.raises(ConfigError, match="minikontext reproduce toy_base"):
        read_job(CONFIGS / "toy_base.toml")
    assert read_job(CONFIGS / "autoencoder_first.toml").kind == "world_autoencoder"


@pytest.mark.slow
def test_a_decoder_made_anew_fits_the_latents_of_before(configs, begun, tmp_path):
    home = shutil.copytree(begun, tmp_path / "runs")
    *_, first, last = reproduce.reproduce("decoder", configs, home, smoke=True)
    assert (first.stage.name, last.stage.name) == ("autoencoder", "decoder")
    before, after = (load_autoencoder(one.weights, torch.device("cpu")) for one in (first, last))
    assert before.encoder_fingerprint() == after.encoder_fingerprint()
    assert not torch.equal(before.decoder.conv_in.weight, after.decoder.conv_in.weight)


@pytest.mark.slow
def test_with_processes_that_draw_ahead_the_weights_are_the_same(configs, begun, tmp_path):
    made = {}
    for workers in (0, 1):
        home = shutil.copytree(begun, tmp_path / f"{workers}")
        *_, last = reproduce.reproduce("toy_base", configs, home, smoke=True, workers=workers)
        made[workers] = (last.weights / "transformer.safetensors").read_bytes()
        note = json.loads((last.folder / "stage.json").read_text())
        assert "workers" not in note["config"]["stream"]
    assert made[0] == made[1]


@pytest.mark.slow
def test_a_walk_in_small_makes_every_stage_once(configs, begun, tmp_path):
    home = shutil.copytree(begun, tmp_path / "runs")
    made = reproduce.reproduce("toy_many", configs, home, smoke=True)
    assert [one.stage.name for one in made] == [
        "autoencoder_first", "autoencoder", "toy_plain", "toy_wide", "toy", "toy_drawn", "toy_many",
    ]  # fmt: skip
    students = (("toy_pro", 4), ("toy_max", 4), ("toy_few", 4), ("toy_dev", 28))
    for student, steps in students:
        *before, last = reproduce.reproduce(student, configs, home, smoke=True)
        assert [one.key for one in before] == [one.key for one in made]
        defaults = KontextPipeline.from_pretrained(last.weights, device="cpu").defaults
        assert (defaults.num_inference_steps, defaults.context_layout) == (steps, "scaled")
        assert defaults.mu_16 == (None if student == "toy_few" else 1.2)
        assert defaults.min_contexts == int(student == "toy_dev")
    pipe = KontextPipeline.from_pretrained(made[-1].weights, device="cpu")
    out = pipe("make the hat red", shipped("data", "images", "demo.png"), num_inference_steps=1)
    assert out.images[0].size == (64, 64) and pipe.defaults.max_contexts == 4
    said = json.loads((made[-1].weights / "lineage.json").read_text())["stages"]
    assert said == {one.stage.name: one.key for one in made}
    *_, words, base = reproduce.reproduce("toy_base", configs, home, smoke=True)
    assert words.stage.name == "text_encoder"
    painter = KontextPipeline.from_pretrained(base.weights, device="cpu")
    assert painter.defaults.max_contexts == 0  # it has never seen a context

    stamps = {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    again = reproduce.reproduce("toy_many", configs, home, smoke=True)
    assert [one.key for one in again] == [one.key for one in made]
    assert stamps == {path: path.stat().st_mtime_ns for path in home.rglob("*") if path.is_file()}
    shutil.rmtree(made[2].folder)  # of toy_plain, which what is there needs no more
    reproduce.reproduce("toy_many", configs, home, smoke=True)
    assert not made[2].folder.exists()
    last = configs / "toy_many.toml"
    last.write_text(last.read_text().replace("seed = 38", "seed = 39"))
    anew = reproduce.reproduce("toy_many", configs, home, smoke=True)
    assert [a.folder == b.folder for a, b in zip(made, anew)] == [True] * 6 + [False]
    assert made[-1].done and anew[-1].done and anew[-1].minutes is not None


def test_the_command_lists_the_stages(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert app.main(["reproduce", "toy", "--list"]) == 0
    said = capsys.readouterr().out
    assert said.index("autoencoder:") < said.index("toy_plain:") < said.index("toy_wide:")
    assert said.count("not made") == 5 and "minutes on two cores" in said
    assert app.main(["reproduce", "nothing"]) == 2
    assert list(tmp_path.iterdir()) == []
