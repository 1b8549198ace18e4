"""A run's state on disk: never half written, never unpickled, readable by any number of processes.

One process writes `checkpoint.safetensors`; the one before becomes `checkpoint.last.safetensors`.
Many write `checkpoints/step-…/` with a safetensors file each, by `torch.distributed.checkpoint`
(DCP), and `facts.json`, which lists the files' sizes and sums. DCP's usual format keeps its table
of contents as a pickle; the one used here has safetensors' headers instead, so reading a store
executes nothing. (What the processes of one run tell each other while they save is pickled by
PyTorch, but it never touches the disk.)

A store is written under a temporary name and renamed when every process is done, so a kill or a
full disk leaves the one before; the last two are kept. Every checkpoint carries the SHA-256 of its
tensors and facts: one that a flipped bit has changed is passed over for the one before, and told.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minikontext.errors import (
    MissingPackageError,
    OutputError,
    TrainingError,
    WeightsWarning,
    warn,
)
from minikontext.runtime import files
from minikontext.runtime.config import fits_type, parse_json
from minikontext.training.parallel import DistContext, shard_like, to_local

Facts = dict[str, str]
SUM = "sha256"  # of all else that a checkpoint holds


class DamageWarning(WeightsWarning):
    """A checkpoint is damaged, and an older one was taken instead."""


class Store:
    """The checkpoints of one run in `folder`."""

    def __init__(self, folder: Path, world: DistContext) -> None:
        self.folder, self.world = folder, world
        self.file, self.stores = folder / "checkpoint.safetensors", folder / "checkpoints"
        self.last = folder / "checkpoint.last.safetensors"
        self._good: Path | None = None  # the newest checkpoint that is known to be whole
        self._writing: tuple[Future | None, Path, Facts] | None = None
        # Beside the training's, for writing behind it. Made at once: later torchrun, through which
        # processes find each other, may be gone.
        behind = world.size > 1 and world.config.background
        self._group = dist.new_group(backend="gloo") if behind else None

    # -------------------------------------------------------------------------------- writing

    def save(self, tensors: dict[str, Tensor], facts: Facts) -> None:
        """Write a checkpoint of step `facts["step"]`; many processes call it together.

        With [parallel] background, tensors are copied now and written while training goes on.
        Raises OutputError if the disk is full or closed; the checkpoint before is then untouched.
        """
        if self.world.size == 1:
            name = f".{self.file.name}.{'[0-9a-f]' * 16}.tmp"
            for left in self.folder.glob(name):  # of a run that was killed
                _remove(left)
            tensors = {name: tensor.cpu() for name, tensor in tensors.items()}
            facts = facts | {SUM: checksum(facts, tensors)}
            with files.replacing(self.file) as temporary:
                save_file(tensors, temporary, metadata=facts)
                self._keep_last()
            before, self._good = self._good, self.file
            for old in (*self.stores.glob("step-*"), *self.stores.glob(".step-*.tmp")):
                if old != before:  # of more processes: that one stays until the next is there
                    _remove(old)
            with suppress(OSError):
                self.stores.rmdir()
            return
        self.finish()
        place = self.stores / f".step-{int(facts['step']):08d}.tmp"
        if self.world.rank == 0:
            for left in self.stores.glob(".step-*.tmp"):  # of a run that was killed
                _remove(left)
        self.world.wait()
        self._writing = self._write(tensors, place), place, facts
        if not self.world.config.background:
            self.finish()

    def _keep_last(self) -> None:
        """One process's last checkpoint gets a second name, under which it outlives the next.

        A damaged one must not take the place of the whole one that the training went on from.
        """
        facts = _facts(self.file)
        if self._good == self.file or (
            self._good is None and _is_sound(facts) and _same_sum(self.file, facts)
        ):
            self.last.unlink(missing_ok=True)
            try:
                os.link(self.file, self.last)
            except OSError:  # a disk that knows no second names
                shutil.copyfile(self.file, self.last)

    def _write(self, tensors: dict[str, Tensor], place: Path) -> Future | None:
        import torch.distributed.checkpoint as dcp

        writer = _dcp("HuggingFaceStorageWriter")(str(place), save_distributed=True)
        try:
            if not self.world.config.background:
                dcp.save(tensors, storage_writer=writer)
                return None
            return dcp.async_save(tensors, storage_writer=writer, process_group=self._group)
        except (OSError, dcp.api.CheckpointException) as error:
            raise _full(place, error) from error

    def written(self) -> bool:
        """Whether this process's share of a checkpoint waits to be published."""
        return self._writing is not None and (not self._writing[0] or self._writing[0].done())

    def finish(self) -> None:
        """Wait until the checkpoint in the making is written, then publish it: all together."""
        if self._writing is None:
            return
        import torch.distributed.checkpoint as dcp

        future, place, facts = self._writing
        self._writing = None
        try:
            if future is not None:
                future.result()
        except (Exception, dcp.api.CheckpointException) as error:  # the latter is no Exception
            raise _full(place, error) from error
        try:
            self._note_sums(place)
            self.world.wait()
            if self.world.rank == 0:
                self._publish(place, facts)
        except OSError as error:
            raise _full(place, error) from error
        self.world.wait()

    def _note_sums(self, place: Path) -> None:
        """Each process reads its share of the files once more, and notes their sums beside them."""
        for file in sorted(place.glob("*.safetensors"))[self.world.rank :: self.world.size]:
            files.write_text(file.with_suffix(".sum"), file_sum(file))

    def _publish(self, place: Path, facts: Facts) -> None:
        sizes = {file.name: file.stat().st_size for file in place.glob("*.safetensors")}
        sums = {name: (place / name).with_suffix(".sum").read_text() for name in sizes}
        for note in place.glob("*.sum"):
            note.unlink()
        whole = json.dumps({"facts": facts, "files": sizes, "sums": sums}, sort_keys=True)
        digest = hashlib.sha256(whole.encode()).hexdigest()
        with open(place / "facts.json", "w", encoding="utf-8") as file:
            json.dump({**json.loads(whole), SUM: digest}, file)
            file.flush()
            os.fsync(file.fileno())
        final = place.with_name(place.name[1:].removesuffix(".tmp"))
        _remove(final)  # the same step, saved once more
        os.replace(place, final)
        for file in (self.file, self.last):
            if file != self._good:  # of one process: that one stays until the next is there
                file.unlink(missing_ok=True)
        stores = sorted(self.stores.glob("step-*"))
        before = self._good
        if before in (None, final):  # a first save, or the same step once more
            before = stores[max(0, stores.index(final) - 1)]
        for old in stores:
            if old not in (final, before):  # older, damaged, or of a run that started over
                _remove(old)
        self._good = final

    # -------------------------------------------------------------------------------- reading

    def newest(self) -> tuple[Path, Facts] | None:
        """The checkpoint of the highest step that is whole, and its facts; None if there is none.

        A damaged one is passed over with a warning. Raises TrainingError if there are checkpoints
        and none can be read. Many processes share the reading, and must call it together.
        """
        said = headers(self.folder)
        found = [(place, facts) for place, facts in said.items() if facts]
        damaged: list[object] = [place for place, facts in said.items() if not facts]
        if self.last in said and self.file not in said:  # one process always leaves both
            damaged.append(f"{self.file} (gone)")
        for place, facts in sorted(found, key=lambda one: int(one[1]["step"]), reverse=True):
            if self._is_whole(place, facts):
                if damaged and self.world.rank == 0:
                    warn(DamageWarning(
                        f"{', '.join(map(str, damaged))}: damaged, so the training goes on from "
                        f"step {facts['step']} in {place}"
                    ))  # fmt: skip
                self._good = place
                return place, facts
            damaged.append(place)
        if damaged:
            raise TrainingError(
                f"{', '.join(map(str, damaged))}: damaged, and no other checkpoint is left. "
                "Start over with --restart (what is there is set aside), or bring a copy back."
            )
        return None

    def _is_whole(self, place: Path, facts: Facts) -> bool:
        """Whether a checkpoint is bit for bit what was written."""
        world, bad = self.world, False
        if place.is_file():
            bad = world.rank == 0 and not _same_sum(place, facts)
        else:
            stored = parse_json(files.read_text(place / "facts.json"))
            mine = sorted(stored["sums"].items())[world.rank :: world.size]
            bad = any(file_sum(place / name) != digest for name, digest in mine)
        return world.mean({"bad": float(bad)})["bad"] == 0

    def shapes(self, place: Path) -> dict[str, tuple[int, ...]]:
        """Names and whole shapes of the tensors in a checkpoint."""
        if place.is_file():
            with _reading(place), safe_open(place, "pt") as file:
                return {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}  # noqa: SIM118
        with _reading(place):
            return self._table(place)

    def _table(self, place: Path) -> dict[str, tuple[int, ...]]:
        table = _dcp("HuggingFaceStorageReader")(str(place)).read_metadata().state_dict_metadata
        return {name: tuple(entry.size) for name, entry in table.items()}

    def load(self, place: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Fill tensors, whole or sharded, from a checkpoint; returns them.

        Raises TrainingError if it lacks one of them or holds one of another shape.
        """
        if place.is_file():
            with _reading(place), safe_open(place, "pt") as file:
                for name, tensor in tensors.items():
                    to_local(tensor).copy_(to_local(shard_like(file.get_tensor(name), tensor)))
            return tensors
        import torch.distributed.checkpoint as dcp

        reader = _dcp("HuggingFaceStorageReader")(str(place))
        with _reading(place):
            dcp.load(tensors, storage_reader=reader, no_dist=self.world.size == 1)
        return tensors


def headers(folder: Path) -> dict[Path, Facts | None]:
    """What each checkpoint of a run says of itself; None for one that is damaged. Older first."""
    names = (folder / "checkpoint.last.safetensors", folder / "checkpoint.safetensors")
    places = [*filter(Path.exists, names), *sorted((folder / "checkpoints").glob("step-*"))]
    return {place: facts if _is_sound(facts := _facts(place)) else None for place in places}


@contextmanager
def _reading(place: Path) -> Iterator[None]:
    """Turn whatever a damaged or foreign checkpoint leads to into a TrainingError."""
    import torch.distributed.checkpoint as dcp

    try:
        yield
    except MissingPackageError:
        raise
    except (Exception, dcp.api.CheckpointException) as error:
        raise TrainingError(
            f"{place} cannot be read ({error!r:.300}). It is damaged or of another training: "
            "remove it to start anew."
        ) from error


def _facts(place: Path) -> Facts | None:
    """What a checkpoint says of itself, or None if it is not whole."""
    try:
        if place.is_file():
            with safe_open(place, "pt") as file:
                return file.metadata()
        stored = parse_json(files.read_text(place / "facts.json"))
        digest = stored.pop(SUM)
        there = {p.name: p.stat().st_size for p in place.glob("*.safetensors") if files.exists(p)}
        whole = there == stored["files"] and there.keys() == stored["sums"].keys()
        same = hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest() == digest
        return stored["facts"] if whole and same else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, SafetensorError):
        return None


def checksum(facts: Facts, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of a checkpoint's facts and tensors (on the host), whatever their order."""
    pairs = sorted((name, value) for name, value in facts.items() if name != SUM)
    digest = hashlib.sha256(json.dumps(pairs).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def load_whole(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """A file's tensors and facts. Raises ValueError where a sum among them is not theirs."""
    if not files.exists(path):
        raise FileNotFoundError("it is no file")  # at a pipe one would wait for ever
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        facts = file.metadata() or {}
    if SUM in facts and checksum(facts, tensors) != facts[SUM]:
        raise ValueError("its numbers are not those that were written")
    return tensors, facts


def file_sum(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def _same_sum(place: Path, facts: Facts) -> bool:
    try:
        return SUM in facts and load_whole(place)[1] == facts
    except (OSError, ValueError, SafetensorError):
        return False


def _is_sound(facts: object) -> bool:
    """Whether facts tell the step to go on from."""
    if not fits_type(facts, dict[str, str]) or not facts.get("step", "").isdecimal():
        return False
    try:
        if not fits_type(parse_json(facts.get("made_from", "")), dict[str, str]):
            return False
        numbers = [float(facts.get(name, 0)) for name in ("seconds", "grad_norm_ema")]
        counts = [int(facts.get(name, 0)) for name in ("step", "skipped")]
        return max(counts) < 2**63 and all(map(math.isfinite, numbers))
    except ValueError:  # no number, or one of thousands of digits
        return False


def _dcp(name: str) -> type:
    import torch.distributed.checkpoint as dcp

    if not hasattr(dcp, name):
        raise MissingPackageError(
            f"PyTorch {torch.__version__} has no {name}: checkpoints of many processes need 2.9"
        )
    return getattr(dcp, name)


def _remove(place: Path) -> None:
    """Remove a folder, or what has its name: never what a link leads to."""
    with suppress(OSError):
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)
        else:
            place.unlink()


def _full(place: Path, error: Exception) -> OutputError:
    return OutputError(f"Cannot write {place}: {error}. Make room; the checkpoint before is kept.")
