"""Training the lineage's editor: the paper's rectified-flow loss on a stream of all sizes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from minikontext import flow
from minikontext.denoiser import PATCH
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Mean, Seed, Share, Spread
from minikontext.runtime.device import mixed_precision
from minikontext.tokens import LAYOUTS
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Inputs


@dataclass(frozen=True)
class WorldEditorTraining:
    """The dials of the loss.

    Times are logit-normal with `sigma` and the mu of the target's size: `mu_16 + ln(n / 16) / 2`,
    or the sampler's line without mu_16. `uniform` is the share of times drawn evenly instead, a
    guard for the ends, which sampling in few steps needs. `empty_prompts`: share of samples with
    the empty prompt, for classifier-free guidance. layout: where pictures lie, see
    `tokens.context_ids`; "scaled" gives a part of a picture the same place at any size. isolated:
    contexts see only each other, see `runtime.isolated`; in one process only.
    """

    seed: Seed = 0
    empty_prompts: Share = 0.08
    sigma: Spread = 1.0
    mu_16: Mean | None = None
    uniform: Share = 0.1
    layout: str = "scaled"
    isolated: bool = False
    bf16: bool = True

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout={self.layout!r}: choose one of {', '.join(LAYOUTS)}")
        for name in ("uniform", "empty_prompts"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)}: a share is from 0 to 1")

    def times(self, count: int, patches: int, generator: torch.Generator) -> Tensor:
        """Draw `count` training times for targets of `patches` tokens, (count,)."""
        mu = flow.mu_for_tokens(patches, self.mu_16)
        t = flow.sample_timesteps(count, mu, self.sigma, generator)
        chosen, even = torch.rand(2, count, generator=generator)
        return torch.where(chosen < self.uniform, even, t)


def world_editor_loss(
    model: nn.Module, source: Inputs, dials: WorldEditorTraining, device: torch.device,
) -> LossFunction:  # fmt: skip
    """The loss of a step, as a function of its number alone; a process computes its own part."""
    null = source.text.tokenize([""])[0]

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(dials.seed * 7_000_003 + step)
        x, words, contexts = source.inputs(step, draw)
        noise = torch.randn(x.shape, generator=draw)
        t = dials.times(len(x), x.shape[-2] * x.shape[-1] // PATCH**2, draw)
        empty = torch.rand(len(x), 1, generator=draw) < dials.empty_prompts
        words = torch.where(empty, null, words)
        x, words, noise, t, *contexts = microbatch.to(device, x, words, noise, t, *contexts)
        with mixed_precision(device, dials.bf16):
            v = model(flow.interpolate(x, noise, t), t, words, contexts)
        each = flow.loss_per_sample(v, x, noise)
        return each.mean(), {f"loss_{len(contexts)}": float(each.detach().mean())}

    return loss
