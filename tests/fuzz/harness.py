"""Feeds malformed inputs to one entry point and watches what it does.

Input number i of a target is a function of (target, SEED, i), so a failure can be made again:
`only=i` in the call of `feed`. Of every input it is asked that

- nothing but the documented errors comes out of the code,
- it is done within LIMIT seconds,
- no file is written, renamed or removed outside of the folder `out`, and the input stays as it is,
- no process is started, no connection made, no pickle read, no text run as code,
- the memory of all inputs together grows by less than `mebibytes`.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from minikontext.errors import MinikontextError

SEED = 2026
LIMIT = 5.0  # seconds for one input: of the processor, since a busy machine is no hang,
PATIENCE = 60.0  # and on the clock, for what only waits
ROOM = 6 << 30  # bytes of address space above what the process has: more is refused by the system

# How many inputs each target gets. test_count.py adds them up.
COUNTS = {
    "safetensors": 1200,
    "shard index": 300,
    "lora": 800,
    "own folder": 400,
    "diffusers folder": 200,
    "tokenizer folder": 150,
    "image file": 2200,
    "image object": 300,
    "provenance": 300,
    "prompt": 1000,
    "call": 300,
    "toml": 900,
    "metadata": 500,
    "tar shard": 700,
    "kontext bench": 500,
    "encoded cache": 500,
    "encoded pairs": 300,
    "checkpoint": 400,
    "command": 300,
    "filter of two towers": 400,
    "filter of classifiers": 150,
    "watermark": 100,
}
FED: Counter[str] = Counter()


class Hang(BaseException):
    """An input took too long; no `except Exception` may swallow it."""


class Misbehaved(Exception):
    """An input brought about what it must not; `kind` is the same for inputs with one cause."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Watch:
    """What the interpreter was asked to do while an input was fed."""

    def __init__(self) -> None:
        self.out: str | None = None
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple) -> None:
        if self.out is None:
            return
        if event in NEVER or (event == "compile" and _is_text(args[1])):
            self.seen.append(f"{event} {args!r:.200}")
        for place in _touched(event, args):
            if not place.startswith((self.out, "/dev/null", "/proc/self")):
                self.seen.append(f"{event} {place}")

    @contextmanager
    def over(self, out: Path):
        """Watch, and collect what is not allowed."""
        self.out, self.seen = str(out), []
        try:
            yield self.seen
        finally:
            self.out = None


NEVER = (
    "pickle.find_class", "marshal.loads_", "os.system", "os.exec", "os.posix_spawn", "os.fork",
    "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "socket.bind",
)  # fmt: skip
CHANGES = (
    "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.chmod",
    "os.truncate", "os.utime",
)  # fmt: skip
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _is_text(name: object) -> bool:
    """Whether what is compiled is no module's file, nor part of one that is being imported."""
    if name not in ("<string>", "<unknown>"):
        return False
    frame, callers = sys._getframe(2), []
    while frame is not None:
        callers.append(frame.f_code.co_filename)
        frame = frame.f_back
    # Annotations, named tuples, data classes: compiled from code's own names.
    own = callers[0].endswith(("typing.py", "collections/__init__.py", "/dataclasses.py"))
    return not own and "<frozen importlib._bootstrap>" not in callers


def _touched(event: str, args: tuple) -> list[str]:
    """The places that an event changes, as absolute paths."""
    if event == "open" and isinstance(args[2], int) and args[2] & WRITES:
        places = [args[0]]
    elif event in CHANGES:
        places = [x for x in args[:2] if isinstance(x, (str, bytes, os.PathLike))]
    else:
        return []
    found = [os.path.realpath(os.fsdecode(p)) for p in places if not isinstance(p, int)]
    return [p for p in found if event != "os.mkdir" or not os.path.isdir(p)]  # there already


WATCH = Watch()


def feed(box, name, make, run, allowed=MinikontextError, mebibytes=300, accepts=0.01, only=None):
    """Give `run(make(rng, folder), out)` all inputs of a target.

    make writes into the folder what it likes; run is watched. Fails at the end, with one example
    of each kind of misbehaviour. An input that is never refused, or always, tests nothing: a tenth
    must be refused, and a share of `accepts` accepted.
    """
    seen, failures = Counter(), {}
    with _bounded(mebibytes) as check:
        for number in range(COUNTS[name]) if only is None else [only]:
            rng = random.Random(f"{name}/{SEED}/{number}")
            folder, out = _empty(box / "in"), box / "out"
            shutil.rmtree(out, ignore_errors=True)
            given = make(rng, folder)
            before = _snapshot(folder)
            label = f"{name!r}, input {number}"
            try:
                seen[_one(label, run, given, out, allowed)] += 1
                if _snapshot(folder) != before:
                    raise Misbehaved("changed", f"{label}: the input was changed")
            except Misbehaved as error:
                failures.setdefault(error.kind, str(error))
            FED[name] += 1
            if number % 50 == 0:
                check(f"{name!r}, up to input {number}")
        check(name)
    assert not failures, "\n".join(failures.values())
    assert [*box.iterdir()] == [box / "in"] or {*box.iterdir()} == {box / "in", box / "out"}
    shares = {outcome: seen[outcome] / max(1, seen.total()) for outcome in ("refused", "accepted")}
    assert only is not None or (shares["refused"] > 0.1 and shares["accepted"] >= accepts), shares


def _one(label, run, given, out, allowed):
    """Run one input; returns what became of it, or raises Misbehaved."""
    began, error = time.process_time(), None
    with WATCH.over(out) as seen, _alarm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run(given, out)
        except (Exception, SystemExit, Hang) as raised:  # argparse says its own errors that way
            error = raised
    if seen:
        raise Misbehaved(seen[0].split()[0], f"{label}: {seen}") from error
    if error is not None and not isinstance(error, allowed):
        raise Misbehaved(*_origin(label, error)) from error
    if error is not None and not str(error).strip():
        raise Misbehaved("silent", f"{label}: {error!r} says nothing") from error
    if time.process_time() - began > LIMIT:
        raise Misbehaved("slow", f"{label}: took longer than {LIMIT:g} s")
    return "accepted" if error is None else "refused"


def _origin(label, error):
    """What went wrong and where in the package, as a kind and as a message."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/minikontext/" in f.filename and "/fuzz/" not in f.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "the test"
    what = f"{type(error).__name__} at {place}"
    return what, f"{label}: {what}: {error!s:.300}"


@contextmanager
def _alarm():
    """Break off what hangs, where the system can."""
    if not hasattr(signal, "SIGALRM"):
        yield
        return

    def stop(*_):
        raise Hang

    timers = {
        signal.SIGPROF: (signal.ITIMER_PROF, LIMIT),
        signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE),
    }
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, seconds in timers.values():
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


@contextmanager
def _bounded(mebibytes):
    """A ceiling for the address space; yields a check that the peak grew by no more than that."""
    if not Path("/proc/self/clear_refs").exists():
        yield lambda label: None
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    start, limits = _status("VmRSS"), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + ROOM, limits[1]))

    def check(label):
        grown = (_status("VmHWM") - start) / 2**20
        assert grown < mebibytes, f"{label}: {grown:.0f} MiB more, expected below {mebibytes}"

    try:
        yield check
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


def _status(name):
    """A number of /proc/self/status, in bytes."""
    return 1024 * int(Path("/proc/self/status").read_text().split(f"{name}:")[1].split()[0])


def _empty(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _snapshot(folder):
    """Every file below a folder with its content, links as links."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            found[path] = os.readlink(path)
        elif path.is_file():
            found[path] = path.read_bytes()
    return found
