"""Training a few-step student on its own rollouts: what it will really be given when it samples.

LADD noises its teacher's answers and asks the student about these. When it samples, each step
starts where its own last step went, with that step's errors, which it has never seen. So here it
samples first, without gradients, and is trained at the state it got to: backward simulation (DMD2,
arXiv 2405.14867). Nearly every edit in the toy world has one right answer, so no judge is needed:
its estimate of the clean latents is compared with that answer, and with what would be a mistake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import MaxLen
from torch import Tensor, nn

from minikontext import flow, sampler
from minikontext.distillation import losses
from minikontext.distillation.latents import own_noise
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Batch, Seed, Share, Steps, Weight
from minikontext.runtime.device import mixed_precision
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches
from minikontext.training.loop import LossFunction
from minikontext.training.mistakes import confusion_loss
from minikontext.training.parallel import WHOLE, Microbatch

SQUARED = 0.05  # confusion below which it is squared; small ones add up, turn by turn


@dataclass(frozen=True)
class RolloutLossConfig:
    """The dials of training on rollouts.

    steps: numbers of steps that the student samples with, drawn with the probabilities `shares`;
    then one of the steps is drawn, at which it learns. final: the share in which it is the last
    one, whose estimate is the answer. shifted: whether times are shifted when it samples.
    mistakes: how much it counts that details look like others (see `confusion`). between: the
    share of pairs whose character goes a part of the way to another one, half-way at most, in the
    context and in the answer alike: so it learns to leave alone what it has never seen.
    """

    batch: Batch = 48
    seed: Seed = 0
    steps: Annotated[tuple[Steps, ...], MaxLen(1024)] = (1, 2, 4)
    shares: Annotated[tuple[Share, ...], MaxLen(1024)] = (0.1, 0.2, 0.7)
    final: Share = 0.5
    shifted: bool = False
    mistakes: Weight = 1.0
    between: Share = 0.0
    bf16: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "shares"):  # TOML gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.steps or len(self.steps) != len(self.shares) or min(self.steps) < 1:
            raise ConfigError("steps: one number or more, from 1 on, and as many shares")
        if sum(self.shares) <= 0:
            raise ConfigError("shares: all of them are 0")
        if not 0 <= self.between <= 1:
            raise ConfigError(f"between={self.between}: give a share, 0 to 1")

    def draw_times(self, patches: int, generator: torch.Generator) -> Tensor:
        """The times from noise to where the student learns, (k,), falling from 1."""
        chosen = int(torch.multinomial(torch.tensor(self.shares), 1, generator=generator))
        steps = self.steps[chosen]
        last = int(torch.randint(steps, (), generator=generator))
        if float(torch.rand((), generator=generator)) < self.final:
            last = steps - 1
        return sampler.schedule(steps, patches, shifted=self.shifted)[: last + 1]

    def draw_ways(self, told: Tensor, generator: torch.Generator) -> Tensor:
        """How far each pair's character is on the way to another one, (b, 1, 1, 1)."""
        some = torch.rand(told.shape, generator=generator) < self.between
        return 0.5 * torch.rand(told.shape, generator=generator) * some * told


def rollout_loss(
    student: nn.Module, pairs: Pairs, config: RolloutLossConfig, device: torch.device
) -> LossFunction:
    """The loss of a step; pairs have `told`, `mistakes` and `between`.

    Where many answers are right, `pairs.target` is the answer to the pair's own noise.
    """
    batches = Batches(pairs, config.batch, config.seed)

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = batches.inputs(step, draw)
        some = pairs.take(batches.rows(step)[0])
        told = some.told.reshape(-1, 1, 1, 1)
        noise = torch.where(told, torch.randn(x.shape, generator=draw), own_noise(some))
        wrong = some.mistakes.float() * told[..., None]
        times = config.draw_times(batches.patches, draw)
        way = config.draw_ways(told, draw)
        x = x + way * some.between[:, 1]
        contexts = [c + way * some.between[:, 0] for c in contexts]  # 0 if there are two
        x, words, noise, wrong, *contexts = microbatch.to(device, x, words, noise, wrong, *contexts)

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return student(z, t, words, contexts)

        t = times[-1:].to(device).expand(len(x))
        with mixed_precision(device, config.bf16):
            z = sampler.sample(predict, noise, times)  # without gradients
            made = flow.clean_estimate(z, predict(z, t).float(), t)
        mse = (made - x).square().mean()
        mistaken = confusion_loss(made, x, wrong, SQUARED)
        metrics = {"mse": mse, "mistaken": mistaken, f"mse_at_{float(times[-1]):g}": mse}
        last = float(times[-1])
        total = losses.rollout_loss(made, x, last) + config.mistakes * mistaken / last
        return total, {name: float(value.detach()) for name, value in metrics.items()}

    return loss
