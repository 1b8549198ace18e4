"""Exercises of notebook 07."""

from collections.abc import Callable
from typing import Any

import torch

from minikontext.course.checks import Report, exercise


@exercise
def guided_target(report: Report, answer: Callable[..., Any]) -> None:
    """What the one-pass student must say: each sample has its own guidance scale."""
    with_words = torch.tensor([[1.0, 3.0], [1.0, 3.0], [2.0, 0.0]])[:, :, None, None]
    without = torch.tensor([[0.0, 2.0], [0.0, 2.0], [2.0, 1.0]])[:, :, None, None]
    w = torch.tensor([1.0, 4.0, 3.0])
    expected = torch.tensor([[1.0, 3.0], [4.0, 6.0], [2.0, -2.0]])[:, :, None, None]
    report.equal("three samples, w = 1, 4 and 3", answer, (with_words, without, w), expected)
    zero = torch.zeros(3)
    report.equal("w = 0: no words at all", answer, (with_words, without, zero), without)
    one = torch.tensor([2.0])
    report.equal("latents of one sample, 4 x 8 x 8", answer,
                 (torch.ones(1, 4, 8, 8), torch.zeros(1, 4, 8, 8), one),
                 torch.full((1, 4, 8, 8), 2.0))  # fmt: skip


@exercise
def hinge_losses(report: Report, answer: Callable[..., Any]) -> None:
    """The judges' loss and the student's, from logits."""
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    report.equal("some right, some wrong", answer, (real, fake),
                 (torch.tensor(2.5 / 3 + 1.0), torch.tensor(2.0 / 3)))  # fmt: skip
    sure = torch.tensor([5.0, 9.0]), torch.tensor([-2.0, -4.0])
    report.equal("sure and right: the judges have nothing to learn", answer, sure,
                 (torch.tensor(0.0), torch.tensor(3.0)))  # fmt: skip
    fooled = torch.tensor([0.0, 0.0]), torch.tensor([4.0, 6.0])
    report.equal("fooled: the student's loss has no floor", answer, fooled,
                 (torch.tensor(7.0), torch.tensor(-5.0)))  # fmt: skip


@exercise
def judged_points(report: Report, answer: Callable[..., Any]) -> None:
    """From noised latents and a velocity to what the judges see."""
    z, v = torch.tensor([[1.0, 2.0], [4.0, 0.0]]), torch.tensor([[2.0, 2.0], [-4.0, 8.0]])
    t, again = torch.tensor([0.5, 0.25]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    judged_at = torch.tensor([0.5, 0.75])
    clean = torch.tensor([[0.0, 1.0], [5.0, -2.0]])
    seen = torch.tensor([[0.5, 1.0], [1.25, 1.0]])
    report.equal("two samples with times of their own", answer, (z, v, t, again, judged_at),
                 (clean, seen))  # fmt: skip
    whole = torch.ones(2)
    report.equal("judged at 1: nothing but the new noise", answer, (z, v, t, again, whole),
                 (clean, again))  # fmt: skip
    start = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, -1.0]]), torch.ones(1)
    report.equal("one step from pure noise, judged at 0", answer,
                 (*start, torch.ones(1, 2), torch.zeros(1)),
                 (torch.tensor([[-2.0, 1.0]]), torch.tensor([[-2.0, 1.0]])))  # fmt: skip


@exercise
def modes_kept(report: Report, answer: Callable[..., Any]) -> None:
    """How many of the answers a student still gives: collapse in one number."""
    answers = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    near = torch.tensor([[0.1, 0.0], [4.0, 0.2], [0.0, 3.9], [0.0, 0.1]])
    report.equal("all three", answer, (near, answers, 0.5), 1.0)
    report.equal("one answer only: collapsed", answer, (near[[0, 3]], answers, 0.5), 1 / 3)
    between = torch.tensor([[2.0, 0.0], [1.5, 1.5], [0.0, 0.1]])
    report.equal("points between answers count for none", answer, (between, answers, 0.5), 1 / 3)
    report.equal("nothing anywhere", answer, (between[:2], answers, 0.5), 0.0)
