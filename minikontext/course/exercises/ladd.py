"""Exercises of notebook 07."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from minikontext.course import plane_ladd
from minikontext.course.checks import FAILED, Report, exercise

TURNS = 250


def _judge(real: Tensor, fake: Tensor) -> Tensor:
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


@exercise(
    solution='''
def hinge_losses(on_real, on_fake):
    """Logits of any shape; returns (the discriminator's loss, the student's loss)."""
    heads = torch.relu(1 - on_real).mean() + torch.relu(1 + on_fake).mean()
    return heads, -on_fake.mean()
''',
    known={
        "you leave out the hinge": lambda r, f: ((1 - r).mean() + (1 + f).mean(), -f.mean()),
        "real and fake are swapped": lambda r, f: (_judge(f, r), -r.mean()),
        "the signs in front of the logits are swapped, for both":
            lambda r, f: (_judge(-r, -f), f.mean()),
        "the student has a hinge, too": lambda r, f: (_judge(r, f), F.relu(1 - f).mean()),
        "the student wants low logits": lambda r, f: (_judge(r, f), f.mean()),
        "the margin of 1 is missing":
            lambda r, f: (F.relu(-r).mean() + F.relu(f).mean(), -f.mean()),
        "you divide by the length of the first axis, not by the number of logits":
            lambda r, f: (F.relu(1 - r).sum() / len(r) + F.relu(1 + f).sum() / len(f),
                          -f.sum() / len(f)),
        "you divide the student's sum by the length of the first axis":
            lambda r, f: (_judge(r, f), -f.sum() / len(f)),
        "you take half of the sum": lambda r, f: (_judge(r, f) / 2, -f.mean()),
    },
)  # fmt: skip
def hinge_losses(report: Report, answer: Callable[..., Any]) -> None:
    """The discriminator's loss and the student's, from logits."""
    real, fake = 2 * report.normal(2, 3, 4, 5)
    report.equal("some right, some wrong", answer, (real, fake),
                 (_judge(real, fake), -fake.mean()))  # fmt: skip
    sure = 1 + report.normal(3, 2).abs(), -1 - report.normal(3, 2).abs()
    report.equal("sure and right: the discriminator has nothing to learn", answer, sure,
                 (torch.tensor(0.0), -sure[1].mean()))  # fmt: skip
    fooled = torch.zeros(4), 4 + report.normal(4).abs()
    report.equal("fooled: the student's loss has no floor", answer, fooled,
                 (_judge(*fooled), -fooled[1].mean()))  # fmt: skip
    points = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    got = report.call("gradients", answer, *points)
    if got is not FAILED and isinstance(got, (tuple, list)) and len(got) == 2:
        cut = "no gradient comes back: this is what you get if you detach, or call .item()"
        report.reaches("the discriminator learns from real", got[0], points[0], cut)
        report.reaches("the discriminator learns from fake", got[0], points[1], cut)
        report.reaches("the student learns", got[1], points[1], cut)


def _seen(z: Tensor, v: Tensor, t: Tensor, again: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    clean = z - t[:, None] * v
    return clean, torch.lerp(clean, again, at[:, None])


@exercise(
    solution='''
def judged_points(z, v, t, again, judged_at):
    """z, v, again: (b, n); t, judged_at: (b,); returns (clean, seen), both (b, n)."""
    clean = z - t[:, None] * v
    at = judged_at[:, None]
    return clean, (1 - at) * clean + at * again
''',
    known={
        "you walk forwards along v": lambda z, v, t, a, at: _seen(z, -v, t, a, at),
        "the discriminator's time is the student's": lambda z, v, t, a, at: _seen(z, v, t, a, t),
        "the two times are swapped": lambda z, v, t, a, at: _seen(z, v, at, a, t),
        "you noise z, not the clean jump":
            lambda z, v, t, a, at: (_seen(z, v, t, a, at)[0], torch.lerp(z, a, at[:, None])),
        "t counts from the noise": lambda z, v, t, a, at: _seen(z, v, 1 - t, a, at),
        "judged_at counts from the noise": lambda z, v, t, a, at: _seen(z, v, t, a, 1 - at),
        "you walk with all of v, not with t of it":
            lambda z, v, t, a, at: _seen(z, v, torch.ones_like(t), a, at),
    },
)  # fmt: skip
def judged_points(report: Report, answer: Callable[..., Any]) -> None:
    """From noised latents and a velocity to what the discriminator sees."""
    z, v, again = report.normal(3, 4, 3)
    t, at = 0.1 + 0.35 * report.uniform(4), 0.55 + 0.35 * report.uniform(4)
    given = z, v, t, again, at
    report.equal("four samples with times of their own", answer, given, _seen(*given))
    whole = torch.ones(4)
    report.equal("judged at 1: nothing but the new noise", answer, (z, v, t, again, whole),
                 (_seen(*given)[0], again))  # fmt: skip
    start = (z, v, whole, again, torch.zeros(4))
    report.equal("one step from pure noise, judged at 0", answer, start, (z - v, z - v))
    v = v.clone().requires_grad_(True)
    got = report.call("gradients", answer, z, v, t, again, at)
    if got is not FAILED and isinstance(got, (tuple, list)) and len(got) == 2:
        cut = "the student could not learn: this is what you get if you detach"
        report.reaches("a gradient goes back from what is seen to v", got[1], v, cut)


def _kept(distance: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., float]:
    def kept(points: Tensor, answers: Tensor, within: float) -> float:
        return (distance(answers, points).amin(1) < within).float().mean().item()

    return kept


@exercise(
    solution='''
def modes_kept(points, answers, within):
    """points (n, 2), answers (m, 2), a distance; returns a number from 0 to 1."""
    nearest = torch.cdist(answers, points).min(dim=1).values
    return (nearest < within).float().mean().item()
''',
    known={
        "you count points, not answers":
            lambda p, a, w: (torch.cdist(p, a).amin(1) < w).float().mean().item(),
        "every nearest answer counts, however far":
            lambda p, a, w: len(torch.cdist(p, a).argmin(1).unique()) / len(a),
        "you add the differences of the coordinates (the 1-norm)":
            _kept(lambda a, p: torch.cdist(a, p, p=1)),
        "you take the largest difference of a coordinate (the max-norm)":
            _kept(lambda a, p: torch.cdist(a, p, p=math.inf)),
        "you compare squared distances": _kept(lambda a, p: torch.cdist(a, p).square()),
        "you return how many, not the share":
            lambda p, a, w: _kept(torch.cdist)(p, a, w) * len(a),
    },
)  # fmt: skip
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


def _turn(
    away: float = 1.0, same_time: bool = False, clean: bool = False, margin: float = 1.0,
    sign: float = 1.0, other: bool = False, swapped: bool = False,
) -> Callable[..., tuple[Tensor, Tensor]]:  # fmt: skip
    """The turn with a slip."""

    def turn(student, features, heads, x, noise, again, t, at):  # noqa: ANN001, ANN202
        z = torch.lerp(x, noise, t[:, None])
        made = z - away * t[:, None] * student(z, t)
        at = t if same_time else at
        noised = [y if clean else torch.lerp(y, noise if other else again, at[:, None])
                  for y in (x, made)]  # fmt: skip
        real, fake = features(noised[0], at), features(noised[1], at)
        on_real, on_fake = heads(real, at), heads([f.detach() for f in fake], at)
        if swapped:
            on_real, on_fake = on_fake, on_real
        judge = F.relu(margin - on_real).mean() + F.relu(margin + on_fake).mean()
        return judge, -sign * heads(fake, at).mean()

    return turn


SLIPS = {
    "you walk forwards along v": {"away": -1.0},
    "the discriminator looks at the student's time": {"same_time": True},
    "nothing is noised again": {"clean": True},
    "the margin of 1 is missing": {"margin": 0.0},
    "the student wants low logits": {"sign": -1.0},
    "you noise with the first noise again": {"other": True},
    "real and fake are swapped": {"swapped": True},
}


@exercise(
    solution='''
def one_turn(student, features, heads, x, noise, again, t, at):
    """x, noise, again: (b, n); t, at: (b,).

    student(z, t) -> v; features(y, t) -> a list; heads(list, t) -> logits.

    Returns (the discriminator's loss, the student's loss)."""
    z = torch.lerp(x, noise, t[:, None])
    made = z - t[:, None] * student(z, t)
    real, fake = (features(torch.lerp(y, again, at[:, None]), at) for y in (x, made))
    on_real, on_fake = heads(real, at), heads([f.detach() for f in fake], at)
    loss = torch.relu(1 - on_real).mean() + torch.relu(1 + on_fake).mean()
    return loss, -heads(fake, at).mean()
''',
    known={mistake: _turn(**slip) for mistake, slip in SLIPS.items()},
)
def one_turn(report: Report, answer: Callable[..., Any]) -> None:
    """A turn of LADD: both losses, their gradients, and a collapsed student that recovers."""
    torch.manual_seed(report.whole(0, 2**31))
    teacher = plane_ladd.Net(8).requires_grad_(False)
    student, judges = plane_ladd.Net(8), plane_ladd.Discriminator(teacher, 1)
    draws = plane_ladd.draw(torch.randn(40, 2), 64, 0.0)
    draws = draws._replace(t=0.2 + 0.3 * torch.rand(64), judged_at=0.6 + 0.3 * torch.rand(64))
    given = (student, judges.features, _heads(judges), *draws)
    with torch.no_grad():
        expected = _turn()(*given)
    report.equal("both losses", answer, given, expected)
    got = report.call("gradients", answer, *given)
    if got is FAILED or not isinstance(got, (tuple, list)) or len(got) != 2:
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
