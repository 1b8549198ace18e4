"""The loop every training here shares: schedule, clipping, EMA, checkpoints, exact resume, log.

A training is a function `loss(step) -> (scalar, metrics)`. Everything random in it derives from the
step, so a run that was interrupted and resumed is the same run, on as many processes as you like.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor, nn
from tqdm.auto import tqdm

from minikontext.errors import ConfigError, OutputError, TrainingError, warn
from minikontext.runtime.bounds import Count, Minutes, Often, Rate, Share, Weight
from minikontext.runtime.config import parse_json
from minikontext.runtime.files import exists
from minikontext.runtime.log import printable
from minikontext.training.optimizer import MuonAdamW, learning_rate
from minikontext.training.parallel import ALONE, DistContext, full_tensor, to_local
from minikontext.training.runs import add_line, require_same
from minikontext.training.store import Store
from minikontext.training.watch import Board, Watch

# loss(step), or loss(step, microbatch) for some rows of the batch -> their mean loss, metrics
LossFunction = Callable[..., tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast: the dials that do not depend on what is trained."""

    steps: Count
    lr: Rate = 1e-3
    muon_lr: Rate = 1e-3
    weight_decay: Annotated[float, Interval(ge=0, le=1000)] = 0.0
    warmup: Often = 100
    decay: Share = 0.5
    clip: Annotated[float, Interval(gt=0, le=1e6)] = 1.0  # of the gradient's norm
    ema: Share = 0.999  # 0: no moving average is kept
    half_momentum: bool = False  # Muon's momentum in bfloat16
    save_minutes: Minutes = 4.0
    save_every: Often = 0  # > 0: save after so many steps as well
    log_every: Count = 20
    # microbatches computed one after the other: memory for time
    accumulate: Annotated[int, Interval(ge=1, le=2**20)] = 1
    spike: Weight = 0.0  # > 0: leave out steps with a gradient so many times the usual
    validate_every: Often = 0  # > 0: validate after so many steps
    tensorboard: bool = False  # write what is logged for TensorBoard as well
    minutes: Minutes = 0.0  # > 0: the schedule follows the clock as well; the run ends on time
    rates: dict[str, Weight] = field(default_factory=dict)  # of the learning rates, by part
    # Adam's first beta, None: 0.9
    adam_beta: Annotated[float, Interval(ge=0, le=0.9999)] | None = None


