"""Latents in, velocity of the latents out: what trains and what samples sees this, not tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from minikontext import tokens
from minikontext.text import TextFeatures

PATCH = 2  # latent pixels along one side of a token


class Net(Protocol):
    """What predicts: a `KontextTransformer`, or one that skips steps (`runtime.step_cache`)."""

    def rotations(self, img_ids: Tensor, txt_ids: Tensor) -> Tensor:
        """As `KontextTransformer.rotations`."""

    def __call__(self, *inputs: Any, **named: Any) -> Tensor: ...


@dataclass(frozen=True)
class Denoiser:
    """The transformer as the sampler sees it: latents and time in, velocity of the latents out.

    text: b prompts. contexts: clean latents, joined to the target's tokens at every step.
    guidance_scale: for models that take it as an input, one number or one for each sample (b,).
    """

    transformer: Net
    text: TextFeatures
    contexts: Sequence[Tensor] = ()
    layout: str = "index"
    guidance_scale: float | Tensor | None = None

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        """Predict dz/dt for z (b, c, h, w) at t (b,): pack, join, transform, cut, unpack."""
        target = tokens.pack(z.to(self.text.tokens.dtype), PATCH)  # (b, n, 4c)
        img, img_ids = self.join(target, grid_ids(z))
        velocity = self.transformer(
            img, img_ids, self.text.tokens, self._text_ids, t, self.text.pooled, self._guidance,
            self.rotary(z.shape, img_ids),
        )  # fmt: skip
        velocity = tokens.cut_target(velocity, target.shape[1])
        return tokens.unpack(velocity, z.shape[-2], z.shape[-1], PATCH).to(z.dtype)

    def join(self, target: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The image tokens that the transformer sees, the target's first, and their ids."""
        packed, grids = self.packed
        ids = tokens.context_ids(grids, self.layout)  # first: it refuses what is no layout
        return tokens.join_context(target, tokens.scaled_ids(target_ids, self.layout), packed, ids)

    def rotary(self, shape: torch.Size, img_ids: Tensor) -> Tensor:
        """Rotations of all tokens: positions stay, so they are computed once for all steps."""
        if shape not in self._rotary:
            self._rotary[shape] = self.transformer.rotations(img_ids, self._text_ids)
        return self._rotary[shape]

    @cached_property
    def _rotary(self) -> dict[torch.Size, Tensor]:
        return {}

    @cached_property
    def packed(self) -> tuple[list[Tensor], list[tuple[int, int]]]:
        """Tokens of each context image, and its rows and columns of them."""
        grids = [(c.shape[-2] // PATCH, c.shape[-1] // PATCH) for c in self.contexts]
        packed = [tokens.pack(c.to(self.text.tokens.dtype), PATCH) for c in self.contexts]
        return packed, grids

    @cached_property
    def _text_ids(self) -> Tensor:
        text = self.text.tokens  # (b, m, d): text has no place in the picture, so its ids are zero
        return torch.zeros(text.shape[1], 3, dtype=torch.long, device=text.device)

    @cached_property
    def _guidance(self) -> Tensor | None:
        if self.guidance_scale is None or isinstance(self.guidance_scale, Tensor):
            return self.guidance_scale
        text = self.text.tokens
        return torch.full((len(text),), self.guidance_scale, device=text.device)


def grid_ids(z: Tensor) -> Tensor:
    """Position ids of the target's tokens, (n, 3): virtual time 0."""
    return tokens.position_ids(z.shape[-2] // PATCH, z.shape[-1] // PATCH)
