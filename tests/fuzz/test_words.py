"""Prompts, calls, training configs and command lines: everything that a person types."""

import html
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mutate import DEEP, NAMES, broken_bytes, broken_tree, odd, toml
from PIL import Image

from minikontext import distillation, training
from minikontext.cli import app
from minikontext.course.parts import caption, status_line
from minikontext.course.patches import share_bar
from minikontext.errors import ConfigError, MinikontextError, OutputError, PromptError, WeightsError
from minikontext.pipeline import KontextPipeline
from minikontext.training import jobs, plan
from minikontext.training.workload import workload

ROOT = Path(__file__).resolve().parents[2]
ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz ", "\"'“”«»‘’", "\0\1\x07\x08\x1b\x7f\n\r\t",
    "\u200b\u200d\u202e\ufeff",
    "é\u0301\u0300\u0336", "你好世界", "مرحبا", "👩‍👩‍👧‍👦🏳️‍🌈", "\ud800\udfff",
    "𝓱𝓪𝓽", "<>&;{}%$\\/`", "ﬁ½①Ⅷ",
)  # fmt: skip


def words(rng):
    """Text that nobody meant as an instruction."""
    if rng.random() < 0.2:
        return rng.choice(NAMES)
    pools = rng.choices(ALPHABETS, k=rng.randint(1, 3))
    text = "".join(rng.choice(rng.choice(pools)) for _ in range(rng.choice((0, 1, 5, 40, 300))))
    return text * rng.choice((1, 1, 1, 2, 300, 5000))


def test_a_prompt(feed, tiny_pipe):
    """The encoder, its reports and its suggestions; now and then a whole edit that is saved."""

    def make(rng, folder):
        prompt = words(rng) if rng.random() < 0.8 else odd(rng)
        several = [words(rng) for _ in range(rng.randrange(3))]
        return (prompt if rng.random() < 0.9 else several), rng.random()

    def run(given, out):
        prompt, way = given
        encoder = tiny_pipe.text_encoder
        assert encoder.encode(prompt).tokens.isfinite().all()
        if isinstance(prompt, str):
            status_line("note", " ".join(map(str, encoder.report(prompt))))
            encoder.complete(prompt), encoder.suggest(prompt[:40])
        if way < 0.03:
            made = tiny_pipe(prompt, seed=0, num_inference_steps=1, progress=False)
            made.save(out / "made.png")

    feed("prompt", make, run)


def test_a_call(feed, tiny_pipe):
    """Every argument of the pipeline may have any value of any type."""
    picture = Image.new("RGB", (32, 32), "teal")
    sound = {"prompt": "make the hat red", "image": picture, "seed": 1, "num_inference_steps": 1}
    others = ("negative_prompt", "width", "height", "guidance_scale", "true_cfg_scale",
              "context_layout", "resize")  # fmt: skip

    def value(rng, name):
        if name == "image" and rng.random() < 0.5:
            shape = [rng.choice((0, 1, 2, 4, 5)) for _ in range(rng.choice((2, 4, 4, 5)))]
            return rng.choice((torch.zeros(shape), np.zeros(shape), [picture] * rng.randrange(5)))
        given = odd(rng)
        steps = name == "num_inference_steps" and isinstance(given, int) and given > 8
        return 2 if steps else given  # many steps are no mistake, only long

    def make(rng, folder):
        names = rng.sample((*sound, *others), rng.randint(1, 2))
        return sound | {name: value(rng, name) for name in names}

    def run(given, out):
        tiny_pipe(**given, progress=False)

    feed("call", make, run, accepts=0)


# ----------------------------------------------------------------------------------------- TOML

EVERY = {**jobs.JOBS, **distillation.jobs.JOBS}


@pytest.fixture(scope="module")
def shipped():
    """The configs of this repository, by name."""
    read = jobs.tomllib.loads
    found = {path.name: read(path.read_text("utf-8")) for path in (ROOT / "configs").glob("*.toml")}
    return found


def test_a_training_config(feed, shipped):
    """What is read of a config before anything is loaded, and the plan of what it would take."""

    def make(rng, folder):
        path = folder / "config.toml"
        config = shipped[rng.choice(sorted(shipped))]
        kind = rng.random()
        if kind < 0.75:
            tree = broken_tree(rng, config, 2)
            text = toml(tree if isinstance(tree, dict) else {"a": tree}).encode()
        elif kind < 0.8:
            text = b"a = " + DEEP.encode()
        else:
            text = broken_bytes(rng, toml(config).encode())
        path.write_bytes(text)
        return path

    def run(path, out):
        job = training.read_job(path, EVERY)
        if isinstance(job, (jobs.EditorJob, jobs.FolderJob)):
            str(plan.make(workload(job), plan.Machine(gpus=1)))

    feed("toml", make, run)


def test_every_shipped_config_is_still_read(shipped):
    for config in shipped.values():
        assert jobs.build_job(config, jobs=EVERY).kind == config["kind"]


