"""Kill a training again and again, and see whether it always goes on: a proof by trying.

python tests/training/kills.py --count 50                  # one process
python tests/training/kills.py --count 50 --processes 2    # sharded, two processes
python tests/training/kills.py --count 50 --flip           # and a bit of what is left is flipped
python tests/training/kills.py --count 20 --full           # no kill: the disk is full (Linux)

A tiny training runs in processes of its own and writes a checkpoint every few steps. It is killed
(SIGKILL: nothing can be tidied up) after a random number of steps, every second time while it is
saving: it is then held with a checkpoint half written until it is killed. Started again, it goes
on. At the end its weights are compared with those of a run that nobody disturbed. Nothing depends
on how fast the machine is: each kill waits for what must have happened before it. With --full, no
file can grow beyond a random size from a random step on: the training must end with an OutputError.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from tqdm.auto import tqdm

from minikontext.runtime import files
from minikontext.training import store

sys.path.insert(0, str(Path(__file__).parents[1]))
from children import Program

EVERY = 5  # steps between two checkpoints
PATIENCE = 300  # seconds without any progress; then something hangs
CONFIG = {
    "kind": "editor", "run": "run", "output": "output", "autoencoder": "toy", "device": "cpu",
    "data": {"level": 1, "count": 1}, "loop": {"steps": 1},
    "transformer": {
        "hidden_size": 64, "num_heads": 2, "axes_dim": [8, 12, 12], "depth": 1,
        "depth_single_blocks": 1, "in_channels": 16, "out_channels": 16,
    },
    "text": {"depth": 1, "heads": 2},
    "parallel": {"background": True},
}  # fmt: skip


@dataclass
class Report:
    """What happened: for each kill, the last step that was done and the one it went on from."""

    most: float = 1.0  # intervals that a kill may cost
    steps: list[tuple[int, int]] = field(default_factory=list)
    saving: int = 0
    failures: list[str] = field(default_factory=list)
    equal: bool = False

    @property
    def lost(self) -> float:
        """The most that one kill cost, in intervals between checkpoints."""
        return max(((done - resumed) / EVERY for done, resumed in self.steps), default=0.0)

    @property
    def good(self) -> bool:
        """Whether every resume succeeded, lost no more than it may, and nothing was changed."""
        return self.equal and not self.failures and self.lost <= self.most

    def facts(self) -> dict:
        """What is worth keeping, for a JSON file."""
        told = {"kills": len(self.steps) + len(self.failures), "while_saving": self.saving}
        told |= {"resumed": len(self.steps), "intervals_lost_at_most": self.lost}
        return told | {"bit_equal_in_the_end": self.equal, "failures": self.failures}

    def __str__(self) -> str:
        count = len(self.steps) + len(self.failures)
        mean = sum(done - resumed for done, resumed in self.steps) / max(1, len(self.steps))
        return (
            f"{count} kills, {self.saving} of them while saving: {len(self.steps)} of {count} "
            f"resumed\nlost: {mean:.1f} steps in the mean, {self.lost:.1f} intervals of {EVERY} "
            f"steps at most\nin the end the weights of an undisturbed run, bit for bit: "
            f"{self.equal}" + "".join(f"\n{why}" for why in self.failures)
        )


def run(
    count: int, folder: Path, processes: int = 1, seed: int = 0, flip: bool = False,
    full: bool = False,
) -> Report:  # fmt: skip
    """Kill a training in `folder` so many times; then let it end, and a second one undisturbed.

    One process waits for its checkpoint, so a kill costs an interval at most. Many write it while
    they train, and wait for it when the next is due: a kill can cost one interval more, and so can
    a flipped byte, which costs the newest checkpoint.
    """
    most = 1.0 + (processes > 1) + flip
    draw, report, done, place = random.Random(seed), Report(most=most), 0, folder / "killed"
    for number in tqdm(range(count + 1), desc="kills"):
        child = _start(place, processes, 10**6)
        resumed = _resumed(child)
        if resumed is None:
            report.failures.append(f"kill {number}: {child.stderr.read()[-300:]}")
            break
        if number:
            report.steps.append((done, resumed))
        if number < count:
            wanted = resumed + (draw.randint(2 * EVERY, 4 * EVERY) if flip else draw.randint(1, 12))
            if flip:  # one checkpoint will be damaged
                _until(lambda: len(store.headers(place)) > 1, child, "no two checkpoints are there")
            report.saving += _wait(place, wanted, child, saving=bool(number % 2) and not full)
        if full and number < count:
            report.failures += _fill(child, place, draw)
        else:
            _kill(child, place)
        done = _last_step(place)
        if flip and number < count:
            _flip(place, draw)
    ends = [_end(folder / name, processes, done + EVERY) for name in ("killed", "undisturbed")]
    report.failures += [why for end in ends for why in end[1]]
    report.equal = not any(end[1] for end in ends) and ends[0] == ends[1]
    if not report.failures and not report.equal:
        report.failures.append(f"the weights differ by {_apart(folder):.1e} at most")
    return report


def _fill(child: subprocess.Popen, folder: Path, draw: random.Random) -> list[str]:
    """Let no file of a training grow any more, and wait for its end; what it should have said."""
    import resource

    newest = folder / "checkpoint.safetensors"
    room = draw.randrange(newest.stat().st_size if newest.exists() else 1000)
    limits = resource.prlimit(child.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (room, limits[1]))
    said = child.communicate(timeout=PATIENCE)[1]
    told = child.returncode == 1 and said.strip().rpartition("\n")[2].startswith(
        "minikontext.errors.OutputError: Cannot write"
    )
    return [] if told else [f"a full disk ({room} bytes) was told as {said[-300:]}"]


def _flip(folder: Path, draw: random.Random) -> None:
    """Flip one bit of the newest checkpoint."""
    shards = sorted(folder.glob("checkpoints/step-*"))
    newest = [folder / "checkpoint.safetensors"]
    file = draw.choice(sorted(shards[-1].iterdir()) if shards else newest)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    other = file.with_name("flipped")  # the one before may be the same file under another name
    other.write_bytes(data)
    os.replace(other, file)


def _end(folder: Path, processes: int, until: int) -> tuple[bytes, list[str]]:
    """Train to the end: the weights' file, or what was said instead."""
    child = _start(folder, processes, until)
    said = child.communicate()[1]
    if child.returncode:
        return b"", [f"{folder.name} did not end: {said[-300:]}"]
    return (folder / "end.safetensors").read_bytes(), []


