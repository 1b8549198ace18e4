"""Work in a process of its own: killed at a chosen moment, on a full disk, or without rights."""

import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing import forkserver
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


# What these programs import: it takes a new Python seconds.
LOADED = [
    "torch._dynamo",  # which the first optimizer imports
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "transformers",
    "safetensors.torch",
    "minikontext.cli.app",
    "minikontext.pipeline",
    "minikontext.training.jobs",
    "minikontext.training.tries",
    "minikontext.distillation.run",
]
ROOT = Path(__file__).resolve().parents[1]


@cache
def _server():
    """Python's own fork server: a process that imports LOADED, does nothing else, and forks."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LOADED)
    before = dict(os.environ)
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "PYTHONPATH": str(ROOT)}
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return server


class Program:
    """A Python program in a process of its own, as subprocess.Popen([sys.executable, ...]) is.

    It does not import torch anew: it is a fork of a process that did this and nothing else. That is
    wrong for a test of what a program imports, of its memory, or of its very first moments.
    """

    def __init__(self, *command, **environment):
        """command: a file, or "-c" and code; then arguments. environment: added to this one's."""
        server = _server()
        ends = [server.Pipe(duplex=False) for _ in range(2)]
        told = [str(one) for one in command], os.environ | environment
        self.process = server.Process(
            target=_run_program, args=(*told, *(end for _, end in ends)), daemon=True
        )
        self.process.start()
        self.stdout, self.stderr = (os.fdopen(os.dup(here.fileno())) for here, _ in ends)
        for end in sum(ends, ()):
            end.close()
        self.pid, self.kill = self.process.pid, self.process.kill

    def poll(self):
        """The exit code, or minus the signal that ended it; None while it runs."""
        return self.process.exitcode

    @property
    def returncode(self):
        return self.process.exitcode

    def communicate(self, timeout=2 * PATIENCE):
        """Wait for the end; what it wrote to stdout and stderr and nobody read."""
        with self.stdout, self.stderr, ThreadPoolExecutor(2) as pool:
            said = [pool.submit(stream.read) for stream in (self.stdout, self.stderr)]
            self.process.join(timeout)
            if late := self.process.is_alive():
                self.kill()
        assert not late, f"The program did not end in {timeout} seconds: {said[1].result()[-2000:]}"
        return tuple(one.result() for one in said)


def _run_program(command, environment, *streams):
    for number, stream in enumerate(streams, start=1):
        os.dup2(stream.fileno(), number)
        stream.close()
    os.environ.clear()
    os.environ.update(environment)
    if command[0] == "-c":
        sys.argv = ["-c", *command[2:]]
        exec(command[1], {"__name__": "__main__"})
    else:
        sys.argv = command
        runpy.run_path(command[0], run_name="__main__")


def programs(count, *command, **environment):
    """So many of one program that find each other as those of torchrun do."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
    # The store is here, and not in the first of them.
    place |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    started = [Program(*command, **place, **rank, **environment) for rank in ranks]
    for one in started:
        one.store = store  # lives as long as they do
    return started
