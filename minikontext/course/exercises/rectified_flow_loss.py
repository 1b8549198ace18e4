"""Exercises of notebook 05."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from minikontext.course.checks import Report, exercise


def _like(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (x.dim() - 1))


def _path(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return (1 - _like(t, x)) * x + _like(t, x) * noise


@exercise(
    solution='''
def noisy_and_target(x, noise, t):
    """x, noise: (b, ...); t: (b,); returns z and the velocity to predict, both (b, ...)."""
    t = t.reshape(-1, *[1] * (x.dim() - 1))
    return (1 - t) * x + t * noise, noise - x
''',
    known={
        "time runs the other way": lambda x, noise, t: (_path(noise, x, t), noise - x),
        "the velocity points to the picture": lambda x, noise, t: (_path(x, noise, t), x - noise),
        "you broadcast t over the last axis": lambda x, noise, t: (
            (1 - t) * x + t * noise, noise - x
        ),
        "you predict the noise": lambda x, noise, t: (_path(x, noise, t), noise),
        "you predict the picture": lambda x, noise, t: (_path(x, noise, t), x),
        "all samples get the first t": lambda x, noise, t: (_path(x, noise, t[:1]), noise - x),
    }
)  # fmt: skip
def noisy_and_target(report: Report, answer: Callable[..., Any]) -> None:
    """What a training step needs: z on the straight path, and the velocity to predict."""
    x, noise = report.normal(2, 2), report.normal(2, 2)
    report.equal("t = 0: clean", answer, (x, noise, torch.zeros(2)), (x, noise - x))
    for name, shape in (("points, each with its own t", (3, 2)), ("latents", (2, 3, 4, 5))):
        x, noise = report.normal(*shape), report.normal(*shape)
        t = report.uniform(shape[0])
        report.equal(name, answer, (x, noise, t), (_path(x, noise, t), noise - x))


@exercise(
    solution='''
def both_ends(z, v, t):
    """z, v: (b, ...); t: a number; returns (x, noise)."""
    return z - t * v, z + (1 - t) * v
''',
    known={
        "the noise end is t away, not 1 − t": lambda z, v, t: (z - t * v, z + t * v),
        "you exchange both ends": lambda z, v, t: (z + (1 - t) * v, z - t * v),
        "you walk along the whole of v": lambda z, v, t: (z - v, z + v),
        "you walk the wrong way": lambda z, v, t: (z + t * v, z - (1 - t) * v),
    },
)
def both_ends(report: Report, answer: Callable[..., Any]) -> None:
    """From one point and one velocity to both ends of the path."""
    for _ in range(3):
        x, noise = report.normal(2, 3), report.normal(2, 3)
        t = round(float(report.uniform()), 2)
        z = (1 - t) * x + t * noise
        report.equal(f"on the path at t = {t}", answer, (z, noise - x, t), (x, noise))


@exercise(
    solution='''
def sample_times(normal, mu, sigma):
    """normal: (n,) from N(0, 1); returns t (n,) in (0, 1)."""
    return torch.sigmoid(mu + sigma * normal)
''',
    known={
        "you move after the sigmoid": lambda normal, mu, sigma: torch.sigmoid(sigma * normal) + mu,
        "you divide by sigma": lambda normal, mu, sigma: torch.sigmoid((normal - mu) / sigma),
        "you forget sigma": lambda normal, mu, sigma: torch.sigmoid(mu + normal),
        "you scale μ as well": lambda normal, mu, sigma: torch.sigmoid(sigma * (mu + normal)),
        "you forget the sigmoid": lambda normal, mu, sigma: mu + sigma * normal,
    },
)
def sample_times(report: Report, answer: Callable[..., Any]) -> None:
    """Logit-normal times from given normal numbers: sigmoid(mu + sigma n)."""
    normal = report.normal(5)
    report.equal("μ 0, σ 1", answer, (normal, 0.0, 1.0), torch.sigmoid(normal))
    report.equal("μ = ln 3 moves one half to three quarters", answer,
                 (torch.zeros(2), math.log(3), 1.0), torch.full((2,), 0.75))  # fmt: skip
    report.equal("μ 0.5, σ 2", answer, (normal, 0.5, 2.0), torch.sigmoid(0.5 + 2 * normal))


def _parts(t: Tensor, n: int) -> Tensor:
    return (t * n).long().clamp(max=n - 1)


def _by_part(losses: Tensor, part: Tensor, n: int) -> Tensor:
    return torch.stack([losses[part == i].mean() for i in range(n)])


def _summed(losses: Tensor, t: Tensor, n: int) -> Tensor:
    return torch.zeros(n).index_add(0, _parts(t, n), losses)


@exercise(
    solution='''
def loss_by_time(losses, t, n):
    """losses, t: (b,); returns (n,): the mean loss of each part.

    The parts are [0, 1/n), [1/n, 2/n), …; only the last includes its end, t = 1.
    """
    part = (t * n).long().clamp(max=n - 1)
    return torch.stack([losses[part == i].mean() for i in range(n)])
''',
    known={
        "empty parts are 0": lambda losses, t, n: (
            _summed(losses, t, n) / torch.bincount(_parts(t, n), minlength=n).clamp_min(1)
        ),
        "you add up and do not average": _summed,
        "t = 1 belongs to no part": lambda losses, t, n: _by_part(losses, (t * n).long(), n),
        "you round to the nearest part": lambda losses, t, n: _by_part(
            losses, (t * n).round().long().clamp(max=n - 1), n
        ),
        "you divide every part by the whole batch": lambda losses, t, n: (
            _summed(losses, t, n) / len(t)
        ),
    },
)
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
    report.equal(f"40 samples, {n} parts", answer, (losses, t, n),
                 _by_part(losses, _parts(t, n), n))  # fmt: skip


class Line(nn.Module):
    """A net for the check: linear in z and t."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return torch.cat([z, t[:, None]], dim=1) @ self.weight