class Loop:
    """Runs a `LossFunction` and keeps everything needed to go on after an interruption.

    Files in `folder`: the checkpoint (weights, EMA, optimiser, step; see `store`), `log.jsonl`.
    With a world of many processes, all of them run the same loop, on a model that is `prepare`d.
    Raises TrainingError when the loss stops being finite (what is on disk then stays as it is), or
    a checkpoint is of another model; ConfigError for `validate_every` without a way to validate.
    """

    def __init__(
        self, model: nn.Module, config: LoopConfig, folder: str | Path, world: DistContext = ALONE,
        watch: Watch | None = None, made_from: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.model, self.config, self.folder, self.world = model, config, Path(folder), world
        self.watch, self._logged = watch, (0, 0.0)
        self.made_from = dict(made_from or {})
        if config.validate_every and not (watch and watch.validate):
            raise ConfigError("validate_every: trainings of kind editor and folder can validate")
        self._open_folder()
        self.optimizer = MuonAdamW(
            model, config.lr, config.muon_lr, config.weight_decay, config.rates,
            config.half_momentum, adam_beta=config.adam_beta,
        )  # fmt: skip
        averaged = model.named_parameters() if config.ema else ()
        self.ema = {n: p.detach().clone() for n, p in averaged}
        self.step, self.seconds = 0, 0.0
        self.grad_norm_ema, self.skipped = 0.0, 0  # the second: steps left out in a row
        self.store = Store(self.folder, world)
        self.board = Board(self.folder) if config.tensorboard and world.rank == 0 else None
        self._stopped, self._within = False, False

    def _open_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot write {self.folder}: {error.strerror or error}.") from error

    def save(self) -> None:
        """Write a checkpoint; what was there stays until the new one is whole."""
        tensors = {f"model.{n}": p.detach().contiguous() for n, p in self.model.named_parameters()}
        tensors |= {f"ema.{n}": p for n, p in self.ema.items()}
        tensors |= {f"optimizer.{n}": p for n, p in self.optimizer.tensors().items()}
        facts = {"step": str(self.step), "seconds": str(self.seconds)}
        facts |= {"grad_norm_ema": str(self.grad_norm_ema), "skipped": str(self.skipped)}
        facts["config"] = json.dumps(asdict(self.config))
        facts["made_from"] = json.dumps(self.made_from)
        self.store.save(tensors, facts)

    def resume(self) -> bool:
        """Go on from the newest checkpoint that is whole, if any; tells whether there was one.

        How many processes wrote it does not matter. Raises TrainingError for a checkpoint of
        another model, or one that was made from something else, with what differs.
        """
        found = self.store.newest()
        if found is None:
            log = self.folder / "log.jsonl"
            if self.world.rank == 0 and exists(log):
                warn(UserWarning(f"{log} tells of steps, and no checkpoint is there: from step 0."))
            return False
        place, facts = found
        require_same(place, parse_json(facts["made_from"]), self.made_from)
        shapes = self.store.shapes(place)
        expected = {n: tuple(p.shape) for n, p in self.model.named_parameters()}
        got = {k[6:]: shape for k, shape in shapes.items() if k.startswith("model.")}
        if got != expected:
            raise TrainingError(f"{place} holds another model; remove it or train elsewhere")
        tensors = {f"model.{n}": p.detach() for n, p in self.model.named_parameters()}
        tensors |= {f"ema.{n}": p for n, p in self.ema.items()}
        state = self.optimizer.room(k[10:] for k in shapes if k.startswith("optimizer."))
        tensors |= {f"optimizer.{n}": p for n, p in state.items()}
        if odd := [n for n, p in tensors.items() if p.dim() and shapes.get(n) != tuple(p.shape)]:
            raise TrainingError(f"{place} lacks {odd[0]:.80}, or has another shape; remove it")
        self.store.load(place, tensors)
        self.optimizer.load(state)
        self.step, self.seconds = int(facts["step"]), float(facts["seconds"])
        self.grad_norm_ema = float(facts.get("grad_norm_ema", 0))
        self.skipped = int(facts.get("skipped", 0))
        self._tell_if_done(place)
        return True

    def _tell_if_done(self, place: Path) -> None:
        """Warn where the checkpoint leaves nothing to do of what the config seems to ask for."""
        last, said = self.config.steps, ""
        if self.step > last:
            said = f"beyond the config's last, {last}: no step is done. "
            said += "For a shorter run start over with --restart."
        elif self.step == last and self.config.minutes and not self._late():
            said = "the config's last: no step is done. For all of its minutes give more steps."
        if said and self.world.rank == 0:
            warn(UserWarning(f"{place} is of step {self.step}, {said}"))

    def run(self, loss: LossFunction, on_log: Callable[[dict], None] | None = None) -> None:
        """Train to the last step, or to the last minute, and save. A second call goes on.

        Ctrl-C and SIGTERM end the step, save and raise KeyboardInterrupt; a second one does not
        wait for the step, and goes back to the checkpoint before.
        """
        before = {s: signal.signal(s, self._interrupt) for s in (signal.SIGTERM, signal.SIGINT)}
        quiet, desc = self.world.rank > 0, printable(self.folder.name, 80)
        bar = tqdm(total=self.config.steps, initial=self.step, desc=desc, disable=quiet)
        self._logged, self._stopped = (self.step, self.seconds), False
        saved, last, together = time.monotonic(), time.monotonic(), self.world.size == 1
        try:
            while not self.over():
                metrics = self._one(loss)
                now = time.monotonic()
                self.seconds, last = self.seconds + now - last, now
                agreed = self._agree(now - saved)
                bar.update()
                self._check_and_log(metrics, bar, on_log)
                if agreed["due"]:
                    self.save()
                    saved = time.monotonic()
                    self._leave_out(saved - now)
                if agreed["stopped"]:
                    together = True
                    raise KeyboardInterrupt
            together = True
        except TrainingError:
            together = False  # these weights led to it: what was saved before is better
            raise
        finally:
            bar.close()
            self.model.zero_grad()
            try:
                if together and not self._within:  # who failed alone would wait for ever
                    self.save()
                    self.store.finish()
            finally:  # only now: SIGTERM may reach one process while the others save already
                for number, handler in before.items():
                    signal.signal(number, handler)
        if self._stopped:  # while it saved what was done
            raise KeyboardInterrupt

    def _check_and_log(self, metrics: dict[str, float], bar: tqdm, on_log: Callable | None) -> None:
        """Validate and log, if it is time."""
        start = time.monotonic()
        checked = self._validate()
        aside = time.monotonic() - start
        if checked or self.step % self.config.log_every == 0 or self.over():
            self._log({**metrics, **checked}, bar, on_log)
        self._leave_out(aside)

    def _leave_out(self, seconds: float) -> None:
        """Seconds that the clock counts, but that are not the steps' own: no part of their rate."""
        self._logged = self._logged[0], self._logged[1] + seconds

    def _agree(self, since: float) -> dict[str, float]:
        """What all processes do next, and one clock for all of them."""
        every = self.config.save_every
        due = since > 60 * self.config.save_minutes or (every and self.step % every == 0)
        agreed = self.world.mean(
            {
                "seconds": self.seconds,
                "due": float(bool(due)),
                "stopped": float(self._stopped),
                "written": float(self.store.written()),
            }
        )
        self.seconds = agreed["seconds"]
        if agreed["written"] == 1:
            self.store.finish()
        return agreed

    def _late(self) -> bool:
        return 0 < self.config.minutes * 60 <= self.seconds

    def over(self) -> bool:
        """Whether all steps are done, or the minutes are over: with more of them it goes on."""
        return self.step >= self.config.steps or self._late()

    def progress(self) -> float:
        """The schedule's position in steps; with `minutes`, the clock's if that is further."""
        limit = self.config.minutes * 60
        return max(self.step, self.config.steps * self.seconds / limit) if limit else self.step

    def _one(self, loss: LossFunction) -> dict[str, float]:
        metrics, c = self._gradients(loss), self.config
        norm = float(full_tensor(nn.utils.clip_grad_norm_(self.model.parameters(), c.clip)))
        for name, value in (("loss", metrics["loss"]), ("gradient's norm", norm)):
            if not math.isfinite(value) and not c.spike:
                self.model.zero_grad()
                raise TrainingError(f"the {name} is {value} at step {self.step}; it was not done")
        if c.spike and self._is_spike(norm + 0 * metrics["loss"]):
            self.model.zero_grad()
            self.step += 1
            return {**metrics, "norm": norm, "skipped": float(self.skipped)}
        self._within = True
        self.optimizer.step(learning_rate(int(self.progress()), c.steps, c.warmup, c.decay))
        self.step += 1
        self._average()
        self._within = False
        return {**metrics, "norm": norm}

    def _gradients(self, loss: LossFunction) -> dict[str, float]:
        """Backward through this process's microbatches; loss and metrics over all of them."""
        microbatches = self.world.microbatches(self.config.accumulate)
        total: dict[str, float] = {}
        for some in microbatches:
            value, metrics = loss(self.step, some) if some.count > 1 else loss(self.step)
            (value / len(microbatches)).backward()
            for name, number in {"loss": float(value.detach()), **metrics}.items():
                total[name] = total.get(name, 0.0) + number / len(microbatches)
        return self.world.mean(total)

    def _is_spike(self, norm: float) -> bool:
        """Whether the gradient is beyond all measure; ten in a row raise TrainingError."""
        mean = self.grad_norm_ema
        if math.isfinite(norm) and (not mean or norm <= self.config.spike * mean):
            self.grad_norm_ema = norm if not mean else 0.98 * mean + 0.02 * norm
            self.skipped = 0
            return False
        self.skipped += 1
        if self.skipped >= 10:
            raise TrainingError(f"ten wild gradients in a row at step {self.step}; lower the rate")
        return True

    @torch.no_grad()
    def _average(self) -> None:
        if not self.ema:
            return
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        names, live = zip(*self.model.named_parameters(), strict=True)
        mine = [to_local(self.ema[n]) for n in names]
        torch._foreach_lerp_(mine, [to_local(p.data) for p in live], 1 - decay)

    def _validate(self) -> dict[str, float]:
        """Metrics on held-out samples, if it is time; all processes run it together."""
        every, check = self.config.validate_every, self.watch and self.watch.validate
        return check(self.step) if every and check and self.step % every == 0 else {}

    def _rates(self) -> dict[str, float]:
        """The speed since the last line of the log."""
        (step, seconds), self._logged = self._logged, (self.step, self.seconds)
        if self.watch is None:
            return {}
        return self.watch.rates(self.step - step, self.seconds - seconds, self.world.size)

    def _log(self, metrics: dict[str, float], bar: tqdm, on_log: Callable | None) -> None:
        facts = {"step": self.step, "seconds": round(self.seconds, 1)}
        metrics = metrics | self._rates()
        finite = {key: value if math.isfinite(value) else None for key, value in metrics.items()}
        facts |= {key: value and round(value, 5) for key, value in finite.items()}
        if self.world.rank == 0:
            add_line(self.folder / "log.jsonl", json.dumps(facts))
        if self.board:
            self.board.add(self.step, metrics)
        shown = {k: f"{v:.4g}" for k, v in metrics.items() if not k.startswith("validation_")}
        bar.set_postfix(shown)
        if on_log:
            on_log(facts)

    def _interrupt(self, *_: object) -> None:
        if self._stopped:
            raise KeyboardInterrupt
        self._stopped = True  # all processes must stop at the same step, and no step be half done
        if self.world.rank == 0:
            print("\nstopping after this step; once more: at once", file=sys.stderr)
