"""What is watched while a training runs: its speed, and its loss on samples that it never sees.

The loss of a step jumps with the times it happened to draw. Validation takes the same samples, the
same noise and the same eight times in every run (as MLPerf's FLUX benchmark does), so its numbers
can be compared between steps, runs and machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from minikontext import flow
from minikontext.errors import MissingPackageError, OutputError
from minikontext.runtime.device import mixed_precision

TIMES = tuple(i / 8 for i in range(8))
Metrics = dict[str, float]


@dataclass(frozen=True)
class Watch:
    """What a step is made of, so that its speed can be told, and how to validate.

    samples, flops: of the whole batch; flops as the model needs them, without what checkpointing
    makes again, and 0 where they were not counted. validate: gets the step, gives metrics. peak:
    TFLOP/s of one device, if it is known.
    """

    samples: int
    flops: float = 0.0
    validate: Callable[[int], Metrics] | None = None
    peak: float = 0.0

    def rates(self, steps: int, seconds: float, processes: int = 1) -> Metrics:
        """Samples a second of all processes, TFLOP/s of each, and its share of the peak."""
        if seconds <= 0:
            return {}
        tflops = self.flops * steps / seconds / processes / 1e12
        metrics = {"samples_per_second": self.samples * steps / seconds}
        if self.flops:
            metrics["tflops"] = tflops
        return metrics | ({"share": tflops / self.peak} if self.flops and self.peak else {})


@torch.no_grad()
def losses_at_fixed_times(
    model: nn.Module, velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, bf16: bool,
    seed: int = 0,
) -> Tensor:  # fmt: skip
    """The flow loss of clean latents x (b, c, h, w) at each of TIMES, with fixed noise: (b, 8).

    velocity(z, t) predicts; the model is put back into the mode that it was in.
    """
    draw = torch.Generator().manual_seed(seed)
    noise = torch.randn(x.shape, generator=draw).to(x)
    before, found = model.training, []
    model.eval()
    for t in TIMES:
        times = torch.full((len(x),), t, device=x.device)
        with mixed_precision(x.device, bf16):
            v = velocity(flow.interpolate(x, noise, times), times)
        found.append(flow.loss_per_sample(v, x, noise))
    model.train(before)
    return torch.stack(found, dim=1)


def validation_metrics(losses: Tensor) -> Metrics:
    """Losses (b, 8) as metrics: their mean, and the mean at each time."""
    each = {f"validation_{t:g}": float(x) for t, x in zip(TIMES, losses.mean(dim=0))}
    return {"validation": float(losses.mean()), **each}


class Board:
    """Numbers for TensorBoard, in the run's folder.

    Raises MissingPackageError without it, and OutputError where nothing can be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingPackageError(
                "tensorboard = true needs a package: pip install tensorboard"
            ) from error
        self.folder = folder
        with self._told():
            self._writer = SummaryWriter(str(folder))

    def add(self, step: int, facts: Metrics) -> None:
        """Write the numbers of a step."""
        with self._told():
            for name, value in facts.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:  # its thread writes, and raises what it met when it is next asked
            why = f"{error.strerror or error}. Make room for it, or leave tensorboard out."
            raise OutputError(f"Cannot write {self.folder} for TensorBoard: {why}") from error
