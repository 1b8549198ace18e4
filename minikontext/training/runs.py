"""A run's folder: who may write in it, what it was made from, and what can be said before the work.

Beside the folder and the output lie locks, `.NAME.lock`: two trainings never write into one run, or
one output. A restart sets the old folder aside whole, as `NAME.1`, so nothing of it is ever gone on
from by mistake. A run knows the output that it wrote: that it replaces another's is told.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import FileLock, Timeout

from minikontext.errors import OutputError, TrainingError, WeightsError, shorten_list
from minikontext.pretrained import safetensors_io
from minikontext.pretrained.native import find_weights
from minikontext.runtime import files
from minikontext.runtime.config import parse_json
from minikontext.training.parallel import DistContext
from minikontext.training.store import headers

log = logging.getLogger(__name__)

LEFT_OUT = {
    # where, for whom and how it is shown, not what is learned
    "run", "name", "device", "parallel", "peak", "defaults", "safety",
    # known by their fingerprints: a folder may move
    "autoencoder", "parts", "teacher", "[data] source", "[data] folder",
    # how long and how often, memory for time; a run may be made longer
    *(f"[loop] {name}" for name in ("steps", "minutes", "save_minutes", "save_every", "log_every",
                                    "validate_every", "tensorboard", "accumulate")),
    "validation", "[data] validation", "[data] tries", "[lora] keep", "[training] workers",
    "[stream] workers",
}  # fmt: skip


# -------------------------------------------------------------------------------- what it is of


# Facts that checkpoints of before do not have, by the beginnings of their names.
LATER = ("start's content", "base's config", "[autoencoder] ", "[training] steps",
         "[teacher_samples] steps")  # fmt: skip


class Job(Protocol):
    """A dataclass of `training.jobs`, as far as this file knows it: jobs are made of our callers.

    run, output: as the config names them. folder: the run's. output_is_file: or it is a folder.
    """

    run: str
    output: str
    output_is_file: ClassVar[bool]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def folder(self) -> Path:
        """The run's folder."""


def made_from(job: Job, config: str = "", **fingerprints: str) -> dict[str, str]:
    """What a run's result follows from: the config's values by their places, and fingerprints.

    fingerprints: of what the config names, for example `base` and `data`; config: of the base's
    sizes, scale factors and vocabulary.
    """
    start = getattr(job, "start", None)
    facts = {LATER[0]: _content(getattr(start, "weights", start)), LATER[1]: config}
    facts["language"] = _content(getattr(job, "words", None))
    return {**_flat(asdict(job)), **fingerprints, **{k: v for k, v in facts.items() if v}}


def _content(place: str | None) -> str:
    """A fingerprint of the weights at a place that a config names; empty for none."""
    if not place:
        return ""
    path = _place(place)
    inside = (x for x in sorted(path.rglob("*")) if x.suffix == ".safetensors")
    found = [path] if path.is_file() else [*inside, *path.glob("config.json")]
    return files.fingerprint(found)[:12]


def _place(name: str) -> Path:
    """Where the weights or files lie that a config names."""
    try:
        return find_weights(name)
    except WeightsError:  # of another layout, or a file
        return Path(name)


