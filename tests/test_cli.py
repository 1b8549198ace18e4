"""The command as a user types it: results, mistakes, and nothing lost."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minikontext as mk
from minikontext import images
from minikontext.cli import app, doctor
from minikontext.cli import edit as cli_edit
from minikontext.images import provenance
from minikontext.images.change import told_change
from minikontext.runtime import files
from minikontext.safety import Safety

ROOT = Path(__file__).resolve().parent.parent

COMMANDS = ("edit", "draw", "inspect", "train", "distill", "weights", "doctor", "lab", "demo")


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


def test_weights_with_a_name_are_listed_looked_into_and_checked_by_it(here, capsys):
    assert app.main(["weights", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    places = files.shipped("data", "weights").glob("*/config.json")
    names = sorted(path.parent.name for path in places)
    assert [line.split()[0] for line in lines[:-1]] == names
    assert "edits alone" in lines[names.index("toy-dev")]
    assert "4 steps" in lines[names.index("toy-max")]
    assert "4 pictures, 19 sizes" in lines[names.index("toy-any")]
    assert app.main(["weights", "inspect", "toy-words"]) == 0  # whose other parts are toy-max's
    said = capsys.readouterr().out
    assert all(kind in said for kind in ("toy text encoder", "  transformer", "  autoencoder"))
    assert "unknown" not in said
    assert app.main(["weights", "verify", "toy"]) == 0
    (here / "toy").mkdir()  # what lies here comes first, as everywhere
    assert app.main(["weights", "verify", "toy"]) == 1


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
        (["edit", "broken.png", "x"], "broken.png cannot be decoded"),
        (["edit", "loop.png", "x"], "Cannot read the image loop.png"),
        (["edit", "", "x"], "without a name"),
        (["edit", "fox.png", "fox.png"], "'fox.png' is a picture"),
        (["draw", "fox.png"], 'minikontext edit fox.png "make the hat red"'),
        (["edit", "fox.png", "x", "--weights", "none"], "No weights called 'none'"),
        (["edit", "fox.png", "x", "--count", "0"], "at least one"),
        (["edit", "fox.png", "x", "-o", "fox.png"], "the picture itself"),
        (["edit", "fox.png", "x", "-o", "./fox.png"], "the picture itself"),
        (["edit", "broken.png", "x", "-i", "fox.png", "-o", "fox.png"], "the picture itself"),
        (["edit", "fox.png", "x", "-o", "out.gif"], "written as .png, .jpg"),
        (["edit", "fox.png", "x", "-o", "out.png", "--quality", "90"], "--quality 90 for PNG"),
        (["edit", "fox.png", "x", "-o", "out.jpg", "--quality", "0"], "--quality 0 for JPEG"),
        (["edit", "make the hat red", "fox.png"], 'edit "fox.png" "make the hat red"'),
        (["inspect", "none.png"], "none.png: it does not exist"),
        (["inspect", "broken.png"], "damaged"),
        (["inspect", "fox.png", "--show", "fox.png"], "the picture itself"),
        (["inspect", "fox.png", "--show", "out.gif"], "written as .png"),
        (["edit", "fox.png", "x", "-o", "fox.png/out.png"], "not a folder"),
        (["edit", "fox.png", "x", "-o", "locked.png"], "read-only"),
        (["edit", "fox.png", "x", "--count", f"{10**9}"], "at most 10,000"),
        (["draw", "x", "--count", f"{10**400}"], "at most 10,000"),
        (["edit", "fox.png", "x", "-o", "/proc/no/such.png"], "Cannot write"),
        (["bench", "mini", "--output", "/proc/no/such"], "Cannot write"),
        (["reproduce", "toy_pro", "--runs", "/proc/no/such"], "Cannot write /proc/no/such"),
        (["page", "site", "--serve", "65536"], "must be 0-65535. Give another"),
        (["page", "site", "--runtime", "none", "--weights", "of-which-nobody-knows"], "none lacks"),
        (["edit", "fox.png", "x", "--device", "nonsense", "--weights", "W"], "Unknown device"),
        (["edit", "fox.png", "x", "--dtype", "float16", "--weights", "W"], "overflows"),
        (["edit", "fox.png", "x", "--steps", "0", "--weights", "W"], "--steps 0"),
        (["edit", "fox.png", "x", "--width", "0", "--weights", "W"], "from 1, got 0×64"),
        (["edit", "fox.png", "x", "--guidance", "2", "--weights", "W"], "guidance"),
        (["edit", "fox.png", "x", *["-i", "fox.png"] * 9, "--weights", "W"], "at most"),
        (["train", "none.toml"], "no configuration file none.toml"),
        (["distill", "ladd", "none.toml"], "no configuration file none.toml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(here, weights, capsys, arguments, words):
    (here / "broken.png").write_bytes((here / "fox.png").read_bytes()[:1000])
    (here / "loop.png").symlink_to("loop.png")
    (here / "locked.png").write_bytes(b"precious")
    (here / "locked.png").chmod(0o444)
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    assert run(*[weights if argument == "W" else argument for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    last = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(last) == 1 and "Traceback" not in error
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("arguments", [[], ["edit"], ["edit", "fox.png"], ["paint"]])
def test_an_incomplete_command_shows_its_usage(here, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        run(*arguments)
    assert stop.value.code == 2
    assert "usage: minikontext" in capsys.readouterr().err


UNKNOWN = [("edit fox.png x --step 4", "minikontext edit ", "--step 4 (did you mean --steps?)"),
           ("weights inspect toy --deep", "minikontext weights inspect ", "--deep"),
           ("bench mini --foo", "minikontext bench mini ", "--foo"),
           ("doctor now", "minikontext doctor ", "now")]  # fmt: skip


def test_an_option_before_the_command_is_told(capsys):
    with pytest.raises(SystemExit):
        run("--seed", 3, "edit", "fox.png", "x")
    assert "--seed stands before the command" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "usage", "told"), UNKNOWN)
def test_what_a_command_does_not_know_is_told_with_its_own_usage(here, capsys, line, usage, told):
    with pytest.raises(SystemExit) as stopped:
        run(*line.split())
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and said.startswith(f"usage: {usage}")
    assert said.endswith(f"error: unrecognized arguments: {told}\n")


@pytest.mark.parametrize(("command", "lacks"), [("draw", "prompt"), ("bench", "NAME")])
def test_what_is_said_to_be_missing_is_what_a_user_can_give(capsys, command, lacks):
    with pytest.raises(SystemExit):
        run(command)
    assert capsys.readouterr().err.endswith(f"arguments are required: {lacks}\n")


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help(capsys, command):
    with pytest.raises(SystemExit) as stop:
        run(*command, "--help")
    assert stop.value.code == 0
    assert "usage: minikontext" in capsys.readouterr().out


def test_an_unexpected_error_is_not_hidden(here, weights, monkeypatch, capsys):
    def broken(*_, **__):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(mk.KontextPipeline, "__call__", broken)
    assert edit(weights) == 4
    said = capsys.readouterr().err
    assert "in broken" in said and "ZeroDivisionError: a bug" in said


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
    command += ["--weights", str(weights), "--steps", "10000"]
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


def test_lab_opens_the_first_notebook_of_a_copy(here, monkeypatch):
    from jupyterlab import labapp

    calls = []
    monkeypatch.setattr(labapp, "main", calls.append)
    assert run("lab", "mine", "--allow-root", "--", "--no-browser") == 0
    start = Path("mine", "notebooks", "00_start_here.ipynb")
    assert calls == [[str(start), "--no-browser", "--allow-root"]]
    assert start.read_bytes() == (ROOT / start.relative_to("mine")).read_bytes()


def test_lab_as_root_gives_the_hint(here, monkeypatch, capsys):
    monkeypatch.setattr("os.geteuid", lambda: 0, raising=False)
    assert run("lab", "mine") == 2
    assert "minikontext lab --allow-root" in capsys.readouterr().err
    assert not Path("mine").exists()


def test_version(capsys):
    with pytest.raises(SystemExit):
        run("--version")
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_float8_is_refused_where_it_would_only_pretend(here, weights, capsys):
    assert edit(weights, "--float8") != 0
    assert "8.9" in capsys.readouterr().err
    assert not (here / "fox_edited.png").exists()


# ------------------------------------------------------------- many pictures, many seeds, pipes


def test_a_folder_a_pattern_and_a_name_in_one_start(here, weights, capsys):
    (here / "in").mkdir()
    for name in ("in/a.png", "in/b.jpg", "c1.png", "c2.png"):
        Image.new("RGB", (64, 64)).save(name)
    (here / "in/notes.txt").write_text("no picture")
    arguments = ["in", "c?.png", "fox.png", "make the hat red", "--weights", weights, "-q"]
    assert run("edit", *arguments, "--steps", 1, "-o", "out/") == 0
    wanted = [f"{name}_edited.png" for name in ("a", "b", "c1", "c2", "fox")]
    assert names(here / "out") == wanted
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == wanted


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
def test_a_pipe_is_told_and_folders_in_a_folder_are_no_pictures(here, weights, capsys):
    os.mkfifo("pipe.png")
    assert run("edit", "pipe.png", "make the hat red") == 2
    assert "pipe.png: it is a pipe or a device" in capsys.readouterr().err
    (here / "in" / "deep.png").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save("in/a.png")
    arguments = ["in", "make the hat red", "--weights", weights, "--steps", 1, "-o", "out/"]
    assert run("edit", *arguments) == 0
    assert names(here / "out") == ["a_edited.png"]


def test_what_macos_notes_beside_pictures_is_none(here, weights):
    (here / "in").mkdir()
    Image.new("RGB", (64, 64)).save("in/a.png")
    (here / "in/._a.png").write_bytes(b"\0\5\x16\7Mac OS X")
    arguments = ["in", "make the hat red", "--weights", weights, "--steps", 1, "-o", "out/"]
    assert run("edit", *arguments) == 0
    assert names(here / "out") == ["a_edited.png"]
    (here / "in/a.png").unlink()
    assert run("edit", *arguments) == 2


def test_a_folder_that_may_not_be_read_is_told(here, monkeypatch, capsys):
    (here / "in").mkdir()
    monkeypatch.setattr("os.access", lambda *place: False)
    monkeypatch.setattr(Path, "iterdir", lambda folder: os.listdir("/none/such"))
    assert run("edit", "in", "make the hat red") == 2
    assert "error: You may not read the folder in" in capsys.readouterr().err


def test_same_names_from_two_folders_do_not_meet(here, weights):
    for folder in ("one", "two"):
        (here / folder).mkdir()
        Image.new("RGB", (64, 64)).save(here / folder / "a.png")
    arguments = ["one", "two", "make the hat red", "--weights", weights, "--steps", 1]
    assert run("edit", *arguments) == 0
    assert names(here) == ["a_edited.png", "a_edited2.png", "fox.png", "one", "two"]


def test_a_broken_one_of_several_is_told_and_the_rest_go_on(here, weights, capsys):
    (here / "broken.png").write_bytes(b"no picture")
    arguments = ["broken.png", "fox.png", "make the hat red", "--weights", weights, "--steps", 1]
    assert run("edit", *arguments) == 2
    assert "error: Cannot read broken.png" in capsys.readouterr().err
    assert "fox_edited.png" in names(here)


def test_of_several_pictures_each_note_is_told_once_and_by_name(here, weights, capsys):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (60, 60)).save(name)
    arguments = ["a.png", "b.png", "fox.png", "make the haat red", "--weights", weights]
    assert run("edit", *arguments, "--steps", 1, "--seed", "1,2") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    for name in ("a.png", "b.png"):
        assert sum(line.startswith(f"note: {name}: 60×60 resized") for line in notes) == 1
    for name in ("a.png", "b.png", "fox.png"):
        assert sum(line.startswith(f"note: {name}: ") and "'haat'" in line for line in notes) == 1


def test_of_several_pictures_the_size_is_told_by_name(here, weights, capsys):
    Image.new("RGB", (64, 64)).save("a.png")
    assert run("edit", "a.png", "fox.png", "x", "--weights", weights, "--steps", 1) == 0
    told = capsys.readouterr().err
    assert "a.png: 64×64, used as it is" in told and "fox.png: 64×64, used as it is" in told


class Dark:
    """Refuses dark pictures, and prompts of a certain word."""

    threshold, reason = 0.5, "darkness"

    def score(self, items):
        return [float("secret" in i if isinstance(i, str) else not i.getbbox()) for i in items]


def test_one_of_several_that_is_refused_or_too_large_is_told_and_the_rest_go_on(
    here, tiny, monkeypatch, capsys
):
    pipe = tiny()
    pipe.safety = Safety(Dark(), inputs=Dark())
    monkeypatch.setattr(cli_edit, "load", lambda options: pipe)
    Image.new("RGB", (64, 64)).save("dark.png")
    Image.new("RGB", (5000, 1000), "red").save("large.png")
    several = ["edit", "dark.png", "large.png", "fox.png"]
    rest = ["--steps", 1, "--resize", "none", "-o", "out/"]
    assert run(*several, "make the hat red", *rest) == 2
    told = capsys.readouterr().err
    assert "error: dark.png: context image 1" in told
    assert "error: large.png: 5008×1008 is more than the model" in told
    assert names(here / "out") == ["fox_edited.png"]
    assert run(*several, "the secret hat", *rest) == 2  # no picture would fare better
    assert capsys.readouterr().err.count("error:") == 1
    assert run("edit", "dark.png", "make the hat red", *rest) == 2
    assert capsys.readouterr().err.count("error: context image") == 1


def test_a_quality_that_stdout_cannot_have_is_told_before_any_work(here, monkeypatch, capsys):
    monkeypatch.setattr(cli_edit, "load", lambda options: pytest.fail("it began to work"))
    assert run("edit", "fox.png", "make the hat red", "-o", "-", "--quality", 90) == 2
    assert "Got --quality 90 for PNG" in capsys.readouterr().err


def test_several_seeds_give_what_each_gives_alone(here, weights):
    assert edit(weights, "--seed", "3,5..6", "-o", "all.png") == 0
    assert [provenance.read(f"all-{i}.png").seed for i in (1, 2, 3)] == ["3", "5", "6"]
    assert edit(weights, "--seed", "6", "-o", "one.png") == 0
    assert (here / "one.png").read_bytes() == (here / "all-3.png").read_bytes()


def test_seed_minus_one_is_random(here, weights):
    assert edit(weights, "--seed", -1, "-o", "a.png") == 0
    assert edit(weights, "--seed", -1, "-o", "b.png") == 0
    made = {provenance.read(f"{name}.png").seed for name in "ab"}
    assert len(made) == 2 and "-1" not in made


@pytest.mark.parametrize("given", [["--seed", "-1,5"], ["--seed=-1,5"]])
def test_a_random_seed_may_come_first(here, weights, given):
    assert edit(weights, *given, "-o", "a.png") == 0
    assert provenance.read("a-2.png").seed == "5"
    assert provenance.read("a-1.png").seed not in ("-1", "5")


@pytest.mark.parametrize("given", ["-x", "-1x", "x", "1.5", "8..1", "1,,2", "", "0..1000000"])
def test_what_is_no_seed_is_refused(here, capsys, given):
    with pytest.raises(SystemExit):
        run("edit", "fox.png", "x", "--seed", given)
    assert "--seed" in capsys.readouterr().err


def test_stdin_to_stdout(here, weights):
    command = [sys.executable, "-m", "minikontext", "edit", "-", "make the hat red", "-o", "-"]
    command += ["--weights", str(weights), "--steps", "1"]
    made = subprocess.run(
        command, input=(here / "fox.png").read_bytes(), capture_output=True, check=True
    ).stdout
    assert images.read(made).size == (64, 64)
    assert names(here) == ["fox.png"]


def test_stdin_is_a_second_picture(here, weights, monkeypatch):
    with (here / "fox.png").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert edit(weights, "-i", "-", "-o", "out.png") == 0
    first, second = provenance.read("out.png").contexts
    assert first == second


@pytest.mark.parametrize("pictures", [["-", "-"], ["-", "-i", "-"], ["fox.png", *["-i", "-"] * 2]])
def test_stdin_for_two_pictures_is_refused_before_it_is_read(here, monkeypatch, capsys, pictures):
    monkeypatch.setattr(cli_edit, "load", lambda options: pytest.fail("it began to work"))
    monkeypatch.setattr(cli_edit, "_read", lambda source: pytest.fail("it began to read"))
    assert run("edit", *pictures, "make the hat red") == 2
    assert "stdin" in capsys.readouterr().err


def test_stdin_that_brings_nothing_is_named(here, monkeypatch, capsys):
    (here / "empty").touch()
    with (here / "empty").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("edit", "-", "make the hat red") == 2
    assert "stdin (-) brought no picture" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="no shell that closes a stream")
def test_a_result_for_a_closed_stdout_is_refused_before_any_work(here):
    line = f'{sys.executable} -m minikontext edit fox.png "make it night" -o - >&-'
    done = subprocess.run(line, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2 and "stdout (-) is closed" in done.stderr


def test_a_file_whose_name_begins_as_an_option_does_is_told(here, capsys):
    (here / "fox.png").rename("-x.png")
    for more in ([], ["other.png"]):
        with pytest.raises(SystemExit):
            run("edit", "-x.png", *more, "make the hat red")
        assert "for the file of that name: ./-x.png" in capsys.readouterr().err


EMPTY = ["edit fox.png x -o", "inspect fox.png --show", "lab --copy-only", "page", "train",
         "distill ladd", "reproduce toy_pro --runs", "weights inspect", "weights verify",
         "weights convert toy", "bench mini --output"]  # fmt: skip


@pytest.mark.parametrize("command", EMPTY)
def test_an_empty_name_is_no_place(here, capsys, command):
    """Of a variable that is not set: it would stand for the folder that one works in."""
    with pytest.raises(SystemExit) as stopped:
        run(*command.split(), "")
    assert stopped.value.code == 2 and "the name is empty" in capsys.readouterr().err
    assert names(here) == ["fox.png"]


def test_hidden_files_of_a_folder_are_no_pictures(here, weights):
    """macOS writes `._fox.png` beside fox.png, without a pixel; named, a hidden picture is one."""
    folder = here / "album"
    folder.mkdir()
    (here / "fox.png").rename(folder / "fox.png")
    (folder / "._fox.png").write_bytes(b"\0\5\x16\7 Mac OS X")
    (folder / ".secret.png").write_bytes((folder / "fox.png").read_bytes())
    assert cli_edit.expand(["album"]) == [str(Path("album", "fox.png"))]
    assert cli_edit.expand(["album/.secret.png"]) == ["album/.secret.png"]


def test_draw_needs_no_picture(here, weights, capsys):
    arguments = ["a red hat", "--weights", weights, "--steps", 1, "--width", 64, "--height", 32]
    assert run("draw", *arguments) == 0
    said = capsys.readouterr()
    assert said.out == "drawn.png\n"
    assert "Blurred: it shows no scene" in said.err and "no character, no place." in said.err
    assert images.read("drawn.png").size == (64, 32)
    assert provenance.read("drawn.png").prompt == "a red hat"


def test_a_size_that_was_asked_for_is_not_called_the_pictures(here, weights, capsys):
    assert edit(weights, "--width", 128, "--height", 128, "--resize", "none") == 0
    told = capsys.readouterr().err
    assert "picture: 64×64, result: 128×128" in told and "used as it is" not in told


def test_what_an_edit_changed_is_told(here, weights, capsys):
    assert edit(weights, "--seed", "3,4") == 0  # untrained weights make noise of every picture
    told = capsys.readouterr().err
    assert re.search(r"seed 3: \d+% of the picture changed, most of it (at|in) the", told)
    assert "seed 4: " in told
    assert edit(weights, "--seed", 5, "-i", "fox.png") == 0  # beside a second picture, too
    assert "seed 5: " in (told := capsys.readouterr().err) and "of the picture changed" in told
    assert edit(weights, "--quiet") == 0 and "of the picture changed" not in capsys.readouterr().err
    picture = images.read("fox.png")
    assert told_change(picture, picture) == "Nothing that one could see has changed."


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["edit", "fox.png", "make", "the", "hat", "red"], "Put the prompt in quotes"),
        (["draw", "a", "red", "hat"], 'minikontext draw "a red hat"'),
        (["draw", "a red hat", "fox.png"], 'minikontext edit fox.png "a red hat"'),
        (["edit", "fox.png", "fox.png", "x", "-o", "-"], "2 pictures do not fit into one stdout"),
        (["edit", "empty", "x"], "no picture in the folder"),
        (["edit", "z*.png", "x"], "No picture fits 'z*.png'"),
        (["edit", "fox.png", "fox.png", "x", "-o", "a.png"], "name a folder, a.png/"),
        (["edit", "fox.png", "x", "-o", "-", "--count", "2"], "one stdout"),
        (["edit", "fox.png", "x", "--cfg", "nan", "--weights", "W"], "--cfg"),
    ],
)
def test_a_mistake_speaks_the_commands_words(here, weights, capsys, arguments, words):
    (here / "empty").mkdir()
    assert run(*[weights if argument == "W" else argument for argument in arguments]) == 2
    told = capsys.readouterr().err
    assert words in told and "_scale" not in told
    assert names(here) == ["empty", "fox.png"]


@pytest.mark.parametrize("option", [["--offload", "foo"], ["--wei", "toy"], ["--out", "a.png"]])
def test_unknown_plans_and_abbreviations_are_refused(here, capsys, option):
    with pytest.raises(SystemExit) as stop:
        run("edit", "fox.png", "x", *option)
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


@pytest.mark.parametrize("words", [["inspect", "x.png"], ["bench", "mini"], ["edit", "x.png", "y"]])
def test_what_a_mistake_quotes_of_the_line_is_written_out(capsys, words):
    """A `*` brings in names of files, which strangers may have chosen."""
    with pytest.raises(SystemExit) as stop:
        run(*words, "--a\x1b[31m\u202eb\u200b\nc")
    assert stop.value.code == 2
    assert "--a\\x1b[31m\\u202eb\\u200b\\nc" in capsys.readouterr().err


def test_the_note_of_a_format_with_loss_writes_its_name_out(here, capsys):
    run("edit", "fox.png", "make the hat red", "-o", "a\x1b[31m.jpg", "--steps", "1")
    said = "".join(capsys.readouterr())
    assert "note: a\\x1b[31m.jpg loses pixels" in said and "\x1b" not in said


def test_the_plans_are_those_of_the_memory_plan():
    from minikontext.cli import edit as command
    from minikontext.runtime import memory_plan

    assert command.PLANS == memory_plan.NAMES


@pytest.mark.skipif(sys.platform == "win32", reason="a pipe ends otherwise on Windows")
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    command = [sys.executable, "-m", "minikontext", "weights", "inspect", str(ROOT / "data/lora")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()  # as `| head -0` does
    told = process.stderr.read().decode()
    assert process.wait(timeout=120) in (0, 2, 141)
    assert "BrokenPipe" not in told and "Traceback" not in told


def test_help_loads_nothing_heavy():
    code = "import sys; from minikontext.cli import app; app.parser().format_help(); "
    code += "print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"torch", "numpy", "PIL", "packaging", "jupyterlab"} & set(loaded)


@pytest.mark.parametrize(
    ("name", "prompt", "said"),
    [
        ("fox", 'add a sign "HELLO WORLD"', "letters at most"),
        ("fox", "remove the tree", ""),
        ("fox", " ", "There are no words"),
    ]
    + [(name, "remove the tree", "shows no tree") for name in ("demo", "ghost")],
)
def test_what_the_world_or_a_picture_lacks_is_said(here, weights, capsys, name, prompt, said):
    place = files.shipped("data", "images", f"{name}.png") if name != "fox" else "fox.png"
    run("edit", place, prompt, "--steps", 1, "--weights", weights)
    told = capsys.readouterr().err
    assert said in told and ("shows no" in told) == ("shows no" in said)


def test_what_a_result_lacks_is_said_when_it_is_edited_again(here, weights, capsys):
    """It is no sample and no render, but near to a scene; a photograph is near to none."""
    shutil.copy(files.shipped("data", "images", "demo.png"), here / "cat.png")
    run("edit", "cat.png", "make it night", "--weights", "toy-max", "-o", "first.png", "-q")
    run("edit", "first.png", "remove the tree", "--steps", 1, "--weights", weights)
    assert "shows no tree" in capsys.readouterr().err
    run("edit", "first.png", "make the hat red", "--steps", 1, "--weights", weights)
    assert "shows no" not in capsys.readouterr().err
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(here / "noise.png")
    run("edit", "noise.png", "remove the tree", "--steps", 1, "--weights", weights)
    assert "shows no" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "said"),
    [(["--weights", "none"], "No weights called 'none'"), (["--port", "65536"], "--port 65536")],
)
def test_the_page_of_its_own_does_not_start_in_vain(capsys, option, said):
    pytest.importorskip("voila", reason="voila is not installed")
    assert run("demo", "--no-browser", *option) == 2
    assert said in capsys.readouterr().err


def test_the_page_of_its_own_says_what_it_needs(capsys):
    if find_spec("voila"):
        pytest.skip("Voilà is installed: tests/browser opens the page")
    assert run("demo", "--no-browser") == 2
    told = capsys.readouterr().err
    assert 'pip install "minikontext[demo]"' in told and "minikontext lab" in told


@pytest.mark.parametrize(("line", "sources", "prompt"), [
    (["fox.png", "-o", "out/", "make it night"], ["fox.png"], "make it night"),
    (["fox.png", "cat.png", "-o", "out/", "make it night"], ["fox.png", "cat.png"],
     "make it night"),
    (["--seed", "3", "fox.png", "-", "--steps", "2", "make it night"], ["fox.png", "-"],
     "make it night"),
    (["fox.png", "--seed", "3", "cat.png", "--steps", "2", "make it night", "-q"],
     ["fox.png", "cat.png"], "make it night"),
])  # fmt: skip
def test_options_may_stand_between_pictures_and_prompt(line, sources, prompt):
    options = app.parser().parse_args(["edit", *line])
    assert (options.pictures, options.prompt) == (sources, prompt)


@pytest.mark.parametrize(("line", "words"), [
    ("edit fox.png --seed 3 make the hat red", 'quotes: minikontext edit fox.png "make the hat'),
    ("draw --seed 3 a green frog", 'in quotes: minikontext draw "a green frog"'),
    ("draw a --seed 3 green frog", 'in quotes: minikontext draw "a green frog"'),
])  # fmt: skip
def test_words_behind_an_option_are_told_to_want_quotes(here, weights, capsys, line, words):
    assert run(*line.split(), "--weights", weights) == 2
    assert words in capsys.readouterr().err
    assert names(here) == ["fox.png"]


def test_what_the_library_advises_is_said_in_the_commands_words(here, weights, capsys):
    Image.new("RGB", (3000, 2000)).save("large.png")
    assert run("edit", "large.png", "x", "--resize", "none", "--weights", weights) == 2
    assert "Use --resize 'kontext'" in capsys.readouterr().err
    many = ["-i", "fox.png"] * 8
    assert run("edit", "fox.png", "x", *many, "--weights", weights) == 2
    told = capsys.readouterr().err
    assert "leave -i out" in told and "list of lists" not in told


def test_advice_that_is_reworded_is_given_somewhere():
    code = "".join(path.read_text() for path in (ROOT / "minikontext").glob("[ep]*/*.py"))
    assert all(advice in code for advice in cli_edit.ADVICE)
