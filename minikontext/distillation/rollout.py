"""Training a few-step student on its own rollouts: what it will really be given when it samples.

LADD noises its teacher's answers and asks the student about these. When it samples, each step
starts where its own last step went, with that step's errors, which it has never seen. So here it
samples first, without gradients, and is trained at the state it got to: backward simulation (DMD2,
arXiv 2405.14867). Nearly every edit in the toy world has one right answer, so no judge is needed:
its estimate of the clean latents is compared with that answer.
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
from minikontext.runtime.bounds import Batch, Seed, Share, Steps
from minikontext.runtime.device import mixed_precision
from minikontext.training.data import Pairs
from minikontext.training.editor import Batches
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch


@dataclass(frozen=True)
class RolloutLossConfig:
    """The dials of training on rollouts.

    steps: numbers of steps that the student samples with, drawn with the probabilities `shares`;
    then one of the steps is drawn, at which it learns. final: the share in which it is the last
    one, whose estimate is the answer. shifted: whether times are shifted when it samples.
    """

    batch: Batch = 48
    seed: Seed = 0
    steps: Annotated[tuple[Steps, ...], MaxLen(1024)] = (1, 2, 4)
    shares: Annotated[tuple[Share, ...], MaxLen(1024)] = (0.1, 0.2, 0.7)
    final: Share = 0.5
    shifted: bool = False
    bf16: bool = True

    def __post_init__(self) -> None:
        for name in ("steps", "shares"):  # TOML gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.steps or len(self.steps) != len(self.shares) or min(self.steps) < 1:
            raise ConfigError("steps: one number or more, from 1 on, and as many shares")
        if sum(self.shares) <= 0:
            raise ConfigError("shares: all of them are 0")

    def draw_times(self, patches: int, generator: torch.Generator) -> Tensor:
        """The times from noise to where the student learns, (k,), falling from 1."""
        chosen = int(torch.multinomial(torch.tensor(self.shares), 1, generator=generator))
        steps = self.steps[chosen]
        last = int(torch.randint(steps, (), generator=generator))
        if float(torch.rand((), generator=generator)) < self.final:
            last = steps - 1
        return sampler.schedule(steps, patches, shifted=self.shifted)[: last + 1]


def rollout_loss(
    student: nn.Module, pairs: Pairs, config: RolloutLossConfig, device: torch.device
) -> LossFunction:
    """The loss of a step; where many answers are right, `target` is the one to the pair's noise."""
    batches = Batches(pairs, config.batch, config.seed)

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = batches.inputs(step, draw)
        some = pairs.take(batches.rows(step)[0])
        fresh = torch.randn(x.shape, generator=draw)
        noise = torch.where(some.determined.reshape(-1, 1, 1, 1), fresh, own_noise(some))
        times = config.draw_times(batches.patches, draw)
        x, words, noise, *contexts = microbatch.to(device, x, words, noise, *contexts)

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return student(z, t, words, contexts)

        t = times[-1:].to(device).expand(len(x))
        with mixed_precision(device, config.bf16):
            z = sampler.sample(predict, noise, times)  # without gradients
            made = flow.clean_estimate(z, predict(z, t).float(), t)
        mse = (made - x).square().mean()
        last, mse = float(times[-1]), float(mse.detach())
        return losses.rollout_loss(made, x, last), {"mse": mse, f"mse_at_{last:g}": mse}

    return loss
