"""Exercises of notebook 05."""

import math
from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def noisy_and_target(report: Report, answer: Callable[..., Any]) -> None:
    """What a training step needs: z on the straight path, and the velocity to predict."""
    x, noise = torch.tensor([[1.0, 3.0], [0.0, -2.0]]), torch.tensor([[0.0, 1.0], [4.0, 2.0]])
    report.equal("t = 0: clean", answer, (x, noise, torch.zeros(2)), (x, noise - x))
    report.equal("t = 1: noise", answer, (x, noise, torch.ones(2)), (noise, noise - x))
    own = torch.tensor([0.25, 0.5])
    report.equal("every sample has its own t", answer, (x, noise, own),
                 (torch.tensor([[0.75, 2.5], [2.0, 0.0]]), noise - x))  # fmt: skip
    big = torch.ones(2, 3, 4, 4)
    z = torch.tensor([0.75, 0.5])[:, None, None, None] * big
    report.equal("latents: (b, c, h, w)", answer, (big, 0 * big, own), (z, -big))


@exercise
def both_ends(report: Report, answer: Callable[..., Any]) -> None:
    """From one point and one velocity to both ends of the path."""
    x, noise = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, -1.0]])
    for t in (0.25, 0.5, 0.9):
        z = (1 - t) * x + t * noise
        report.equal(f"on the path at t = {t}", answer, (z, noise - x, t), (x, noise))
    report.equal("at t = 0 the clean end is here", answer, (x, noise - x, 0.0), (x, noise))


@exercise
def sample_times(report: Report, answer: Callable[..., Any]) -> None:
    """Logit-normal times from given normal numbers: sigmoid(mu + sigma n)."""
    normal = torch.tensor([-2.0, 0.0, 1.0])
    report.equal("mu 0, sigma 1", answer, (normal, 0.0, 1.0), torch.sigmoid(normal))
    report.equal("mu = ln 3 moves one half to three quarters", answer,
                 (torch.zeros(2), math.log(3), 1.0), torch.full((2,), 0.75))  # fmt: skip
    report.equal("sigma 0: always the same time", answer, (normal, 1.15, 0.0),
                 torch.full((3,), 1 / (1 + math.exp(-1.15))))  # fmt: skip
    report.equal("mu 0.5, sigma 2", answer, (normal, 0.5, 2.0),
                 torch.sigmoid(torch.tensor([-3.5, 0.5, 2.5])))  # fmt: skip


@exercise
def loss_by_time(report: Report, answer: Callable[..., Any]) -> None:
    """Mean loss of the samples whose t falls into each of n equal parts of [0, 1]."""
    losses = torch.tensor([1.0, 3.0, 5.0, 8.0])
    t = torch.tensor([0.1, 0.2, 0.6, 0.9])
    report.equal("two halves", answer, (losses, t, 2), torch.tensor([2.0, 6.5]))
    report.equal("four quarters; nothing fell into the second", answer, (losses, t, 4),
                 torch.tensor([2.0, math.nan, 5.0, 8.0]))  # fmt: skip
    ends = torch.tensor([0.0, 0.5, 1.0, 1.0])
    report.equal("t = 1 belongs to the last part", answer, (losses, ends, 2),
                 torch.tensor([1.0, 16 / 3]))  # fmt: skip
    report.equal("one part: the mean", answer, (losses, t, 1), torch.tensor([4.25]))
