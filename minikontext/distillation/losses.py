"""The distillations' losses, as functions of tensors: what is taught, without what is trained.

The flow loss itself is `flow.loss`. Shapes are open, so that the same functions teach points in the
plane (course.plane_ladd) and latents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext import flow

TINY = 1e-4  # a squared distance, latents; below it the loss is flat, so its slope stays finite


def guided(without: Tensor, with_words: Tensor, w: Tensor) -> Tensor:
    """Classifier-free guidance `v_0 + w (v_c - v_0)`: velocities (b, ...), scales w (b,)."""
    return torch.lerp(without, with_words, flow.per_sample(w, without))


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


class Judge(NamedTuple):
    """A discriminator in two halves: `features(y, t)` of noised points, `heads(seen, t, learns)`.

    With learns=False no gradient reaches the heads' weights, only what they look at.
    """

    features: Callable[[Tensor, Tensor], list[Tensor]]
    heads: Callable[[list[Tensor], Tensor, bool], Tensor]


class Draws(NamedTuple):
    """What a turn of LADD takes: the teacher's answers x (b, ...), two noises, two times (b,).

    The student starts from x under `noise` at t; real and fake are judged under the same `again`
    at `judged_at`.
    """

    x: Tensor
    noise: Tensor
    again: Tensor
    t: Tensor
    judged_at: Tensor


class Turn(NamedTuple):
    """Both losses of a turn, the student's jump, and the logits on real and fake."""

    heads: Tensor
    student: Tensor
    generated: Tensor
    on_real: Tensor
    on_fake: Tensor


def ladd_turn(
    student: Callable[[Tensor, Tensor], Tensor], judge: Judge, draws: Draws,
    start: Tensor | None = None, adversarial: float = 1.0, mse: float = 0.0, r1: float = 0.0,
    shake: Tensor | None = None, mismatched: Judge | None = None, learns: bool = True,
) -> Turn:  # fmt: skip
    """One turn of LADD: student and heads learn from the same weights, neither touches the other.

    start: the state that the student jumps from, in place of x under noise. r1: weight of R1
    approximated by noise, `(D(y) - D(y + shake))^2` on real y (arXiv 2501.08316): a gradient
    penalty without second derivatives. mismatched: judges real points under other conditions, as
    further fakes. learns=False: only the heads learn, and the student's part keeps no graph.
    """
    x, noise, again, t, at = draws
    z = flow.interpolate(x, noise, t) if start is None else start
    shown = flow.interpolate(x, again, at)
    with torch.no_grad():  # real points are given, and the features' net is frozen: nothing learns
        real = judge.features(shown, at)
    with torch.set_grad_enabled(learns):
        generated = flow.clean_estimate(z, student(z, t).float(), t)
        fake = judge.features(flow.interpolate(generated, again, at), at)
    on_real = judge.heads(real, at, True)
    # Attached, the heads' loss would teach the student to be found out.
    on_fake = judge.heads([f.detach() for f in fake], at, True)
    heads = discriminator_loss(on_real, on_fake)
    if mismatched:
        with torch.no_grad():
            other = mismatched.features(shown, at)
        wrong = F.relu(1 + mismatched.heads(other, at, True)).mean()
        heads = heads + (wrong - F.relu(1 + on_fake).mean()) / 2  # each half of the fakes
    if r1 and shake is not None:
        with torch.no_grad():
            shaken = judge.features(shown + shake, at)
        heads = heads + r1 * (on_real - judge.heads(shaken, at, True)).square().mean()
    fooled = judge.heads(fake, at, False)  # the same logits once more, now for the student's sake
    return Turn(
        heads, student_loss(fooled, generated, x, adversarial, mse), generated, on_real, on_fake
    )


def rollout_loss(
    generated: Tensor, x: Tensor, t: float, weights: Tensor | None = None
) -> Tensor:  # fmt: skip
    """The distance of clean estimates at time t from the answers, (b, c, ...) -> a scalar.

    Not squared: between two answers that may be right, the mean is neither. The later, the nearer
    the answer and the smaller the error; 1 / t lets it count as well. weights: of places, (b, 1,
    ...), as `change_weights` gives them.
    """
    far = ((generated - x).square().mean(1) + TINY).sqrt()
    return (far if weights is None else weights[:, 0] * far).mean() / t