# ------------------------------------------------------------------------------------ the command


def test_a_command_line(feed, own_folder, monkeypatch, capsys):
    picture = ROOT / "data/images/demo.png"
    sound = (
        ["edit", str(picture), "make the hat red", "--weights", str(own_folder), "--steps", "1"],
        ["weights", "inspect", str(own_folder)],
        ["weights", "verify", str(own_folder / "transformer.safetensors")],
        ["inspect", str(picture)],
        ["train", str(ROOT / "configs/toy.toml"), "--plan", "--gpus", "1"],
        ["distill", "ladd", "none.toml"],
    )
    options = ("--seed", "--width", "--height", "--cfg", "--negative", "--resize", "--device",
               "--dtype", "--lora", "-o", "-i", "--offload", "--gpus", "--memory")  # fmt: skip

    def make(rng, folder):
        words = list(rng.choice(sound))
        for _ in range(rng.randint(1, 2)):
            if rng.random() < 0.6:
                words[rng.randrange(len(words))] = _word(rng)
            else:
                words += [rng.choice(options), _word(rng)]
        return [word.replace("\0", "") for word in words], folder

    def run(given, out):
        arguments, folder = given
        out.mkdir()
        monkeypatch.chdir(out)
        code = app.main([*arguments])
        monkeypatch.chdir(folder)
        assert code != 4, "a traceback"
        if code:
            raise MinikontextError(f"exit code {code}")

    feed("command", make, run, allowed=(MinikontextError, SystemExit))


def _word(rng):
    value = odd(rng)
    # Numbers between are no mistake: they only take long.
    small = not isinstance(value, int) or not 8 < value < 10**6
    word = value if isinstance(value, str) else str(value if small else 7)
    # A command may write where it is told to: only names, no places.
    return word if "/" not in word and "\\" not in word and word not in (".", "..") else "x.png"


@pytest.fixture(scope="module")
def own_folder(tiny_pipe, tmp_path_factory):
    return tiny_pipe.save_pretrained(tmp_path_factory.mktemp("own") / "tiny")


# -------------------------------------------------------------------------------------- regressions


def test_half_a_character_is_refused_and_not_lost_on_saving(tiny_pipe):
    with pytest.raises(PromptError, match="broken characters"):
        tiny_pipe("make \ud800 red", num_inference_steps=1, progress=False)


def test_a_prompt_without_end_is_refused_at_once(tiny_pipe):
    with pytest.raises(PromptError, match="1,000,000 characters"):
        tiny_pipe.text_encoder.encode("word " * 200_000)


def test_only_words_that_count_are_looked_up(tiny_pipe):
    """Thousands of unknown words once took minutes; what is cut off needs no suggestion."""
    words = [f"w{i}" for i in range(8000)]
    found = tiny_pipe.text_encoder.report(" ".join(words))
    assert len(found) == tiny_pipe.text_encoder.max_length  # each that fits, and what is cut off


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "black-forest-labs/FLUX.1-Kontext-dev"])
def test_a_name_that_is_no_folder_is_refused_without_the_network(name, monkeypatch):
    import socket

    def refuse(*_):
        pytest.fail("a connection was asked for")

    for call in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, call, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(WeightsError, match="Nothing is downloaded"):
        KontextPipeline.from_pretrained(name)


def test_a_name_that_is_too_long_is_no_place_to_write(tmp_path):
    from minikontext.runtime.files import check_writable

    with pytest.raises(OutputError, match="too long"):
        check_writable(tmp_path / ("x" * 300 + ".png"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"loop": None}, "loop is missing; expected a table"),
        ({"run": 7}, "got run = 7; expected text"),
        ({"data": {"level": 9, "count": 1}}, "level = 9; expected a whole number from 1 to 4"),
        ({"data": {"level": 4, "count": "many"}}, "count = 'many'; expected a whole number"),
        ({"seed": True}, "seed = True; expected a whole number"),
    ],
)
def test_a_config_says_what_is_wrong_before_anything_is_loaded(shipped, change, words):
    config = {k: v for k, v in (shipped["toy.toml"] | change).items() if v is not None}
    with pytest.raises(ConfigError, match=re.escape(words)):
        training.build_job(config)


# ------------------------------------------------------------------------- text is only ever shown


EVIL = "<img src=x onerror=alert(1)>'\"&{{7*7}}"


def test_text_of_a_prompt_or_a_file_is_shown_and_not_run():
    shown_by = (status_line("note", EVIL), caption(EVIL).value, share_bar([EVIL], [1.0]))
    for shown in shown_by:
        assert html.escape(EVIL) in shown and "<img" not in shown


def test_distillation_reads_the_same_way(tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(b'kind = "ladd"\nrun = ' + DEEP.encode())
    with pytest.raises(ConfigError, match="cannot be read"):
        distillation.main("ladd", path)
