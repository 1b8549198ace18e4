"""Training a few-step student on its own rollouts: what it will really be given when it samples.

LADD noises its teacher's answers and asks the student about these. When it samples, each step
starts where its own last step went, with that step's errors, which it has never seen. So here it
samples first, without gradients, and is trained at the state it got to: backward simulation (DMD2,
arXiv 2405.14867). Where a wish has one right answer no discriminator is needed: the student's
estimate of the clean latents is compared with that answer. Where many are right, it is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import MaxLen
from torch import Tensor, nn

from minikontext import flow, sampler
from minikontext.denoiser import PATCH
from minikontext.distillation import losses
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Mean, Seed, Share, Steps
from minikontext.runtime.device import mixed_precision
from minikontext.training.editor import Batches
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Inputs
from minikontext.training.world_editor import change_weights


@dataclass(frozen=True)
class RolloutLossConfig:
    """The dials of training on rollouts.

    steps: numbers of steps that the student samples with, drawn with the probabilities `shares`;
    then one of the steps is drawn, at which it learns. final: the share in which it is the last
    one, whose estimate is the answer. mu_16: its times are shifted by the root law of the target's
    size; None: as they are. changed: how much of the loss follows what the edit changes, as in
    `WorldEditorTraining`. worst: how much of it follows the student's own error, place by place, as
    a square does: a pair of eyes is two places of 64, and a plain distance hardly sees them.
    """

    seed: Seed = 0
    steps: Annotated[tuple[Steps, ...], MaxLen(1024)] = (1, 2, 4)
    shares: Annotated[tuple[Share, ...], MaxLen(1024)] = (0.1, 0.2, 0.7)
    final: Share = 0.5
    mu_16: Mean | None = None
    changed: Share = 0.0
    worst: Share = 0.0
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
        shares = torch.tensor(self.shares, dtype=torch.float32)  # TOML may say 1
        chosen = int(torch.multinomial(shares, 1, generator=generator))
        steps = self.steps[chosen]
        last = int(torch.randint(steps, (), generator=generator))
        if float(torch.rand((), generator=generator)) < self.final:
            last = steps - 1
        shifted = self.mu_16 is not None
        return sampler.schedule(steps, patches, shifted=shifted, mu_16=self.mu_16)[: last + 1]


def rollout_loss(
    student: nn.Module, source: Inputs | Batches, config: RolloutLossConfig, device: torch.device
) -> LossFunction:
    """The loss of a step, over the samples that have one right answer."""

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = source.inputs(step, draw)
        noise, determined = torch.randn(x.shape, generator=draw), source.determined(step)
        times = config.draw_times(x.shape[-2] * x.shape[-1] // PATCH**2, draw)
        drawn = (x, words, noise, determined, *contexts)
        x, words, noise, determined, *contexts = microbatch.to(device, *drawn)

        def predict(z: Tensor, t: Tensor) -> Tensor:
            return student(z, t, words, contexts)

        t = times[-1:].to(device).expand(len(x))
        with mixed_precision(device, config.bf16):
            z = sampler.sample(predict, noise, times)  # without gradients
            generated = flow.clean_estimate(z, predict(z, t).float(), t)
        generated = torch.where(determined.view(-1, 1, 1, 1), generated, x)
        mse = float((generated.detach() - x).square().mean())
        weights = change_weights(x, contexts, config.changed) if config.changed else None
        if config.worst:
            weights = (1.0 if weights is None else weights) * worst_weights(
                generated, x, config.worst
            )
        total = losses.rollout_loss(generated, x, float(times[-1]), weights)
        return total, {"mse": mse, f"mse_at_{float(times[-1]):.2f}": mse}

    return loss


def worst_weights(generated: Tensor, x: Tensor, share: float) -> Tensor:
    """Weights of places, (b, 1, h, w), `share` of them in proportion to the error; their mean is 1.

    Without gradients. A sample without an error has 1 - share everywhere.
    """
    far = (generated - x).detach().square().mean(1, keepdim=True).sqrt()
    mean = far.mean((1, 2, 3), keepdim=True).clamp(min=losses.TINY)
    return 1 - share + share * far / mean