def _step(
    loss: Callable[..., Tensor], clear: bool = True, follow: bool = True
) -> Callable[..., Any]:
    def step(net: Any, optimizer: Any, x: Tensor, noise: Tensor, t: Tensor) -> float:
        found = loss(net, x, noise, t)
        if clear:
            optimizer.zero_grad()
        found.backward()
        if follow:
            optimizer.step()
        return found.item()

    return step


def _mean(net: Any, x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    return (net(_path(x, noise, t), t) - (noise - x)).square().mean()


def _twice(step: Callable[..., Any]) -> Callable[..., Any]:
    """Two steps with a fresh net, and what the weights have become."""

    @wraps(step)  # so that an error is found in the student's lines
    def twice(weight: Tensor, batches: list[Any]) -> list[Any]:
        net = Line(weight)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        found = [float(step(net, optimizer, *batch)) for batch in batches]
        return [*found, net.weight.detach()]

    return twice


@exercise(
    solution='''
def training_step(net, optimizer, x, noise, t):
    """net(z, t) -> v; x, noise (b, ...); t (b,). Moves the weights once; returns the loss."""
    z, v = noisy_and_target(x, noise, t)
    loss = (net(z, t) - v).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()

def interpolate(x, noise, t):
    return noisy_and_target(x, noise, t)[0]

def loss(v, x, noise):
    return (v - (noise - x)).square().flatten(1).mean(dim=1)
''',
    known={
        "gradients of the step before are still there": _step(_mean, clear=False),
        "`optimizer.step()` is missing": _step(_mean, follow=False),
        "the velocity points to the picture": _step(
            lambda net, x, noise, t: (net(_path(x, noise, t), t) - x + noise).square().mean()
        ),
        "time runs the other way": _step(
            lambda net, x, noise, t: (net(_path(noise, x, t), t) - noise + x).square().mean()
        ),
        "you add up and do not average": _step(
            lambda net, x, noise, t: _mean(net, x, noise, t) * x.numel()
        ),
        "you punish the absolute error": _step(
            lambda net, x, noise, t: (net(_path(x, noise, t), t) - noise + x).abs().mean()
        ),
    },
)
def training_step(report: Report, answer: Callable[..., Any]) -> None:
    """One step of rectified flow: path, loss, gradients, optimizer; returns the loss."""
    weight = report.normal(3, 2)
    batches = [(report.normal(4, 2), report.normal(4, 2), report.uniform(4)) for _ in range(2)]
    right = _twice(_step(_mean))
    answered = report.through(_twice, answer)
    for name, some in (("one step: loss and weights", batches[:1]), ("two steps", batches)):
        report.equal(name, answered, (weight, some), right(weight, some))
