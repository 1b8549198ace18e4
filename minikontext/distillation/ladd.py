"""Latent adversarial diffusion distillation (LADD, arXiv 2403.12015): good pictures in few steps.

The frozen teacher does three jobs. It makes the training latents, with many steps. It looks at
latents and gives the features on which small heads tell the teacher's from the student's. And it is
what the student starts from. FLUX.1 Kontext [pro] was made this way; the details are not published,
so the dials here are LADD's where they are known and ours elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    r1, r1_sigma: weight and noise of R1, approximated by noise. mismatched: real latents with
    other words are fakes, too. own_states: the share of steps that start where the student's own
    sampling leads.
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
    r1: Weight = 0.0
    r1_sigma: Spread = 0.1
    mismatched: bool = False
    own_states: Share = 0.0
    mu_16: Mean | None = None
    bf16: bool = True

    def __post_init__(self) -> None:
        for name in ("times", "first", "then"):  # TOML gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not len(self.times) == len(self.first) == len(self.then):
            raise ConfigError("times, first and then need the same number of entries")
        for name in ("first", "then"):
            if sum(getattr(self, name)) <= 0:
                raise ConfigError(f"{name}: all of them are 0")

    def draw_times(
        self, count: int, step: int, generator: torch.Generator, patches: int = 16
    ) -> Tensor:
        """The student's times of a step for targets of `patches` tokens, (count,)."""
        early = self.head_start <= step < self.switch
        shares = torch.tensor(self.first if early else self.then, dtype=torch.float32)
        chosen = torch.multinomial(shares, count, replacement=True, generator=generator)
        return self.shifted_times(patches)[chosen]

    def shifted_times(self, patches: int) -> Tensor:
        """All times for targets of `patches` tokens."""
        times = torch.tensor(self.times, dtype=torch.float32)  # TOML may say 1
        if self.mu_16 is None:
            return times
        return flow.shift(times, flow.mu_for_tokens(patches, self.mu_16))


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
            # Detached weights pass the gradient on to x: the student learns, the head does not.
            weights = {n: p if learns else p.detach() for n, p in head.named_parameters()}
            logits.append(torch.func.functional_call(head, weights, (x, rows, condition)))
        return torch.stack(logits).float()


@contextmanager
def watched(transformer: KontextTransformer, n_text: int) -> Iterator[list[Tensor]]:
    """Collect the image tokens after every block while the transformer runs."""
    found: list[Tensor] = []
    # A double block returns image and text apart; in a single one the text comes first.
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

    Student and heads learn in the same backward pass, as `losses.ladd_turn` says.
    Raises ConfigError for a batch of one: a turn compares its samples.
    """
    teacher.requires_grad_(False).eval()

    def judge(words: Tensor, contexts: list[Tensor], rows: int) -> losses.Judge:
        with torch.no_grad():
            pooled = teacher.text(words).pooled

        def features(y: Tensor, t: Tensor) -> list[Tensor]:
            if config.features:
                return teacher_features(teacher, y, t, words, contexts)
            return [tokens.pack(y, PATCH)]

        def heads(seen: list[Tensor], t: Tensor, learns: bool) -> Tensor:
            return model.heads(seen, rows, t, pooled, learns)

        return losses.Judge(features, heads)

    def loss(step: int, microbatch: Microbatch = WHOLE) -> tuple[Tensor, dict[str, float]]:
        draw = torch.Generator().manual_seed(config.seed * 9_000_011 + step)
        x, words, contexts = source.inputs(step, draw)
        if len(x) < 2 and config.adversarial > 0:
            raise ConfigError(
                "a batch of 1: a turn of LADD compares samples; raise [stream] tokens"
            )
        rows, cols = (side // PATCH for side in x.shape[-2:])
        # The student's noise, and the judges': the same for real and fake, else it gives them away.
        noise, again = (torch.randn(x.shape, generator=draw) for _ in range(2))
        t = config.draw_times(len(x), step, draw, rows * cols)
        judged_at = flow.sample_timesteps(len(x), config.renoise_mu, config.renoise_sigma, draw)
        shake = config.r1_sigma * torch.randn(x.shape, generator=draw) if config.r1 else x
        # One coin for the batch: to sample costs passes, which would be lost on the others.
        lone = bool(torch.rand((), generator=draw) < config.own_states)
        # Rolled by one, every sample has its neighbour's words: mismatched pairs, if any are asked.
        drawn = (x, words, noise, again, t, judged_at, shake, words.roll(1, 0), *contexts)
        drawn = microbatch.to(device, *drawn)
        x, words, noise, again, t, judged_at, shake, others, *contexts = drawn

        def student(z: Tensor, t: Tensor) -> Tensor:
            return model.student(z, t, words, contexts)

        draws, learns = losses.Draws(x, noise, again, t, judged_at), step >= config.head_start
        times = config.shifted_times(rows * cols)
        with mixed_precision(device, config.bf16):
            start = own_states(student, noise, t, times.tolist()) if lone else None
            wrong = judge(others, contexts, rows) if config.mismatched else None
            turn = losses.ladd_turn(
                student, judge(words, contexts, rows), draws, start, config.adversarial,
                config.mse, config.r1, shake, wrong, learns,
            )  # fmt: skip
        return turn.heads + turn.student if learns else turn.heads, facts_of(turn, x)

    return loss


@torch.no_grad()
def own_states(
    student: Callable[[Tensor, Tensor], Tensor], noise: Tensor, t: Tensor, times: Sequence[float]
) -> Tensor:
    """Where each sample's own Euler steps through `times` lead from its noise to t, (b, ...).

    Backward simulation (DMD2, arXiv 2405.14867): the states that sampling visits, errors included.
    """
    z, now = noise, 1.0
    for later in sorted({*times} - {1.0}, reverse=True):
        # All take the step; those that are where they should be keep what they had.
        moved = z + (later - now) * student(z, torch.full_like(t, now)).float()
        z, now = torch.where(t.reshape(-1, *[1] * (z.dim() - 1)) <= later, moved, z), later
    return z


def facts_of(turn: losses.Turn, x: Tensor) -> dict[str, float]:
    """A turn in numbers for the log; told_apart: logits with the right sign, 0.5 is a guess."""
    right = ((turn.on_real > 0).float().mean() + (turn.on_fake < 0).float().mean()) / 2
    metrics = {
        "heads": turn.heads, "on_real": turn.on_real.mean(), "on_fake": turn.on_fake.mean(),
        "told_apart": right, "mse": F.mse_loss(turn.generated, x),
        "spread": turn.generated.std(dim=0).mean() / x.std(dim=0).mean(),
    }  # fmt: skip
    return {name: float(value.detach()) for name, value in metrics.items()}
