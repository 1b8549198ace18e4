"""A full or a sealed disk: a typed error from whatever a training writes, and nothing lost."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from minikontext.errors import OutputError
from minikontext.training.data import build_cache, load_cache
from minikontext.training.folders import Encoded, encode_folder
from minikontext.training.loop import Loop, LoopConfig
from minikontext.training.runs import add_line
from minikontext.training.stream import Stream, StreamConfig
from minikontext.training.tries import write_sheet
from minikontext.training.watch import Board

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import NOBODY, full_disk, in_child, open_folder, snapshot

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs fork"),
    pytest.mark.usefixtures("two_threads"),  # which a fork does not have
]


def source(folder):
    """Two samples of noise."""
    folder.mkdir(exist_ok=True)
    for name in ("a", "b"):
        noise = torch.randint(256, (64, 64, 3), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("make the hat red")
    return folder


def loop(folder):
    """A loop of two steps, and its loss."""
    model = torch.nn.Linear(40, 40)
    return Loop(model, LoopConfig(2, warmup=1, log_every=1), folder), lambda step: (
        model(torch.ones(40)).square().mean(), {"a_metric_with_a_long_name": 1.0}
    )  # fmt: skip


def writers(pipe, box):
    """What writes in a training: name -> how it is called with a folder to write into."""
    pages = [[Image.effect_noise((64, 64), 100)]]
    return {
        "pairs": lambda out: build_cache(out, 1, 4, 0, pipe.autoencoder, "mark", shard=2),
        "triplets": lambda out: encode_folder(box / "source", out, pipe, side=64),
        "stream": lambda out: Stream(
            StreamConfig(level=1, tokens=512, batches=2, sizes=((64, 64),)), pipe.autoencoder, out
        ).batch(0),
        "sheet": lambda out: write_sheet(pages, out, 1),
        "checkpoint": lambda out: loop(out)[0].save(),
        "run": lambda out: loop(out)[0].run(loop(out)[1]),
        "log": lambda out: (out.mkdir(exist_ok=True), add_line(out / "log.jsonl", "x" * 5000)),
    }


NAMES = ("pairs", "triplets", "stream", "sheet", "checkpoint", "run", "log")


@pytest.mark.parametrize("room", [0, 100, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_is_told_and_work_goes_on_when_there_is_room(tiny_pipe, tmp_path, name, room):
    write, out = writers(tiny_pipe, tmp_path)[name], tmp_path / "out"
    source(tmp_path / "source")
    died, said = in_child(lambda: write(out), room=room)
    assert not died and said.startswith("OutputError: Cannot write"), said
    write(out)
    assert snapshot(out) and not list(out.rglob("*.tmp"))
    if name == "pairs":
        assert load_cache(out, tiny_pipe.text_encoder).index.tolist() == [0, 1, 2, 3]
    if name == "triplets":
        assert len(Encoded(out)) == 2
    if name == "log":
        assert (out / "log.jsonl").read_text() == "x" * 5000 + "\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_sealed_folder_is_told(tiny_pipe, name):
    with open_folder() as box:
        write, out = writers(tiny_pipe, box)[name], box / "sealed" / "out"
        source(box / "source")
        out.mkdir(parents=True)
        out.chmod(0o555)
        died, said = in_child(lambda: write(out), user=NOBODY)
        assert not died and said.startswith("OutputError: Cannot write"), said
        assert snapshot(out) == {}


@pytest.mark.parametrize("room", [0, 100])
def test_a_disk_that_is_full_for_tensorboard_is_told(tmp_path, room):
    pytest.importorskip("tensorboard")

    def write():
        board = Board(tmp_path / "run")
        for step in range(9):
            board.add(step, {"loss": 1.0})

    died, said = in_child(write, room=room)
    assert not died and said.startswith("OutputError: Cannot write"), said
    write()


def test_a_log_on_a_full_disk_is_gone_on_with_line_by_line(tmp_path):
    for room in (None, 40, None):
        with full_disk(room):
            try:
                add_line(tmp_path / "log.jsonl", json.dumps({"step": 1, "loss": 0.25}))
            except OutputError:
                assert room == 40
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 1]
