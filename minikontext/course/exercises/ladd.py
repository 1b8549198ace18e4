"""Exercises of notebook 07."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from minikontext.course import plane_ladd
from minikontext.course.checks import Report, exercise

TURNS = 250


@exercise
def hinge_losses(report: Report, answer: Callable[..., Any]) -> None:
    """The discriminator's loss and the student's, from logits."""
    real, fake = 2 * report.normal(2, 3, 4, 5)
    report.equal("some right, some wrong", answer, (real, fake))
    sure = 1 + report.normal(3, 2).abs(), -1 - report.normal(3, 2).abs()
    report.equal("sure and right: the discriminator has nothing to learn", answer, sure,
                 (torch.tensor(0.0), -sure[1].mean()))  # fmt: skip
    fooled = torch.zeros(4), 4 + report.normal(4).abs()
    report.equal("fooled: the student's loss has no floor", answer, fooled)
    points = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    got = report.call("gradients", answer, *points)
    if all(report.results):
        cut = "no gradient comes back: this is what you get if you detach, or call .item()"
        report.reaches("the discriminator learns from real", got[0], points[0], cut)
        report.reaches("the discriminator learns from fake", got[0], points[1], cut)
        report.reaches("the student learns", got[1], points[1], cut)


@exercise
def judged_points(report: Report, answer: Callable[..., Any]) -> None:
    """From noised latents and a velocity to what the discriminator sees."""
    z, v, again = report.normal(3, 4, 3)
    t, at = 0.1 + 0.35 * report.uniform(4), 0.55 + 0.35 * report.uniform(4)
    given = z, v, t, again, at
    report.equal("four samples with times of their own", answer, given)
    whole = torch.ones(4)
    report.equal("judged at 1: nothing but the new noise", answer, (z, v, t, again, whole),
                 (report.right(*given)[0], again))  # fmt: skip
    start = (z, v, whole, again, torch.zeros(4))
    report.equal("one step from pure noise, judged at 0", answer, start, (z - v, z - v))
    v = v.clone().requires_grad_(True)
    got = report.call("gradients", answer, z, v, t, again, at)
    if all(report.results):
        cut = "the student could not learn: this is what you get if you detach"
        report.reaches("a gradient goes back from what is seen to v", got[1], v, cut)


@exercise
def modes_kept(report: Report, answer: Callable[..., Any]) -> None:
    """How many of the answers a student still gives: collapse in one number."""
    answers = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]]) + report.uniform(2)
    angle = torch.pi * (0.25 + 0.5 * torch.arange(4) + 0.05 * report.uniform(4))
    way = torch.stack([angle.cos(), angle.sin()], 1)  # along the diagonals norms differ
    near, far = answers + 0.45 * way, answers + 0.58 * way
    report.equal("all four", answer, (near.repeat(3, 1), answers, 0.5), 1.0)
    report.equal("one answer only: collapsed", answer, (near[:1].repeat(5, 1), answers, 0.5), 0.25)
    report.equal("a little too far, all of them", answer, (far, answers, 0.5), 0.0)
    mixed = torch.cat([near[:2], far[2:], near[:1]])
    report.equal("two of four", answer, (mixed, answers, 0.5), 0.5)
    report.equal("a wider circle", answer, (answers + 1.5 * way, answers, 2.0), 1.0)


@exercise
def one_turn(report: Report, answer: Callable[..., Any]) -> None:
    """A turn of LADD: both losses, their gradients, and a collapsed student that recovers."""
    torch.manual_seed(report.whole(0, 2**31))
    teacher = plane_ladd.Net(8).requires_grad_(False)
    for name in ("both losses", "of other points"):  # once in a hundred, a slip changes little
        student, judges = plane_ladd.Net(8), plane_ladd.Discriminator(teacher, 1)
        for p in student.parameters():  # so that its answer hangs on the time, too
            p.data.mul_(3)
        draws = plane_ladd.draw(torch.randn(40, 2), 64, 0.0)
        draws = draws._replace(t=0.2 + 0.3 * torch.rand(64), judged_at=0.6 + 0.3 * torch.rand(64))
        given = (student, judges.features, _heads(judges), *draws)
        report.equal(name, answer, given, tolerance=1e-4)
    got = report.call("gradients", answer, *given)
    if not all(report.results):
        return
    heads, weight = judges.outs[0].weight, student.layers[0].weight
    why = "this is what you get if its jump is detached, or made under no_grad"
    report.reaches("the student's loss reaches the student", got[1], weight, why)
    why = "this is what you get if the heads look under no_grad"
    report.reaches("the discriminator's loss reaches the heads", got[0], heads, why)
    why = "this is what you get if the jump is not detached for the heads"
    report.reaches("and leaves the student alone", got[0], weight, why, wanted=False)
    if all(report.results):
        share = recovered(answer)
        why = f"after {TURNS} turns {share:.0%} of its points lie at the lost answer"
        report.true("a collapsed student gives both answers again", share > 0.15, why)


def _heads(judges: plane_ladd.Discriminator) -> Callable[[list[Tensor], Tensor], Tensor]:
    return lambda seen, t: judges.heads(seen, t, True)


def recovered(turn: Callable[..., Any]) -> float:
    """The share of points at an answer that a collapsed student had lost, after some turns."""
    torch.manual_seed(0)
    x = torch.tensor([[-1.5, 0.0], [1.5, 0.0]]).repeat(200, 1) + 0.1 * torch.randn(400, 2)
    teacher = plane_ladd.flow_teacher(x, steps=400)
    student = plane_ladd.Net()
    student.load_state_dict(teacher.state_dict())
    slow = torch.optim.AdamW(student.parameters(), lr=2e-3)
    for _ in range(100):  # it learns to answer left, whatever the noise
        draws = plane_ladd.draw(x, 128, 0.0)
        z = torch.lerp(draws.x, draws.noise, draws.t[:, None])
        left = torch.tensor([-1.5, 0.0]) + 0.1 * torch.randn(128, 2)
        plane_ladd.update(slow, (z - draws.t[:, None] * student(z, draws.t) - left).square().mean())
    judges = plane_ladd.Discriminator(teacher, 1)
    both = plane_ladd.optimizer(student, judges)
    parts = [*student.parameters()], [p for p in judges.parameters() if p.requires_grad]
    for _ in range(TURNS):
        draws = plane_ladd.draw(x, 128, 0.0)
        heads, wish = turn(student, judges.features, _heads(judges), *draws)
        for loss, mine in ((wish, parts[0]), (heads, parts[1])):
            slopes = torch.autograd.grad(loss, mine, retain_graph=True, allow_unused=True)
            for p, slope in zip(mine, slopes, strict=True):
                p.grad = slope
        both.step()
    points = plane_ladd.sample(student, 1, 400)
    return ((points - torch.tensor([1.5, 0.0])).norm(dim=1) < 0.7).float().mean().item()
