"""Latent adversarial diffusion distillation (LADD, arXiv 2403.12015): good pictures in few steps.

The frozen teacher does three jobs. It makes the training latents, with many steps. It looks at
latents and gives the features on which small heads tell the teacher's from the student's. And it is
what the student starts from. FLUX.1 Kontext [pro] was made this way; the details are not published,
so the dials here are LADD's where they are known and ours elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import MaxLen
from einops import rearrange
from torch import Tensor, nn

from minikontext import flow, tokens
from minikontext.denoiser import PATCH, Denoiser
from minikontext.distillation import losses
from minikontext.errors import ConfigError
from minikontext.layers import timestep_embedding
from minikontext.runtime.bounds import Mean, Often, Seed, Share, Spread, Weight
from minikontext.runtime.device import mixed_precision
from minikontext.training.editor import Batches, Editor
from minikontext.training.loop import LossFunction
from minikontext.training.parallel import WHOLE, Microbatch
from minikontext.training.stream import Inputs
from minikontext.transformer import KontextTransformer


@dataclass(frozen=True)
class LaddLossConfig:
    """The dials of LADD.

    times: at which the student learns, with the probabilities `first` until step `switch` and
    `then` after it. head_start: steps in which only the heads learn, on times drawn as `then`, so
    that they know every kind of fake. renoise_mu, renoise_sigma: the logit-normal of the time at
    which latents are judged. adversarial, mse: weights of the two losses. features: False judges
    the latents themselves instead of the teacher's features. mu_16: times are shifted by the root
    law of the target's size (`flow.mu_for_tokens`), as the student will sample; None: as they are.
    """

    seed: Seed = 0
    times: Annotated[tuple[Share, ...], MaxLen(1024)] = (1.0, 0.75, 0.5, 0.25)
    first: Annotated[tuple[Share, ...], MaxLen(1024)] = (0.0, 0.0, 0.5, 0.5)
    then: Annotated[tuple[Share, ...], MaxLen(1024)] = (0.7, 0.1, 0.1, 0.1)
    switch: Often = 500
    renoise_mu: Mean = 1.0
    renoise_sigma: Spread = 1.0
    head_start: Often = 100
    adversarial: Weight = 1.0
    mse: Weight = 0.0
    features: bool = True
    mu_16: Mean | None = None
    bf16: bool = True

    def __post_init__(self) -> None:
        for name in ("times", "first", "then"):  # TOML gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.times) == len(self.first) == len(self.then):
            raise ConfigError("times, first and then need the same number of entries")

    def draw_times(
        self, count: int, step: int, generator: torch.Generator, patches: int = 16
    ) -> Tensor:
        """The student's times of a step for targets of `patches` tokens, (count,)."""
        early = self.head_start <= step < self.switch
        shares = torch.tensor(self.first if early else self.then)
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator)
        times = torch.tensor(self.times)
        if self.mu_16 is not None:
            times = flow.shift(times, flow.mu_for_tokens(patches, self.mu_16))
        return times[chosen]


# ---------------------------------------------------------------- the discriminator


class Head(nn.Module):
    """One head: target tokens back on their grid, two convolutions, one logit a token.

    Conditioned on the time at which it judges and on the pooled text.
    """

    def __init__(self, dim: int, condition: int, width: int = 64) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.conv_in = nn.Conv2d(dim, width, 3, padding=1)
        self.condition = nn.Linear(condition, 2 * width)
        self.conv_out = nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x: Tensor, rows: int, condition: Tensor) -> Tensor:
        """x (b, n, d) of `rows` rows, condition (b, c) -> logits (b, n)."""
        grid = rearrange(self.norm(x), "b (r c) d -> b d r c", r=rows)
        scale, shift = self.condition(condition)[..., None, None].chunk(2, dim=1)
        hidden = F.silu(self.conv_in(grid) * (1 + scale) + shift)
        return self.conv_out(hidden).flatten(1)


class Discriminator(nn.Module):
    """The course's "judges": a head after every block of the frozen teacher, each independent."""

    def __init__(self, teacher: Editor, features: bool = True) -> None:
        super().__init__()
        config = teacher.transformer.config
        blocks = config.depth + config.depth_single_blocks if features else 1
        dim = config.hidden_size if features else config.in_channels
        condition = 256 + config.vec_in_dim
        self.heads = nn.ModuleList(Head(dim, condition) for _ in range(blocks))

    def forward(
        self, seen: list[Tensor], rows: int, t: Tensor, pooled: Tensor, learns: bool = True
    ) -> Tensor:
        """Features (b, n, d) of every block, times (b,), pooled text -> logits (blocks, b, n).

        With learns=False no gradient reaches the heads' weights, only what they look at.
        """
        condition = torch.cat((timestep_embedding(t), pooled.float()), dim=-1)
        logits = []
        for head, x in zip(self.heads, seen, strict=True):
            weights = {n: p if learns else p.detach() for n, p in head.named_parameters()}
            logits.append(torch.func.functional_call(head, weights, (x, rows, condition)))
        return torch.stack(logits).float()


