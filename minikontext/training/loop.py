"""The loop every training here shares: schedule, clipping, EMA, checkpoints, exact resume, log.

A training is a function `loss(step) -> (scalar, metrics)`. Everything random in it derives from the
step, so a run that was interrupted and resumed is the same run.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from minikontext import files
from minikontext.errors import TrainingError
from minikontext.training.optimizer import MuonAdamW, learning_rate

LossFunction = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast: the dials that do not depend on what is trained."""

    steps: int
    lr: float = 1e-3
    muon_lr: float = 1e-3
    weight_decay: float = 0.0
    warmup: int = 100
    decay: float = 0.5
    clip: float = 1.0
    ema: float = 0.999
    save_minutes: float = 4.0
    log_every: int = 20
    minutes: float = 0.0  # > 0: the schedule follows the clock as well; the run ends on time
    rates: dict[str, float] = field(default_factory=dict)  # of the learning rates, by part


class Loop:
    """Runs a `LossFunction` and keeps everything needed to go on after an interruption.

    Files in `folder`: `checkpoint.safetensors` (weights, EMA, optimiser, step), `log.jsonl`.
    Raises TrainingError when the loss stops being finite, or a checkpoint is of another model.
    """

    def __init__(self, model: nn.Module, config: LoopConfig, folder: str | Path) -> None:
        self.model, self.config, self.folder = model, config, Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.optimizer = MuonAdamW(
            model, config.lr, config.muon_lr, config.weight_decay, config.rates
        )
        self.ema = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.step, self.seconds = 0, 0.0

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    def save(self) -> None:
        """Write the checkpoint beside its place and rename it: never half a file."""
        tensors = {f"model.{n}": p.detach().contiguous() for n, p in self.model.named_parameters()}
        tensors |= {f"ema.{n}": p for n, p in self.ema.items()}
        tensors |= {f"optimizer.{n}": p for n, p in self.optimizer.tensors().items()}
        facts = {"step": str(self.step), "seconds": str(self.seconds)}
        facts["config"] = json.dumps(asdict(self.config))
        with files.replacing(self.checkpoint) as temporary:
            save_file(tensors, temporary, metadata=facts)

    def resume(self) -> bool:
        """Go on from the checkpoint if there is one; tells whether there was."""
        if not self.checkpoint.exists():
            return False
        with safe_open(self.checkpoint, "pt") as file:
            facts = file.metadata()
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        expected = {n: tuple(p.shape) for n, p in self.model.named_parameters()}
        got = {k[6:]: tuple(v.shape) for k, v in tensors.items() if k.startswith("model.")}
        if got != expected:
            raise TrainingError(
                f"{self.checkpoint} holds another model; remove it or train into another folder"
            )
        for name, parameter in self.model.named_parameters():
            parameter.data.copy_(tensors[f"model.{name}"])
            self.ema[name] = tensors[f"ema.{name}"].to(parameter.device)
        state = {k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")}
        self.optimizer.load(state)
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        return True

    def run(self, loss: LossFunction, on_log: Callable[[dict], None] | None = None) -> None:
        """Train to the last step; Ctrl-C and SIGTERM save first, and a second call goes on."""
        previous = signal.signal(signal.SIGTERM, _interrupt)
        bar = tqdm(total=self.config.steps, initial=self.step, desc=self.folder.name)
        saved, last = time.monotonic(), time.monotonic()
        try:
            while self.step < self.config.steps:
                metrics = self._one(loss)
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                bar.update()
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self._log(metrics, bar, on_log)
                if now - saved > 60 * self.config.save_minutes:
                    self.save()
                    saved = now
        finally:
            signal.signal(signal.SIGTERM, previous)
            bar.close()
            self.save()

    def progress(self) -> float:
        """The schedule's position in steps; with `minutes`, the clock's if that is further."""
        limit = self.config.minutes * 60
        return max(self.step, self.config.steps * self.seconds / limit) if limit else self.step

    def _one(self, loss: LossFunction) -> dict[str, float]:
        value, metrics = loss(self.step)
        if not torch.isfinite(value):
            raise TrainingError(
                f"the loss is {value.item()} at step {self.step}; nothing was saved"
            )
        value.backward()
        c = self.config
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)
        self.optimizer.step(learning_rate(int(self.progress()), c.steps, c.warmup, c.decay))
        self.step += 1
        self._average()
        if c.minutes and self.seconds >= c.minutes * 60:
            self.step = c.steps
        return {"loss": float(value.detach()), "norm": float(norm), **metrics}

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        names, live = zip(*self.model.named_parameters(), strict=True)
        torch._foreach_lerp_([self.ema[n] for n in names], [p.data for p in live], 1 - decay)

    def _log(self, metrics: dict[str, float], bar: tqdm, on_log: Callable | None) -> None:
        facts = {"step": self.step, "seconds": round(self.seconds, 1)}
        facts |= {key: round(value, 5) for key, value in metrics.items()}
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(facts) + "\n")
        bar.set_postfix({key: f"{value:.4f}" for key, value in metrics.items()})
        if on_log:
            on_log(facts)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
