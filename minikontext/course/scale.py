"""The widget of notebook 08: what a training takes, from the toy to 12 B; and real processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import ipywidgets as W
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minikontext.course import style
from minikontext.course.flow_pictures import png
from minikontext.course.parts import THIRD, Widget, choice, follow, plot_box, row, stops
from minikontext.course.plots import stacked_bars
from minikontext.errors import TrainingError
from minikontext.training import plan
from minikontext.training.loop import LoopConfig
from minikontext.training.parallel import LEVELS, ParallelConfig
from minikontext.transformer import TransformerConfig

FULL = TransformerConfig.flux_dev()


def _sizes(width: int, depth: int, single: int) -> TransformerConfig:
    return replace(
        FULL, hidden_size=width, num_heads=width // 128, depth=depth, depth_single_blocks=single
    )


NETS = {
    "toy, 5 M": TransformerConfig.toy(),
    "0.3 B": _sizes(1024, 4, 10),
    "1 B": _sizes(1536, 7, 14),
    "3 B": _sizes(2048, 12, 24),
    "12 B": FULL,
}
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PARTS = {
    "weights": style.BLUE,
    "gradients": style.ACCENT,
    "optimiser": style.GREEN,
    "moving average": style.VIOLET,
    "activations": style.GOLD,
    "block at work": style.GREY,
    "whole blocks": style.INK,
    "reserve": "#b4bec9",
}


def job(net: str, batch: int, side: int = 512, bf16: bool = True, level: str = "selective",
        ema: float = 0.999) -> plan.Workload:  # fmt: skip
    """A training of one of NETS with a global batch and one context of side × side pixels."""
    tokens = (side // 16) ** 2
    loop = LoopConfig(steps=100_000, muon_lr=0.0, ema=ema)
    flags = ParallelConfig(checkpointing=level)
    return plan.Workload(NETS[net], loop, flags, batch, tokens, tokens, 512, bf16=bf16)


def show_memory(plans: dict[str, plan.Plan], title: str) -> None:
    """Show what each GPU holds under several plans, as bars."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(style.WIDEST, 0.9 + 0.36 * len(plans)))
    _bars(ax, plans)
    ax.set_title(title)
    plt.show()


def at_peak(one: plan.Plan) -> dict[str, float]:
    """GiB of the parts that lie there at one time, at the peak, and the reserve.

    Gradients take the place of activations, unless they wait for the next part of the batch; the
    optimiser works when activations are gone (`plan.memory`).
    """
    held = {part: size / plan.GIB for part, size in one.held.items()}
    held["activations"] -= min(held["activations"], held["gradients"]) * (
        one.job.loop.accumulate == 1
    )
    passes, step = ("activations", "block at work", "whole blocks"), held["optimiser at work"]
    if sum(held[part] for part in passes) < step:
        held |= dict.fromkeys(passes, 0.0) | {"optimiser": held["optimiser"] + step}
    return {part: held.get(part, plan.RESERVE / plan.GIB) for part in PARTS}


def _bars(ax: Axes, plans: dict[str, plan.Plan]) -> None:
    """Stacked bars of the peak, and the line of what there is."""
    limit = next(iter(plans.values())).machine.memory
    rows = {name: at_peak(one) for name, one in plans.items()}
    stacked_bars(ax, rows, PARTS, limit)
    ax.set_xlabel(f"GiB on each GPU; the line is its memory, {limit:g} GiB")


class PlanWidget(Widget):
    """Turn size, GPUs, batch and precision, and read memory and time of a step: no training runs.

    Parts: net, gpus, batch, side, level, precision, average, image, status; `plan` is what they
    give.
    """

    def __init__(self, machine: plan.Machine | None = None) -> None:
        self.machine = machine or plan.Machine()
        super().__init__()
        follow(self.show, *self.dials, self.average)
        self.show()

    def _make_controls(self) -> None:
        self.net = stops(list(NETS), "Parameters", value="12 B")
        self.gpus = stops(GPUS, "GPUs", value=8)
        self.batch = stops((1, 2, 4, 8, 16, 32, 64), "Batch a GPU")
        self.side = stops((64, 256, 512, 1024), "Pixels", value=512)
        self.level = choice(LEVELS, "Checkpointing", THIRD, "full")
        numbers = {"bfloat16": True, "float32 only": False}
        self.precision = choice(numbers, "Numbers", THIRD)
        self.average = W.Checkbox(True, description="Keep an average of the weights", indent=False)
        self.image = plot_box("what each GPU holds")
        self.dials = (self.net, self.gpus, self.batch, self.side, self.level, self.precision)

    def _arrange(self) -> list[W.Widget]:
        return [row(self.dials[:3]), row(self.dials[3:]), self.average, self.image, self.status]

    def show(self) -> None:
        """Make the plan that the dials ask for, and show it."""
        gpus = self.gpus.value
        request = job(
            self.net.value, self.batch.value * gpus, self.side.value, self.precision.value,
            self.level.value, 0.999 * self.average.value,
        )  # fmt: skip
        # Products in float32 run on the same units as TF32, at half the rate.
        peak = self.machine.peak / (1 if self.precision.value else 2)
        self.plan = plan.make(request, replace(self.machine, gpus=gpus, peak=peak))
        figure = Figure(figsize=(style.PLOT, 2.0), layout="constrained")
        _bars(figure.subplots(), {"": self.plan})
        self.image.show(png(figure))
        self._say(*self._summary())

    def _summary(self) -> tuple[str, str]:
        chosen = self.plan
        need = (chosen.held["peak"] + plan.RESERVE) / plan.GIB
        fits = f"{need:,.1f} of {self.machine.memory:g} GiB"
        slow = "the network" if chosen.exchange > chosen.compute else "the products"
        rate = chosen.job.batch / chosen.seconds
        text = (
            f"{'Fits' if chosen.fits else 'Does not fit'}: {fits}. A step takes "
            f"{chosen.seconds:,.3g} s (as long as {slow}), {rate:,.3g} samples a second."
        )
        return ("done" if chosen.fits else "error"), text


# Who ends with its group open is aborted, now and then, while the other one still talks to it.
LEAVE = """
import torch.distributed as _group
if _group.is_initialized():
    _group.destroy_process_group()
"""


def run_processes(program: str, count: int = 2, arguments: Sequence[str] = ()) -> str:
    """Run a Python program as so many processes under torchrun; returns what they printed.

    One rank's lines come after another's. `program` is source code, or `-m module`; at the end of
    source code its processes leave their group.
    Raises TrainingError that says what went wrong.
    """
    with tempfile.TemporaryDirectory() as folder:
        what = program.split() if program.startswith("-m ") else [str(Path(folder) / "program.py")]
        if not program.startswith("-m "):
            Path(what[0]).write_text(program + LEAVE, encoding="utf-8")
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launch += ["--redirects", "1", "--log-dir", folder]  # or their lines would mix
        quiet = {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1", "MINIKONTEXT_DEVICE": "cpu"}
        done = subprocess.run(
            [*launch, "--nproc-per-node", str(count), *what, *arguments],
            capture_output=True, text=True, env={**os.environ, **quiet}, timeout=300,
        )  # fmt: skip
        logs = sorted(
            Path(folder).glob("*/attempt_0/*/stdout.log"), key=lambda p: int(p.parent.name)
        )
        text = "".join(log.read_text(encoding="utf-8") for log in logs)
    if done.returncode:
        lines = done.stderr.splitlines()
        why = [line for line in lines if "Error" in line and "ChildFailedError" not in line]
        raise TrainingError(f"{count} processes failed: {why[0] if why else done.stderr[-1500:]}")
    return text
