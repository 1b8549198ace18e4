"""The command as a user types it: results, mistakes, and nothing lost."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minikontext as mk
from minikontext import images
from minikontext.cli import app, doctor
from minikontext.images import provenance

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = ("edit", "inspect", "train", "distill", "weights", "doctor", "lab")


@pytest.fixture(scope="session")
def weights(tiny_pipe, tmp_path_factory):
    """A folder of tiny random weights: they draw nonsense, by the same code as trained ones."""
    return tiny_pipe.save_pretrained(tmp_path_factory.mktemp("weights") / "random", name="random")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in, with one picture."""
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save("fox.png")
    return tmp_path


def run(*arguments):
    return app.main([str(argument) for argument in arguments])


def edit(weights, *arguments):
    return run(
        "edit", "fox.png", "make the hat red", "--weights", weights, "--steps", 2, *arguments
    )


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_edit_writes_a_png_that_says_how_it_was_made(here, weights, capsys):
    assert edit(weights, "-o", "out.png", "--seed", 7) == 0
    assert capsys.readouterr().out == "out.png\n"
    made = provenance.read("out.png")
    assert (made.prompt, made.seed, made.steps) == ("make the hat red", "7", "2")
    assert (made.weights, len(made.weights_fingerprint)) == ("random", 64)
    assert images.read("out.png").size == (64, 64)


def test_the_same_seed_gives_the_same_file(here, weights):
    for name, seed in (("a.png", 7), ("b.png", 7), ("c.png", 8)):
        assert edit(weights, "-o", name, "--seed", seed) == 0
    first, second, third = ((here / f"{name}.png").read_bytes() for name in "abc")
    assert first == second != third


def test_a_result_can_be_made_again_from_what_it_says(here, weights):
    assert edit(weights, "-o", "a.png") == 0
    assert edit(weights, "-o", "b.png", "--seed", provenance.read("a.png").seed) == 0
    assert np.array_equal(images.read("a.png"), images.read("b.png"))


def test_default_names_overwrite_nothing(here, weights):
    for _ in range(2):
        assert edit(weights) == 0
    assert edit(weights, "--count", 2) == 0
    assert names(here) == [
        "fox.png",
        "fox_edited.png",
        "fox_edited2.png",
        "fox_edited3-1.png",
        "fox_edited3-2.png",
    ]


def test_any_size_comes_back_and_is_explained(here, weights, capsys):
    Image.new("CMYK", (150, 77)).save("fox.jpg")
    arguments = ["edit", "fox.jpg", "make the hat red", "--weights", weights, "--steps", 1]
    assert run(*arguments, "-o", "out.png") == 0
    assert images.read("out.png").size == (150, 77)
    assert "note: 150×77 resized to" in capsys.readouterr().err


def test_several_pictures_and_every_option(here, weights):
    Image.new("RGB", (32, 32)).save("b.png")
    options = ["-i", "b.png", "--cfg", 2, "--negative", "blue", "--resize", "none"]
    options += ["--layout", "offset", "--device", "cpu", "--dtype", "float32"]
    options += ["--step-cache", 0.5]
    assert edit(weights, *options, "-o", "out.png", "--width", 40, "--height", 72) == 0
    assert images.read("out.png").size == (40, 72)
    assert provenance.read("out.png").negative_prompt == "blue"
    assert "step cache 0.5" in provenance.read("out.png").steps


def test_quiet_prints_the_path_only(here, weights, capfd):
    assert edit(weights, "-q", "-o", "out.png") == 0
    assert capfd.readouterr() == ("out.png\n", "")


@pytest.mark.weights
def test_the_demo_makes_the_hat_red_and_leaves_the_rest(here):
    """What `make demo` does, with the weights that the repository ships."""
    if not (ROOT / "data/weights/toy/config.json").is_file():
        pytest.skip("the toy weights are not there")
    picture = ROOT / "data/images/demo.png"
    assert run("edit", picture, "make the hat red", "--seed", 0, "-o", "out.png") == 0
    before, after = (np.asarray(images.read(path), dtype=int) for path in (picture, "out.png"))
    hat = (slice(28, 32), slice(28, 36))  # rows and columns well inside the hat
    red, green, blue = after[hat].mean(axis=(0, 1))
    assert before[hat].mean(axis=(0, 1)).argmax() == 2  # it was blue
    assert red > 150 and max(green, blue) < 110
    rows = slice(40, 64)  # face and grass, below the hat
    assert np.abs(after[rows] - before[rows]).mean() < 8