def _apart(folder: Path) -> float:
    from safetensors.torch import load_file

    ends = (load_file(folder / name / "end.safetensors") for name in ("killed", "undisturbed"))
    return max(float((a - b).abs().max()) for a, b in zip(*(end.values() for end in ends)))


def _start(folder: Path, processes: int, until: int) -> subprocess.Popen | Program:
    command = [__file__, "--train", str(folder), "--until", str(until)]
    if processes == 1:
        return Program(*command)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.Popen(
        [sys.executable, *launch, *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **quiet},
    )  # fmt: skip


def _kill(child: subprocess.Popen, folder: Path) -> None:
    """Kill torchrun, if there is one, and then the processes that train."""
    child.kill()
    for note in folder.glob("pid-*"):
        with suppress(ProcessLookupError):
            os.kill(int(note.read_text()), signal.SIGKILL)
        note.unlink()
    child.communicate()


def _resumed(child: subprocess.Popen) -> int | None:
    """The step that a training goes on from; None if it does not."""
    for line in child.stdout:
        if line.startswith("resumed at "):
            return int(line.split()[-1])
    return None


def _wait(folder: Path, step: int, child: subprocess.Popen, saving: bool) -> bool:
    """Wait until a step was done; with `saving`, until a checkpoint after it is half written."""
    _until(lambda: _last_step(folder) >= step, child, "no step was done")
    if saving:
        (folder / "hold").touch()
        _until((folder / "held").exists, child, "no checkpoint was begun")
        (folder / "hold").unlink()
        (folder / "held").unlink()
    return saving


