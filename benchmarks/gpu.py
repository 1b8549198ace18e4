"""What the scripts for full-size weights share: a report that outlives failures, and one clock."""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from minikontext.runtime import files
from minikontext.runtime.memory_plan import GB
from minikontext.transformer import TransformerConfig

TINY = TransformerConfig(16, 16, 12, 20, 64, 4.0, 2, 2, 2, (8, 12, 12), 10_000, True, True)
# Parts of the names of kernels that compute attention: torch's, cuDNN's, FlashAttention's.
ATTENTION = ("flash", "fmha", "cudnn", "attn", "attention")


def options(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all of them take."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a net of a few thousand parameters")
    parser.add_argument("--rounds", type=int, default=rounds, help="timed calls of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="nothing begins after them")
    parser.add_argument("--json", type=Path, help="write the measurements here, as they come")
    return parser


def ready(device: torch.device, tiny: bool, need: float = 0) -> None:
    """Make the device the current one; ends the script where `need` bytes are not free on it."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # what is synchronised and measured without a name
    if tiny:
        return
    if device.type != "cuda":
        raise SystemExit(f"Full size needs a CUDA GPU, got {device}. Try --tiny.")
    free, total = torch.cuda.mem_get_info()
    if free < need:
        raise SystemExit(
            f"Full size needs {need / GB:.0f} GB, and of the {total / GB:.1f} GB of {device} "
            f"{free / GB:.1f} are free. Take a larger GPU, free some memory, or try --tiny."
        )


def strict_compiler() -> None:
    """A block that was compiled too often would run uncompiled, and be timed as if it were not."""
    torch._dynamo.config.recompile_limit = 64
    torch._dynamo.config.fail_on_recompile_limit_hit = True


# ---- the report


class NotHereError(Exception):
    """Why something cannot be measured on this machine; that is no failure."""


class Report:
    """Measurements, written whenever one is added: what fails later takes none of them along.

    facts: what becomes JSON. together: tells whether any process of a training says yes.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        device: torch.device,
        together: Callable[[bool], bool] = bool,
        writes: bool = True,
    ) -> None:
        self.path, self.together = args.json if writes else None, together
        self.end = time.monotonic() + 60 * args.minutes
        self.facts: dict[str, dict] = {"setting": setting(args, device)}
        for name in ("errors", "cases", "ratios", "attention_kernels", "left_out", "failed"):
            self.facts[name] = {}

    def attempt(self, name: str, run: Callable[[], None]) -> None:
        """Run a part if there is time; if it fails, its message is kept and the next part begins.

        Only when `except` is left are the tensors of the failed part free.
        """
        if not self.has_time(name):
            return
        try:
            run()
        except NotHereError as reason:
            self.leave_out(name, str(reason))
        except Exception as error:
            self.fail(name, f"{type(error).__name__}: {error}")
        tidy()
        self.save()

    def add(self, kind: str, name: str, value: object) -> None:
        """Note one measurement and write all of them."""
        self.facts[kind][name] = value
        self.save()

    def judge(self, name: str, error: float, limit: float) -> None:
        """Note a relative error; above its limit, or not a number, it is a failure."""
        told = error if math.isfinite(error) else None  # JSON has no NaN
        self.add("errors", name, {"error": told, "limit": limit})
        if not error <= limit:
            self.fail(f"error of {name}", f"{error:.2g} is above {limit:g}")

    def note_kernels(self, name: str, run: Callable[[], object], device: torch.device) -> None:
        """Which attention kernels a call ran; where nobody may profile, the times still stand."""
        what = f"profile of {name}"
        if self.has_time(what):
            try:
                self.add("attention_kernels", name, kernels(run, device))
            except Exception as error:
                self.fail(what, f"{type(error).__name__}: {error}")

    def is_over(self) -> bool:
        """Whether the time is up, for any process."""
        return self.together(time.monotonic() >= self.end)

    def has_time(self, name: str) -> bool:
        """Whether something may begin; if not, it is named among what was left out."""
        if over := self.is_over():
            self.leave_out(name, "no time left")
        return not over

    def leave_out(self, name: str, why: str) -> None:
        """Note what is not measured."""
        print(f"{name}: {why}, left out")
        self.add("left_out", name, why)

    def fail(self, name: str, message: str) -> None:
        """Note a failure."""
        print(f"{name} FAILED: {message}")
        self.add("failed", name, message[:2000])

    def save(self) -> None:
        """Write the JSON beside its place and rename it into it."""
        if self.path:
            with files.replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.facts, indent=1) + "\n", encoding="utf-8")

    def finish(self) -> None:
        """End the script with exit code 1 if anything failed."""
        self.save()
        if self.facts["failed"]:
            raise SystemExit(1)


