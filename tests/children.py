"""Work in a process of its own: killed at a chosen moment, on a full disk, or without rights."""

import os
import resource
import signal
import sys
import tempfile
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

NOBODY = 65534
PATIENCE = 300  # seconds, as long as any of this work may wait on a busy machine
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.chmod", "os.truncate")


def in_child(work, user=None, room=None, kill_at=None):
    """Run `work()` in a fork; returns (signal or 0, what it raised as text, or "").

    user: its number, if we may change it. room: bytes that a file may have at most: a disk that is
    full for every file that wants more. kill_at: SIGKILL just before so many changes of files.
    A fork has none of its parent's threads: it computes with one, for it would wait for the others
    for ever. Should it wait all the same, SIGALRM ends it, and the test fails instead of hanging.
    """
    with tempfile.TemporaryFile("w+") as said:
        child = os.fork()
        if not child:
            signal.alarm(PATIENCE)
            torch.set_num_threads(1)
            try:
                sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - pytest's may be full
                if user is not None and os.geteuid() == 0:
                    os.setuid(user)
                with full_disk(room):
                    if kill_at is not None:
                        _kill_before(kill_at)
                    work()
            except BaseException as error:
                said.write(f"{type(error).__name__}: {error}\n")
                if type(error).__module__ != "minikontext.errors":
                    said.write("".join(traceback.format_tb(error.__traceback__)))
                said.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        assert died != signal.SIGALRM, f"The work was not done after {PATIENCE} seconds."
        said.seek(0)
        return died, said.read()


@contextmanager
def full_disk(room):
    """No file may grow beyond `room` bytes; None: as they like."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if room is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _kill_before(number):
    seen = 0

    def hook(event, args):
        nonlocal seen
        opened = event == "open" and isinstance(args[2], int) and args[2] & os.O_WRONLY
        if opened or event in CHANGES:
            seen += 1
            if seen > number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def snapshot(folder):
    """Every file below a folder with its content; None if there is no folder."""
    if not folder.is_dir():
        return None
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def open_folder():
    """A temporary folder that any user may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for path in Path(name).rglob("*"):
            with suppress(OSError):
                path.chmod(0o755)