# ----------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "none.png", "x"], "none.png: it does not exist"),
        (["edit", "broken.png", "x"], "damaged"),
        (["edit", "fox.png", "x", "--weights", "none"], "No weights called 'none'"),
        (["edit", "fox.png", "x", "--count", "0"], "at least one"),
        (["edit", "fox.png", "x", "-o", "fox.png"], "the picture itself"),
        (["edit", "fox.png", "x", "-o", "./fox.png"], "the picture itself"),
        (["edit", "broken.png", "x", "-i", "fox.png", "-o", "fox.png"], "the picture itself"),
        (["edit", "fox.png", "x", "-o", "out.gif"], "written as .png, .jpg"),
        (["edit", "fox.png", "x", "-o", "out.png", "--quality", "90"], "quality=90 for PNG"),
        (["edit", "fox.png", "x", "-o", "out.jpg", "--quality", "0"], "quality=0 for JPEG"),
        (["inspect", "none.png"], "none.png: it does not exist"),
        (["inspect", "broken.png"], "damaged"),
        (["inspect", "fox.png", "--show", "fox.png"], "the picture itself"),
        (["inspect", "fox.png", "--show", "out.gif"], "written as .png"),
        (["edit", "fox.png", "x", "-o", "fox.png/out.png"], "not a folder"),
        (["edit", "fox.png", "x", "-o", "locked.png"], "read-only"),
        (["edit", "fox.png", "x", "--device", "nonsense", "--weights", "W"], "Unknown device"),
        (["edit", "fox.png", "x", "--dtype", "float16", "--weights", "W"], "overflows"),
        (["edit", "fox.png", "x", "--steps", "0", "--weights", "W"], "num_inference_steps=0"),
        (["edit", "fox.png", "x", "--width", "0", "--weights", "W"], "from 1, got 0×64"),
        (["edit", "fox.png", "x", "--guidance", "2", "--weights", "W"], "guidance"),
        (["edit", "fox.png", "x", *["-i", "fox.png"] * 9, "--weights", "W"], "at most"),
        (["train", "none.toml"], "no configuration file none.toml"),
        (["distill", "ladd", "none.toml"], "no configuration file none.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(here, weights, capsys, arguments, words):
    (here / "broken.png").write_bytes((here / "fox.png").read_bytes()[:1000])
    (here / "locked.png").write_bytes(b"precious")
    (here / "locked.png").chmod(0o444)
    before = {path.name: path.read_bytes() for path in here.iterdir()}
    assert run(*[weights if argument == "W" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    last = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(last) == 1 and "Traceback" not in error
    assert {path.name: path.read_bytes() for path in here.iterdir()} == before


@pytest.mark.parametrize("arguments", [[], ["edit"], ["edit", "fox.png"], ["paint"]])
def test_an_incomplete_command_shows_its_usage(here, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "usage: minikontext" in capsys.readouterr().err


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        run(*command, "--help")
    assert stop.value.code == 0
    assert "usage: minikontext" in capsys.readouterr().out


def test_the_first_line_of_an_unexpected_error_is_not_hidden(here, weights, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(mk.KontextPipeline, "__call__", broken)
    with pytest.raises(ZeroDivisionError):
        edit(weights)


def test_interrupt_is_quiet(here, weights, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(mk.KontextPipeline, "__call__", interrupted)
    assert edit(weights) == 130
    assert capsys.readouterr().err.endswith("stopped\n")
    assert names(here) == ["fox.png"]


def listen_to_ctrl_c():
    """A shell that runs the tests in the background makes its children deaf to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise on Windows")
def test_ctrl_c_in_the_middle_of_an_edit(here, weights):
    command = [sys.executable, "-m", "minikontext", "edit", "fox.png", "make the hat red"]
    command += ["--weights", str(weights), "--steps", "100000"]
    log, deadline = here / "log", time.time() + 240
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, preexec_fn=listen_to_ctrl_c)
    while "sampling" not in log.read_text() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in log.read_text()
    assert names(here) == ["fox.png", "log"]


# ----------------------------------------------------------------------------- other commands


def test_train_hands_over_the_configuration(here, monkeypatch):
    calls = []
    training = type(sys)("minikontext.training")
    training.main = lambda config, resume: calls.append((str(config), resume))
    monkeypatch.setitem(sys.modules, "minikontext.training", training)
    monkeypatch.setattr(mk, "training", training, raising=False)
    (here / "toy.toml").write_text("")
    assert run("train", "toy.toml") == 0
    assert run("train", "toy.toml", "--restart") == 0
    assert calls == [("toy.toml", True), ("toy.toml", False)]


def test_distill_hands_over_kind_and_configuration(here, monkeypatch):
    calls = []
    monkeypatch.setattr(mk.distillation, "main", lambda *a, resume: calls.append((*a, resume)))
    (here / "pro.toml").write_text("")
    assert run("distill", "ladd", "pro.toml") == 0
    assert run("distill", "guidance", "pro.toml", "--restart") == 0
    assert [(kind, str(path), resume) for kind, path, resume in calls] == [
        ("ladd", "pro.toml", True), ("guidance", "pro.toml", False)
    ]  # fmt: skip


def test_doctor_gives_its_exit_code(monkeypatch):
    monkeypatch.setattr(doctor, "main", lambda: 1)
    assert run("doctor") == 1


def test_lab_opens_the_first_notebook(here, monkeypatch):
    from jupyterlab import labapp

    calls = []
    monkeypatch.setattr(labapp, "main", calls.append)
    monkeypatch.setattr(doctor, "notebook_folder", lambda: here)
    assert run("lab") == 2
    (here / "00_start_here.ipynb").write_text("{}")
    assert run("lab", "--", "--no-browser") == 0
    assert calls == [[str(here / "00_start_here.ipynb"), "--no-browser"]]


def test_version(capsys):
    with pytest.raises(SystemExit):
        run("--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_float8_is_refused_where_it_would_only_pretend(here, weights, capsys):
    assert edit(weights, "--float8") != 0
    assert "8.9" in capsys.readouterr().err
    assert not (here / "fox_edited.png").exists()
