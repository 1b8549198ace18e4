"""Exercises of notebook 06."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minikontext.course.checks import Report, exercise


@exercise
def mu_for_picture(report: Report, answer: Callable[..., Any]) -> None:
    """The shift of a target's schedule, however many contexts there are."""
    big = (1024, 1024)
    report.equal("1024 × 1024, no context", answer, (big, []), 1.15)
    report.equal("256 × 256 pixels are 256 tokens", answer, ((256, 256), []), 0.5)
    report.equal("a context changes nothing", answer, (big, [big]), 1.15)
    report.equal("two contexts of other sizes", answer, ((512, 512), [big, (672, 1568)]), 0.63)
    report.equal("1568 × 672, as wide as Kontext goes", answer, ((1568, 672), [(1568, 672)]),
                 1.15 + 20 * 0.65 / 3840)  # fmt: skip


@exercise
def guide(report: Report, answer: Callable[..., Any]) -> None:
    """Classifier-free guidance of two velocities."""
    given, nothing = torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 2.0]])
    report.equal("scale 1: the prompt's velocity", answer, (given, nothing, 1.0), given)
    report.equal("scale 0: the empty prompt's", answer, (given, nothing, 0.0), nothing)
    report.equal("scale 4: far beyond the prompt's", answer, (given, nothing, 4.0),
                 torch.tensor([[4.0, 6.0]]))  # fmt: skip
    report.equal("both agree: nothing to push", answer, (given, given, 7.0), given)


def _growth(z: Tensor, t: Tensor) -> Tensor:
    return z


def _time(z: Tensor, t: Tensor) -> Tensor:
    return 2 * t[:, None].expand_as(z)


def _straight(z: Tensor, t: Tensor) -> Tensor:
    return torch.full_like(z, 3.0)


@exercise
def heun(report: Report, answer: Callable[..., Any]) -> None:
    """Heun's method: average the velocity at both ends of each step."""
    start = torch.tensor([[8.0], [4.0]])
    one, two = torch.linspace(1, 0, 2), torch.linspace(1, 0, 3)
    report.equal("a straight path, v = 3", answer, (_straight, start, one), start - 3)
    report.equal("dz/dt = 2 t, one step: exact", answer, (_time, start, one), start - 1)
    report.equal("dz/dt = z, one step", answer, (_growth, start, one), start / 2)
    report.equal("dz/dt = z, two steps", answer, (_growth, start, two), start * 0.625**2)
    uneven = torch.tensor([1.0, 0.8, 0.0])
    report.equal("steps of unequal length", answer, (_growth, start, uneven), start * 0.82 * 0.52)


@exercise
def start_half_way(report: Report, answer: Callable[..., Any]) -> None:
    """Begin with a picture under some noise: the latents and the rest of the schedule."""
    x, noise = torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0, -2.0]])
    times = torch.linspace(1, 0, 5)
    report.equal("strength 1: pure noise, the whole schedule", answer, (x, noise, times, 1.0),
                 (noise, times))  # fmt: skip
    report.equal("strength 0.5: half of the steps", answer, (x, noise, times, 0.5),
                 (torch.tensor([[0.5, 0.0]]), times[2:]))  # fmt: skip
    moved = torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0])
    report.equal("a shifted schedule: its t decides how much noise", answer,
                 (x, noise, moved, 0.5), (torch.tensor([[0.75, -1.0]]), moved[2:]))  # fmt: skip
    report.equal("strength 0: the picture, nothing to do", answer, (x, noise, times, 0.0),
                 (x, times[4:]))  # fmt: skip