def setting(args: argparse.Namespace, device: torch.device) -> dict[str, object]:
    """Options, card and versions."""
    card = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    given = {name: value for name, value in vars(args).items() if name != "json"}
    return given | {"card": card, "torch": torch.__version__, "cuda": torch.version.cuda}


def table(rows: dict[str, dict], columns: dict[str, str], width: int = 42) -> None:
    """Print one line for each row; columns: from a key to a format, as "10.4f"."""
    if rows:
        sizes = {key: int(re.match(r"\d+", form)[0]) for key, form in columns.items()}
        print(f"{'':{width}}" + "".join(f"{key:>{size}}" for key, size in sizes.items()))
    for name, row in rows.items():
        print(f"{name:{width}}" + "".join(f"{row[key]:{form}}" for key, form in columns.items()))


def show_gaps(facts: dict) -> None:
    """Print what was left out and what failed."""
    for kind in ("left_out", "failed"):
        for name, why in facts[kind].items():
            print(f"{kind.replace('_', ' ')}: {name}: {why.splitlines()[0] if why else why}")


# ---- measuring


class Sample(NamedTuple):
    """One call: seconds, and bytes in tensors and held by torch's allocator at their peaks.

    With CUDA graphs, tensors of a replay are not seen as allocated; they are among the reserved.
    """

    seconds: float
    peak: int
    reserved: int


def once(run: Callable[[], object], device: torch.device) -> Sample:
    """Time one call."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return Sample(time.perf_counter() - start, 0, 0)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return Sample(seconds, torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())


@torch.no_grad()
def matrix_rate(device: torch.device, tiny: bool) -> float:
    """TFLOP/s of a product of two large square matrices, the best of ten."""
    n = 256 if tiny else 8192
    a, b = (torch.randn(n, n, device=device, dtype=dtype_of(device)) for _ in range(2))
    best = min(once(lambda: a @ b, device).seconds for _ in range(10))
    return 2 * n**3 / best / 1e12


def kernels(run: Callable[[], object], device: torch.device) -> list[str]:
    """Names of the CUDA kernels of one call that have to do with attention; none on a CPU."""
    if device.type != "cuda":
        return []
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    names = {event.name for event in profile.events() if event.device_type.name == "CUDA"}
    names = {name for name in names if not name.startswith("triton_")}  # fused, named after many
    return sorted(name[:160] for name in names if any(x in name.lower() for x in ATTENTION))


def tidy() -> None:
    """Give back what nobody holds any more; hooks and compiled code hold each other in circles."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# ---- random weights and velocities


def dtype_of(device: torch.device) -> torch.dtype:
    """bfloat16 on a GPU, float32 on a CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


@torch.no_grad()
def randomise(name: str, weight: Tensor, draw: Callable[[Tensor], object] | None = None) -> Tensor:
    """Fill a weight with numbers that keep activations near 1; draw: fills it with N(0, 1)."""
    (draw or Tensor.normal_)(weight)
    weight.mul_(weight.shape[-1] ** -0.5 if weight.dim() > 1 else 0.1)
    return weight.add_(1) if name.endswith("norm.scale") else weight


def relative_error(a: Tensor, b: Tensor) -> float:
    """Length of the difference over the length of b."""
    a, b = a.double(), b.double()
    return ((a - b).norm() / b.norm()).item()
