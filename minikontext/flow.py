"""Rectified flow: the path, the timesteps it is trained at, the loss (paper section 2)."""

import math

import torch
from torch import Tensor


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Walk the straight path from picture to noise: `z_t = (1 - t) x + t noise`.

    x and noise (b, ...), t (b,) in [0, 1] with 0 clean and 1 noise -> (b, ...).
    """
    return torch.lerp(x, noise, per_sample(t, x))


def velocity(x: Tensor, noise: Tensor) -> Tensor:
    """Give the path's direction, the net's target: `noise - x`, the same at every t."""
    return noise - x


def clean_estimate(z: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Follow a predicted velocity straight back to t = 0: `x = z - t v`, (b, ...)."""
    return z - per_sample(t, z) * velocity


def sample_timesteps(
    count: int, mu: float = 0.0, sigma: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Draw training times from the paper's logit-normal: `t = sigmoid(N(mu, sigma))`.

    Drawn on the CPU, so that a seed means the same on every device. -> (count,), float32.
    """
    return torch.sigmoid(mu + sigma * torch.randn(count, generator=generator))


def shift(t: Tensor, mu: float) -> Tensor:
    """Move times towards noise: `t' = e^mu / (e^mu + 1/t - 1)`, logit(t') = logit(t) + mu.

    The more tokens, the more noise is needed to hide a picture. 0 and 1 stay where they are.
    """
    alpha = math.exp(mu)
    return alpha * t / (1 + (alpha - 1) * t)


def mu_for_tokens(count: int, mu_16: float | None = None) -> float:
    """Choose mu for a target of `count` tokens: the line through (256, 0.5) and (4096, 1.15).

    With `mu_16`, the mu of 16 tokens, the root law `mu_16 + ln(count / 16) / 2`: four times the
    tokens double e^mu, so noise hides as much of a picture at any size. The line is flat there.
    """
    if mu_16 is not None:
        return mu_16 + math.log(count / 16) / 2
    return 0.5 + (count - 256) * (1.15 - 0.5) / (4096 - 256)


def loss_per_sample(velocity: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """Mean square of `velocity - (noise - x)` over each sample, (b, ...) -> (b,), float32."""
    return (velocity.float() - (noise - x).float()).square().flatten(1).mean(dim=1)


def loss(velocity: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """The rectified-flow loss: mean square of `velocity - (noise - x)`, a float32 scalar."""
    return loss_per_sample(velocity, x, noise).mean()


def per_sample(t: Tensor, like: Tensor) -> Tensor:
    """Shape (b,) as (b, 1, 1, ...), so that it multiplies a (b, ...) tensor."""
    return t.to(like).reshape(-1, *[1] * (like.dim() - 1))
