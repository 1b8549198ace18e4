"""The watch itself: each misbehaviour that it is there for is seen."""

import pickle
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path

import harness
import pytest

from minikontext.errors import MinikontextError


class Thing:
    """Something that a pickle must look up."""


def spin():
    while True:
        pass


def change_unseen(path):
    """Past the audit hook: what compiled code does."""
    harness.WATCH.out = None
    path.write_bytes(b"b")


def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", 9))


MISBEHAVIOUR = {
    "ValueError": lambda given, out: int("x"),
    "says nothing": lambda given, out: (_ for _ in ()).throw(MinikontextError("")),
    "the input was changed": lambda given, out: change_unseen(given),
    "open .*elsewhere": lambda given, out: (given.parent.parent / "elsewhere").write_text("x"),
    "os.remove": lambda given, out: given.unlink(),
    "os.rename": lambda given, out: given.rename(given.with_name("b")),
    "pickle.find_class": lambda given, out: pickle.loads(pickle.dumps(Thing())),
    "subprocess.Popen": lambda given, out: subprocess.run([sys.executable, "--version"]),
    "socket.connect": lambda given, out: connect(),
    "compile": lambda given, out: eval(given.read_text()),
    "Hang": lambda given, out: spin(),
    "MiB more": lambda given, out: bytearray(400 << 20),
}


@pytest.mark.parametrize("seen", MISBEHAVIOUR)
def test_misbehaviour_is_seen(seen, feed, monkeypatch):
    if seen == "MiB more" and not Path("/proc/self/clear_refs").exists():
        pytest.skip("Linux says how much memory was used at most")
    monkeypatch.setattr(harness, "COUNTS", {"one": 1})
    monkeypatch.setattr(harness, "FED", Counter())
    monkeypatch.setattr(harness, "LIMIT", 0.3 if seen == "Hang" else 5.0)

    def make(rng, folder):
        (folder / "a").write_text("1 + 1")
        return folder / "a"

    with pytest.raises(AssertionError, match=seen):
        feed("one", make, MISBEHAVIOUR[seen])


def test_an_input_can_be_made_again(feed, monkeypatch):
    monkeypatch.setattr(harness, "COUNTS", {"one": 4})
    monkeypatch.setattr(harness, "FED", Counter())
    drawn = []

    def make(rng, folder):
        drawn.append(rng.random())

    def run(given, out):
        raise MinikontextError("refused")

    feed("one", make, run, accepts=0)
    feed("one", make, run, accepts=0, only=2)
    assert drawn[-1] == drawn[2] and len({*drawn}) == 4
