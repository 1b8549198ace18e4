"""Exercises of notebook 05."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.course.checks import Report, exercise


@exercise
def noisy_and_target(report: Report, answer: Callable[..., Any]) -> None:
    """What a training step needs: z on the straight path, and the velocity to predict."""
    x, noise = report.normal(2, 2), report.normal(2, 2)
    report.equal("t = 0: clean", answer, (x, noise, torch.zeros(2)), (x, noise - x))
    for name, shape in (("points, each with its own t", (3, 2)), ("latents", (2, 3, 4, 5))):
        x, noise = report.normal(*shape), report.normal(*shape)
        report.equal(name, answer, (x, noise, report.uniform(shape[0])))


@exercise
def both_ends(report: Report, answer: Callable[..., Any]) -> None:
    """From one point and one velocity to both ends of the path."""
    for _ in range(3):
        x, noise = report.normal(2, 3), report.normal(2, 3)
        t = round(float(report.uniform()), 2)
        z = (1 - t) * x + t * noise
        report.equal(f"on the path at t = {t}", answer, (z, noise - x, t), (x, noise))


@exercise
def sample_times(report: Report, answer: Callable[..., Any]) -> None:
    """Logit-normal times from given normal numbers: sigmoid(mu + sigma n)."""
    normal = report.normal(5)
    report.equal("μ 0, σ 1", answer, (normal, 0.0, 1.0), torch.sigmoid(normal))
    report.equal("μ = ln 3 moves one half to three quarters", answer,
                 (torch.zeros(2), math.log(3), 1.0), torch.full((2,), 0.75))  # fmt: skip
    report.equal("μ 0.5, σ 2", answer, (normal, 0.5, 2.0))


@exercise
def loss_by_time(report: Report, answer: Callable[..., Any]) -> None:
    """Mean loss of the samples whose t falls into each of n equal parts of [0, 1]."""
    losses, t = torch.tensor([1.0, 3.0, 5.0, 8.0]), torch.tensor([0.1, 0.2, 0.6, 0.9])
    report.equal("four quarters; nothing fell into the second", answer, (losses, t, 4),
                 torch.tensor([2.0, math.nan, 5.0, 8.0]))  # fmt: skip
    ends = torch.tensor([0.0, 0.5, 1.0, 1.0])
    report.equal("t = 1 belongs to the last part", answer, (losses, ends, 2),
                 torch.tensor([1.0, 16 / 3]))  # fmt: skip
    t, losses = report.uniform(40), report.normal(40).square()
    n = report.whole(3, 6)
    report.equal(f"40 samples, {n} parts", answer, (losses, t, n))


class Line(nn.Module):
    """A net for the check: linear in z, of any shape, and t."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return (torch.cat([z.flatten(1), t[:, None]], dim=1) @ self.weight).view_as(z)


def _twice(step: Callable[..., Any]) -> Callable[..., Any]:
    """Two steps with a fresh net, and what the weights have become."""

    @wraps(step)  # so that an error is found in the student's lines
    def twice(weight: Tensor, batches: list[Any]) -> list[Any]:
        net = Line(weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = [step(net, optimizer, *batch) for batch in batches]
        return [*found, net.weight.detach()]

    return twice


@exercise
def training_step(report: Report, answer: Callable[..., Any]) -> None:
    """One step of rectified flow: path, loss, gradients, optimizer; returns the loss."""
    weight = report.normal(3, 2)
    batches = [(report.normal(4, 2), report.normal(4, 2), report.uniform(4)) for _ in range(2)]
    answered = report.through(_twice, answer)
    for name, some in (("one step: loss and weights", batches[:1]), ("two steps", batches)):
        report.equal(name, answered, (weight, some))
    shape = (2, 3, 2, 2)  # as many samples as rows: a t of (b, 1) fits, and is wrong
    latents = [(report.normal(*shape), report.normal(*shape), report.uniform(2))]
    report.equal("one step on latents", answered, (0.3 * report.normal(13, 12), latents))
