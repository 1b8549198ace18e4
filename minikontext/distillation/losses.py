"""The distillations' losses, as functions of tensors: what is taught, without what is trained.

The flow loss itself is `flow.loss`. Shapes are open, so that the same functions teach points in the
plane (course.plane_ladd) and latents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-4  # a squared distance, latents; below it the loss is flat, so its slope stays finite


def guided(without: Tensor, with_words: Tensor, w: Tensor) -> Tensor:
    """Classifier-free guidance `v_0 + w (v_c - v_0)`: velocities (b, ...), scales w (b,)."""
    return torch.lerp(without, with_words, w.to(without).reshape(-1, *[1] * (without.dim() - 1)))


def guidance_loss(velocity: Tensor, target: Tensor) -> Tensor:
    """Mean square between one pass of the student and two of the teacher, a float32 scalar."""
    return F.mse_loss(velocity.float(), target.float())


def discriminator_loss(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The hinge loss of the discriminator's logits: real above 1, fake below -1 cost nothing."""
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()


def student_loss(
    on_fake: Tensor, generated: Tensor, x: Tensor, adversarial: float = 1.0, mse: float = 0.0
) -> Tensor:
    """What LADD's student minimises: it wants high logits, and to be near the answer x."""
    return mse * F.mse_loss(generated, x) - adversarial * on_fake.mean()


def rollout_loss(generated: Tensor, x: Tensor, t: float) -> Tensor:
    """The distance of clean estimates at time t from the answers, (b, c, ...) -> a scalar.

    Not squared: between two answers that may be right, the mean is neither. The later, the nearer
    the answer and the smaller the error; 1 / t lets it count as well.
    """
    return ((generated - x).square().mean(1) + TINY).sqrt().mean() / t
