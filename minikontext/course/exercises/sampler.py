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
    report.equal("256 × 256 pixels are 256 tokens", answer, ((256, 256), []), 0.5)
    report.equal("a context changes nothing", answer, (big, [big]), 1.15)
    size = tuple(16 * report.whole(8, 15) for _ in range(2))
    report.equal(f"{size} with two contexts", answer, (size, [big, (672, 1568)]))
    report.equal("1568 × 672, as wide as Kontext goes", answer, ((1568, 672), []))


@exercise
def guide(report: Report, answer: Callable[..., Any]) -> None:
    """Classifier-free guidance of two velocities."""
    prompt, nothing = report.normal(2, 3), report.normal(2, 3)
    report.equal("scale 1: the prompt's velocity", answer, (prompt, nothing, 1.0), prompt)
    report.equal("scale 0: the empty prompt's", answer, (prompt, nothing, 0.0), nothing)
    report.equal("scale 4: far beyond the prompt's", answer, (prompt, nothing, 4.0))


def _bent(z: Tensor, t: Tensor) -> Tensor:
    """A velocity that changes on the way, for one t of each sample: (1,) would broadcast."""
    shape = tuple(torch.as_tensor(t).shape)
    if shape != (len(z),):
        told = f"predict was given t of shape {shape}, not ({len(z)},)"
        raise ValueError(f"{told}: each sample has a t, as t.expand(len(z)) makes them")
    return z.sin() + t[:, None] ** 3


def _walks(report: Report, counts: tuple[int, ...]) -> Any:
    """For each count of steps: what the case is called, and what is given."""
    for steps in counts:
        times = report.uniform(steps + 1).sort(descending=True).values
        times[0], times[-1] = 1.0, 0.0
        name = "one step" if steps == 1 else f"{steps} steps of unequal length"
        yield name, (_bent, report.normal(3, 2), times)


@exercise
def heun(report: Report, answer: Callable[..., Any]) -> None:
    """Heun's method: average the velocity at both ends of each step.

    Karras' version, whose last step is Euler's, is right as well.
    """
    for name, (predict, z, times) in _walks(report, (1, 2, report.whole(3, 6))):
        before = report.right(predict, z, times[:-1])
        karras = before + (times[-1] - times[-2]) * predict(before, times[-2].expand(len(z)))
        report.equal(name, answer, (predict, z, times), also=karras)


@exercise
def start_half_way(report: Report, answer: Callable[..., Any]) -> None:
    """Begin with a picture under some noise: the latents and the rest of the schedule."""
    x, noise = report.normal(1, 2), report.normal(1, 2)
    times = torch.linspace(1, 0, 5)
    report.equal("strength 1: pure noise, the whole schedule", answer, (x, noise, times, 1.0),
                 (noise, times))  # fmt: skip
    report.equal("strength 0: the picture, nothing to do", answer, (x, noise, times, 0.0),
                 (x, times[4:]))  # fmt: skip
    moved = torch.tensor([1.0, 0.95, 0.9, 0.8, 0.7, 0.55, 0.3, 0.0])
    for strength in (0.4, 0.6):  # 2.8 and 4.2 of 7 steps
        report.equal(f"a shifted schedule of 7 steps, strength {strength}", answer,
                     (x, noise, moved, strength))  # fmt: skip


@exercise
def schedule(report: Report, answer: Callable[..., Any]) -> None:
    """The shifted times of a schedule, (steps + 1,)."""
    report.equal("two steps, no shift", answer, (2, 0.0), torch.tensor([1.0, 0.5, 0.0]))
    for _ in range(2):
        steps, mu = report.whole(3, 9), report.whole(30, 190) / 100
        report.equal(f"{steps} steps, μ = {mu:g}", answer, (steps, mu))


@exercise
def euler(report: Report, answer: Callable[..., Any]) -> None:
    """Euler's method along a schedule: z += (t_next - t) v."""
    for name, given in _walks(report, (1, report.whole(2, 3), report.whole(4, 6))):
        report.equal(name, answer, given)
