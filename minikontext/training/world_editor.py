"""What the trainings of the lineage's editors may say: times by size, layout, empty prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minikontext import flow
from minikontext.errors import ConfigError
from minikontext.runtime.bounds import Mean, Seed, Share, Spread
from minikontext.tokens import LAYOUTS

FLOOR = 0.05  # latents have spread 1: where an edit changes less than this, it changes nothing


@dataclass(frozen=True)
class TimesBySize:
    """Training times that are logit-normal with `sigma` and the mu of the target's size.

    mu is `mu_16 + ln(n / 16) / 2`, or the sampler's line without mu_16. `uniform` is the share of
    times drawn evenly instead, a guard for the ends, which sampling in few steps needs.
    """

    seed: Seed = 0
    sigma: Spread = 1.0
    mu_16: Mean | None = None
    uniform: Share = 0.1
    bf16: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.uniform <= 1:
            raise ConfigError(f"uniform={self.uniform}: a share is from 0 to 1")

    def times(self, count: int, patches: int, generator: torch.Generator) -> Tensor:
        """Draw `count` training times for targets of `patches` tokens, (count,)."""
        mu = flow.mu_for_tokens(patches, self.mu_16)
        t = flow.sample_timesteps(count, mu, self.sigma, generator)
        chosen, even = torch.rand(2, count, generator=generator)
        return torch.where(chosen < self.uniform, even, t)


@dataclass(frozen=True)
class WorldEditorTraining(TimesBySize):
    """The dials of the lineage's editors.

    `empty_prompts`: share of samples with the empty prompt, for classifier-free guidance. layout:
    where pictures lie, see `tokens.context_ids`; "scaled" gives a part of a picture the same place
    at any size. isolated: contexts see only each other, see `runtime.isolated`; one process only.
    changed: how much of the loss follows what the edit changes, see `change_weights`; 0: none.
    """

    empty_prompts: Share = 0.08
    layout: str = "scaled"
    isolated: bool = False
    changed: Share = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layout not in LAYOUTS:
            raise ConfigError(f"layout={self.layout!r}: choose one of {', '.join(LAYOUTS)}")
        if not 0 <= self.empty_prompts <= 1:
            raise ConfigError(f"empty_prompts={self.empty_prompts}: a share is from 0 to 1")
        if not 0 <= self.changed <= 1:
            raise ConfigError(f"changed={self.changed}: a share is from 0 to 1")


def change_weights(x: Tensor, contexts: Sequence[Tensor], share: float) -> Tensor:
    """Weights of the loss for targets x (b, c, h, w), by place, (b, 1, h, w), of mean 1 a picture.

    Most of an edit is a copy, so most of the loss is, too, and a word on a sign or the colour of
    the eyes hardly counts. A `share` of the weight is dealt out in proportion to how far the target
    is from the first picture, the rest evenly. What changes everywhere, or has no picture of its
    size, weighs the same everywhere. UniWorld-V1 (2025) weights edits by their area.
    """
    if not contexts or contexts[0].shape != x.shape:
        return torch.ones_like(x[:, :1])
    far = (x - contexts[0]).square().mean(dim=1, keepdim=True).sqrt() + FLOOR
    return 1 - share + share * far / far.mean(dim=(-2, -1), keepdim=True)