def _flat(values: Mapping[str, Any], section: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        place = f"[{section}] {name}" if section else name
        if isinstance(value, Mapping) and place not in LEFT_OUT - {"autoencoder"}:
            found |= _flat(value, f"{section}.{name}" if section else name)
        elif place not in LEFT_OUT:
            found[place] = str(value)
    return found


def require_same(place: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise TrainingError if a checkpoint was made from something else, with what differs.

    A dial that is None is as good as one that was not there yet.
    """
    before = {name: now[name] for name in now if name.startswith(LATER)} | dict(before)
    names = [n for n in {**before, **now} if before.get(n, "None") != now.get(n, "None")]
    if names:
        differences = [
            f"{n} was {_end(before.get(n, 'not there'))}, is {_end(now.get(n, 'not there'))}"
            for n in names
        ]
        raise TrainingError(
            f"{place} was made from something else: {shorten_list(differences, 5)}. Put it back to "
            "go on, start over with --restart (what is there is set aside), or name another run."
        )


def _end(value: str) -> str:
    """A long value's end: paths differ there."""
    return value if len(value) <= 60 else f"…{value[-59:]}"


def require_same_config(job: Job) -> None:
    """As `require_same`, of the config alone: before data are encoded, over those of the run."""
    found = {place: facts for place, facts in headers(job.folder).items() if facts}
    if found:
        place = max(found, key=lambda place: int(found[place]["step"]))
        now, before = _flat(asdict(job)), parse_json(found[place]["made_from"])
        require_same(place, {n: value for n, value in before.items() if n in now}, now)


# ---------------------------------------------------------------------------------- who may write


@contextmanager
def opened(job: Job, world: DistContext, resume: bool = True) -> Iterator[None]:
    """Hold a run's folder and its output for the time of a training, and note the output after it.

    Without `resume`, the old folder is set aside. An output that this run did not write, and that
    it will replace, is told. Raises TrainingError if another training holds one of them, and
    OutputError if they cannot be written.
    """
    places, locks = zip(*map(_lock, (job.folder, job.output)))
    held, said = 1.0, ""
    aside = not resume and places[0].exists()
    if world.rank == 0:
        try:
            for place, lock in zip(places, locks):
                said = f"Another training works in {place}"
                _acquire(lock)
            _begin(job, places[0], aside)
        except Timeout:
            held = 0.0
        except (OSError, OutputError) as error:
            held, said = 0.0, str(error)
            if isinstance(error, OSError):
                why = f"{error.filename or job.run}: {error.strerror or error}"
                said = f"Cannot write {why}. Make room, or choose another place."
    try:
        if world.mean({"held": held})["held"] < 1:
            if said.startswith("Cannot"):
                raise OutputError(said)
            raise TrainingError(f"{said or 'Another training works there'}. Wait for its end, "
                                "stop it, or name another run and output.")  # fmt: skip
        yield
        with suppress(OutputError):  # what was trained is safe; the note may fail
            if world.rank == 0:
                files.write_text(places[0] / WRITTEN, _output(job))
    finally:
        if locks[1].is_locked:  # an output may lie anywhere: nothing is left beside it
            Path(locks[1].lock_file).unlink(missing_ok=True)
        for lock in locks:
            lock.release()


WRITTEN = "output.json"


@contextmanager
def alone(*places: str | Path) -> Iterator[None]:
    """Hold folders and files that one process writes by itself, as the laboratory's trainings do.

    Raises TrainingError if another process holds one of them, OutputError if it cannot be held.
    """
    taken: list[FileLock] = []
    try:
        for place, lock in map(_lock, places):
            try:
                _acquire(lock)
            except Timeout:
                raise TrainingError(f"Another training works in {place}. Wait for its end, "
                                    "stop it, or name another place.") from None  # fmt: skip
            except OSError as error:
                raise OutputError(f"Cannot write {place}: {error.strerror or error}.") from error
            taken.append(lock)
        yield
    finally:
        for lock in taken:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()


def _lock(place: str | Path) -> tuple[Path, FileLock]:
    """A place and its lock; whoever comes by a link finds the same lock."""
    real = Path(os.path.realpath(place))
    return real, FileLock(real.with_name(f".{real.name}.lock"))


def _acquire(lock: FileLock) -> None:
    """Take a lock that is free. Raises Timeout, OSError, and OutputError for what is no lock."""
    there = Path(lock.lock_file)
    there.parent.mkdir(parents=True, exist_ok=True)
    if files.exists(there) and there.stat().st_size:
        raise OutputError(f"Cannot write {there}: it is no lock, which would be empty. "
                          "Move it away.")  # fmt: skip
    lock.acquire(timeout=0)


def _begin(job: Job, folder: Path, aside: bool) -> None:
    """Tell of an output that is another's, set an old run aside, and make the run's folder."""
    there, note = _output(job), folder / WRITTEN
    known = there if any(folder.glob("checkpoint*")) else "[]"  # of before there was a note
    with suppress(OSError, ValueError):
        known = files.read_text(note)
    if there not in ("[]", known):
        log.warning("%s is there, and this run did not write it: it is replaced at the end. Name "
                    "another output to keep it.", job.output)  # fmt: skip
    if aside:
        set_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_text(note, known)


def _output(job: Job) -> str:
    """What tells an output apart: its weights' names, sizes and times, as JSON."""
    output = Path(job.output)
    found = [output] if job.output_is_file else sorted(output.rglob("*.safetensors"))
    facts = [(one.name, one.stat()) for one in found if files.exists(one)]
    return json.dumps([(name, one.st_size, one.st_mtime_ns) for name, one in facts])


def set_aside(folder: Path) -> Path | None:
    """Give a run's folder another name, NAME.1, NAME.2 …; returns it, or None if there is none."""
    if not folder.exists():
        return None
    number = 1
    while os.path.lexists(other := folder.with_name(f"{folder.name}.{number}")):
        number += 1
    os.replace(folder, other)
    log.warning("The run of before is now %s.", other)
    return other


# ------------------------------------------------------------------------------------ beforehand


def check_places(job: Job) -> None:
    """Raise OutputError if run or output cannot be written: before the work, not after it."""
    output = Path(job.output)
    last = output if job.output_is_file else output / "transformer.safetensors"
    for place in (last, job.folder / "checkpoint.last.safetensors"):
        files.try_writing(place)
        files.check_writable(place.with_name(f".{place.name}.{os.getpid()}.tmp"))
        for parent in (p for p in place.parents if files.exists(p)):
            raise OutputError(f"Cannot write {place}: {parent} is a file, not a folder.")
    run, result = (Path(os.path.realpath(place)) for place in (job.folder, output))
    if not job.output.strip() or Path.cwd().is_relative_to(run):
        raise OutputError("run and output must be named, and run must not hold the folder you are "
                          "in: --restart would set that aside.")  # fmt: skip
    for name, place in _read_from(job):
        if place == result:
            raise OutputError(f"output is what {name} names, and would replace it. Name another.")
        if place.is_relative_to(run):
            raise OutputError(f"run holds what {name} names: --restart would set that aside, too. "
                              "Name another folder.")  # fmt: skip
    if result == run:
        raise OutputError("run and output are one place. Name another.")
    if job.output_is_file and output.exists() and not _is_lora(output):
        raise OutputError(f"{output} is there and is no LoRA. Name another file.")
    if job.output_is_file and output.suffix not in (".safetensors", ".sft"):  # none would open it
        raise OutputError(f"output is {job.output!r:.80}; expected a name with .safetensors")


def _read_from(job: Job) -> Iterator[tuple[str, Path]]:
    """What a job reads: the names in its config, and the places."""
    for owner in (job, getattr(job, "data", None)):
        for name in ("autoencoder", "parts", "teacher", "start", "words", "source",
                     "validation"):  # fmt: skip
            value = getattr(owner, name, None)
            value = getattr(value, "weights", value)
            if isinstance(value, str) and "\0" not in value:  # no file has such a name
                yield name, Path(os.path.realpath(_place(value)))


def _is_lora(path: Path) -> bool:
    try:
        return any(".lora_" in name for name in safetensors_io.inspect(path))
    except WeightsError:
        return False


def add_line(log: Path, line: str) -> None:
    """Add a line to a log. One that was cut when a run was killed is dropped: nothing is glued.

    Raises OutputError if the log cannot be written, or is a link to another file.
    """
    try:
        with open(log, "ab+", opener=_no_link) as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode() + b"\n")
    except OSError as error:
        why = "it is a link" if log.is_symlink() else error.strerror or error
        raise OutputError(f"Cannot write {log}: {why}. Make room for it, then go on.") from error


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)