def _until(happened: Callable[[], bool], child: subprocess.Popen, why: str) -> None:
    """Wait for an event. Raises TimeoutError if it does not come, or the training has ended."""
    end = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > end or child.poll() is not None:
            raise TimeoutError(f"{why}: {child.stderr.read()[-300:] if child.poll() else ''}")
        time.sleep(0.005)


def _hold(folder: Path, rank: int) -> None:
    """Stay here for ever if the parent asks for it: it kills what is held."""
    if (folder / "hold").exists():
        if rank == 0:
            (folder / "held").touch()
        while True:
            time.sleep(1)


def _last_step(folder: Path) -> int:
    log = folder / "log.jsonl"
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()  # the last may be cut, on a full disk
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _hold_while_saving(store: ModuleType, folder: Path, rank: int) -> None:
    """Let the writing of checkpoints stop half-way when it is asked to."""
    write, note = store.save_file, store.Store._note_sums

    def half(tensors: dict, place: Path, metadata: dict) -> None:
        write(tensors, place, metadata=metadata)
        if (folder / "hold").exists():
            os.truncate(place, place.stat().st_size // 2)
            _hold(folder, rank)

    def held(self: object, place: Path) -> None:
        _hold(folder, rank)  # the shards are there, and nothing says that they are whole
        note(self, place)

    store.save_file, store.Store._note_sums = half, held


def train(folder: Path, until: int) -> None:
    """The training that is killed: a tiny editor on random pairs, up to a step."""
    import torch
    from safetensors.torch import save_file

    from minikontext.training import jobs, models, parallel, store
    from minikontext.training.data import Pairs
    from minikontext.training.editor import EditorLossConfig, editor_loss
    from minikontext.training.loop import Loop, LoopConfig

    job = jobs.build_job(CONFIG)
    world = parallel.start(job.device, job.parallel)
    model = models.new_editor(job.transformer, job.text)
    _hold_while_saving(store, folder, world.rank)
    draw = torch.Generator().manual_seed(1)
    words = model.text.tokenize(["make the hat red", "make it night"] * 8)[:, None]
    target, contexts = (torch.randn(16, *n, 4, 8, 8, generator=draw) for n in ((), (2,)))
    pairs = Pairs(target, contexts, torch.arange(16) % 3, words, torch.arange(16))
    parallel.prepare(model, world, fill=models.first_weights(0))
    loop = Loop(
        model, LoopConfig(until, warmup=2, decay=0.0, save_every=EVERY, log_every=1), folder, world
    )
    loop.resume()
    (folder / f"pid-{world.rank}").write_text(str(os.getpid()))
    world.wait()
    if world.rank == 0:
        print(f"resumed at {loop.step}", flush=True)
    null = model.text.tokenize([""])[0]
    loop.run(editor_loss(model, pairs, null, EditorLossConfig(8, bf16=False), world.device))
    state = {name: parallel.full_tensor(p).detach() for name, p in model.named_parameters()}
    if world.rank == 0:
        save_file(state, folder / "end.safetensors")
    parallel.stop()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--flip", action="store_true", help="flip a bit of each newest checkpoint")
    parser.add_argument("--full", action="store_true", help="fill the disk instead of a kill")
    parser.add_argument("--json", type=Path, help="write the report here, beside other numbers of "
                        "processes")  # fmt: skip
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--until", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        return train(options.train, options.until)
    with tempfile.TemporaryDirectory() as folder:
        report = run(
            options.count, Path(folder), options.processes, options.seed, options.flip, options.full
        )
    print(report)
    if options.json:
        _keep(report, options)
    sys.exit(not report.good)


def _keep(report: Report, options: argparse.Namespace) -> None:
    place, name = options.json, f"processes_{options.processes}"
    name += "_flipped" * options.flip + "_full_disk" * options.full
    name += f"_seed_{options.seed}" if options.seed else ""
    kept = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    kept[name] = {"seed": options.seed, **report.facts()}
    with files.replacing(place) as temporary:
        temporary.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