@contextmanager
def watched(transformer: KontextTransformer, n_text: int) -> Iterator[list[Tensor]]:
    """Collect the image tokens after every block while the transformer runs."""
    found: list[Tensor] = []
    handles = [
        block.register_forward_hook(lambda _, __, out: found.append(out[0]))
        for block in transformer.double_blocks
    ] + [
        block.register_forward_hook(lambda _, __, out: found.append(out[:, n_text:]))
        for block in transformer.single_blocks
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def teacher_features(
    teacher: Editor, z: Tensor, t: Tensor, words: Tensor, contexts: list[Tensor]
) -> list[Tensor]:
    """What the teacher sees in z at t: the target's tokens after every block, (b, n, d) each.

    Gradients go through the teacher to z, never into its weights.
    """
    text = teacher.text(words)
    n = z.shape[-2] * z.shape[-1] // PATCH**2
    with watched(teacher.transformer, text.tokens.shape[1]) as found:
        Denoiser(teacher.transformer, text, contexts, teacher.layout)(z, t)
    return [tokens.cut_target(x, n) for x in found]


# ---------------------------------------------------------------- the game


class Ladd(nn.Module):
    """What learns: the student, and the discriminator's heads."""

    def __init__(self, student: Editor, heads: Discriminator) -> None:
        super().__init__()
        self.student, self.heads = student.requires_grad_(True), heads  # a copied teacher is frozen


def ladd_loss(
    model: Ladd, teacher: Editor, source: Inputs | Batches, config: LaddLossConfig,
    device: torch.device,
) -> LossFunction:  # fmt: skip
    """The loss of a step; the source's clean latents are what the teacher made.

    Student and heads learn in the same backward pass: the student's loss leaves the heads alone
    (their weights are detached), the heads' loss leaves the student alone (its latents are).
    Raises ConfigError for a batch of one, with which the hinge loss collapses.
    """
    teacher.requires_grad_(False).eval()

    def extract_features(
        z: Tensor, t: Tensor, words: Tensor, contexts: list[Tensor]
    ) -> list[Tensor]:
        if config.features:
            return teacher_features(teacher, z, t, words, contexts)
        return [tokens.pack(z, PATCH)]

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = source.inputs(step, draw)
        if len(x) < 2 and config.adversarial > 0:
            raise ConfigError("a batch of 1: with the hinge loss LADD collapses; use 2 or more")
        rows, cols = (side // PATCH for side in x.shape[-2:])
        noise, again = (torch.randn(x.shape, generator=draw) for _ in range(2))
        t = config.draw_times(len(x), step, draw, rows * cols)
        judged_at = flow.sample_timesteps(len(x), config.renoise_mu, config.renoise_sigma, draw)
        drawn = (x, words, noise, again, t, judged_at, *contexts)
        x, words, noise, again, t, judged_at, *contexts = microbatch.to(device, *drawn)
        with mixed_precision(device, config.bf16):
            z = flow.interpolate(x, noise, t)
            with torch.no_grad():
                pooled = teacher.text(words).pooled
                noised = flow.interpolate(x, again, judged_at)
                real = extract_features(noised, judged_at, words, contexts)
            with torch.set_grad_enabled(step >= config.head_start):
                generated = flow.clean_estimate(z, model.student(z, t, words, contexts).float(), t)
                noised = flow.interpolate(generated, again, judged_at)
                fake = extract_features(noised, judged_at, words, contexts)
            fooled = model.heads(fake, rows, judged_at, pooled, learns=False)
            on_real = model.heads(real, rows, judged_at, pooled)
            on_fake = model.heads([f.detach() for f in fake], rows, judged_at, pooled)
        heads = losses.discriminator_loss(on_real, on_fake)
        student = losses.student_loss(fooled, generated, x, config.adversarial, config.mse)
        metrics = {
            "heads": heads, "on_real": on_real.mean(), "on_fake": on_fake.mean(),
            "mse": F.mse_loss(generated, x),
            "spread": generated.std(dim=0).mean() / x.std(dim=0).mean(),
        }  # fmt: skip
        total = heads if step < config.head_start else heads + student
        return total, {name: float(value.detach()) for name, value in metrics.items()}

    return loss
