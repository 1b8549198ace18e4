"""π-Flow (arXiv 2510.14974): the student predicts a policy and imitates the teacher along its path.

One pass of the net at (z, s) gives clean estimates at several times from s down to 0. Interpolated
between them, the velocity `(z - x(t)) / t` is known at every later time without the net, so the ODE
is solved in many substeps that cost next to nothing. What is taught is the policy's velocity on
its own path: there it shall be the teacher's. That squared error does not average over answers, as
the path's start fixes the answer; no discriminator and no answers of the teacher are needed.

This is the paper's policy DX, over all the time that is left, so that one student serves any number
of steps. Left out: its mixtures of Gaussians, and the teacher's own path mixed in at first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minikontext import flow
from minikontext.training.editor import Editor
from minikontext.transformer import KontextTransformer

SUBSTEPS = 16
EARLIEST = 0.02  # of the path's time: a velocity is an estimate's error over t


class Policy(NamedTuple):
    """Clean estimates (b, k, ...) at k times, evenly from `start` (b,) down to 0; no net inside."""

    clean: Tensor
    start: Tensor

    @classmethod
    def of(cls, velocities: Tensor, z: Tensor, start: Tensor) -> Policy:
        """From the net's k velocities (b, k, ...) at z (b, ...) and `start` (b,)."""
        return cls(z[:, None] - flow.per_sample(start, velocities) * velocities, start)

    def estimate(self, t: Tensor) -> Tensor:
        """The clean estimate at times t (b,), interpolated, (b, ...)."""
        last = self.clean.shape[1] - 1
        place = ((1 - t / self.start) * last).clamp(0, last)
        low = place.floor().clamp(max=last - 1).long()
        rows = torch.arange(len(low), device=low.device)
        before, after = self.clean[rows, low], self.clean[rows, low + 1]
        return torch.lerp(before, after, flow.per_sample(place - low, before))

    def velocity(self, z: Tensor, t: Tensor) -> Tensor:
        """dz/dt at z (b, ...) and t (b,) above 0."""
        return (z - self.estimate(t)) / flow.per_sample(t, z)

    def follow(self, z: Tensor, begin: Tensor, end: Tensor, substeps: int = SUBSTEPS) -> Tensor:
        """Solve the ODE from z (b, ...) at `begin` to `end`, (b,) each, by Euler's method.

        A substep takes the estimate of its middle: z goes towards it as far as time goes to 0.
        """
        for i in range(substeps):
            now, later = (torch.lerp(begin, end, (i + d) / substeps) for d in (0, 1))
            clean = self.estimate((now + later) / 2)
            # On a straight path to `clean` the noise shrinks as time does: exact while it stands.
            z = torch.lerp(clean, z, flow.per_sample(later / now, z))
        return z


def imitation_loss(
    student: Callable[[Tensor, Tensor], Tensor], teacher: Callable[[Tensor, Tensor], Tensor],
    z: Tensor, start: Tensor, share: Tensor,
) -> Tensor:  # fmt: skip
    """Mean square between the policy's velocity and the teacher's, on the policy's own path.

    student(z, start) -> k velocities (b, k, ...); teacher(z, t) -> (b, ...). share (b,) in [0, 1]
    says where on the path from `start` to 0 they are compared. The path itself is not learned from.
    """
    policy = Policy.of(student(z, start).float(), z, start)
    t = start * (1 - share).clamp(min=EARLIEST)
    with torch.no_grad():
        z = policy.follow(z, start, t)
        right = teacher(z, t)
    return F.mse_loss(policy.velocity(z, t), right.float())


def policy_student(teacher: Editor, points: int) -> Editor:
    """A copy of the teacher with `points` velocities (b, points * c, h, w), all the same yet."""
    weights = teacher.state_dict()
    for name in ("weight", "bias"):
        key = f"transformer.final_layer.linear.{name}"
        weights[key] = weights[key].repeat(points, *[1] * (weights[key].dim() - 1))
    old = teacher.transformer.config
    sizes = replace(old, out_channels=points * old.out_channels)
    text = type(teacher.text)(teacher.text.config)
    student = Editor(KontextTransformer(sizes), text, teacher.layout)
    student.load_state_dict(weights)
    return student.to(next(teacher.parameters()).device)


class PolicySteps(nn.Module):
    """A policy student's transformer as any other, for a sampler that visits `times`.

    Its velocity is the mean one of the policy's path to the next time, so that one step of Euler's
    method ends where the path does.
    """

    def __init__(self, net: KontextTransformer, times: Tensor) -> None:
        super().__init__()
        self.net, self.times, self.config = net, times, net.config
        self.rotations = net.rotations

    def forward(
        self, img: Tensor, img_ids: Tensor, txt: Tensor, txt_ids: Tensor, timesteps: Tensor,
        *more: Tensor | None,
    ) -> Tensor:  # fmt: skip
        """Velocity of the sequence (b, n, c); arguments as the transformer's."""
        found = self.net(img, img_ids, txt, txt_ids, timesteps, *more)
        velocities = found.unflatten(-1, (-1, img.shape[-1])).movedim(2, 1)  # (b, k, n, c)
        times = self.times.to(timesteps)
        # The next time that the sampler visits: the largest one below now.
        later = times.where(times < timesteps[:, None] - 1e-6, times.new_tensor(-1)).amax(1)
        policy = Policy.of(velocities, img, timesteps)
        moved = policy.follow(img, timesteps, later)
        return (img - moved) / flow.per_sample(timesteps - later, img)
