"""Exercises of notebook 06."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from minikontext.course.checks import Report, exercise


def _line(count: float) -> float:
    return 0.5 + (count - 256) * 0.65 / 3840


def _area(size: tuple[int, int], side: int = 16) -> int:
    return size[0] // side * (size[1] // side)


@exercise(
    solution='''
def mu_for_picture(target, contexts):
    """target: (width, height) in pixels; contexts: a list of such pairs; returns mu."""
    width, height = target
    count = width // 16 * (height // 16)
    return 0.5 + (count - 256) * (1.15 - 0.5) / (4096 - 256)
''',
    known={
        "you count the contexts' tokens, too": lambda target, contexts: _line(
            sum(map(_area, [target, *contexts]))
        ),
        "you count latent pixels, not tokens": lambda target, contexts: _line(_area(target, 8)),
        "the line starts at 0": lambda target, contexts: 1.15 * _area(target) / 4096,
        "you forget to take the 256 off": lambda target, contexts: (
            0.5 + _area(target) * 0.65 / 3840
        ),
        "you stop at the line's ends": lambda target, contexts: min(
            max(_line(_area(target)), 0.5), 1.15
        ),
    },
)
def mu_for_picture(report: Report, answer: Callable[..., Any]) -> None:
    """The shift of a target's schedule, however many contexts there are."""
    big = (1024, 1024)
    report.equal("256 × 256 pixels are 256 tokens", answer, ((256, 256), []), 0.5)
    report.equal("a context changes nothing", answer, (big, [big]), 1.15)
    size = tuple(16 * report.whole(8, 15) for _ in range(2))
    report.equal(f"{size} with two contexts", answer, (size, [big, (672, 1568)]),
                 _line(_area(size)))  # fmt: skip
    report.equal("1568 × 672, as wide as Kontext goes", answer, ((1568, 672), []), _line(4116))


@exercise(
    solution='''
def guide(conditional, unconditional, scale):
    """Two velocities of the same shape and a number; returns the guided velocity."""
    return unconditional + scale * (conditional - unconditional)
''',
    known={
        "you count the scale from 0": lambda conditional, unconditional, scale: (
            conditional + scale * (conditional - unconditional)
        ),
        "you walk the wrong way": lambda conditional, unconditional, scale: (
            conditional + scale * (unconditional - conditional)
        ),
        "you scale the empty prompt's velocity": lambda conditional, unconditional, scale: (
            conditional + (scale - 1) * unconditional
        ),
        "you scale the prompt's velocity alone": lambda conditional, unconditional, scale: (
            scale * conditional
        ),
        "you forget where to start": lambda conditional, unconditional, scale: (
            scale * (conditional - unconditional)
        ),
    },
)
def guide(report: Report, answer: Callable[..., Any]) -> None:
    """Classifier-free guidance of two velocities."""
    prompt, nothing = report.normal(2, 3), report.normal(2, 3)
    report.equal("scale 1: the prompt's velocity", answer, (prompt, nothing, 1.0), prompt)
    report.equal("scale 0: the empty prompt's", answer, (prompt, nothing, 0.0), nothing)
    report.equal("scale 4: far beyond the prompt's", answer, (prompt, nothing, 4.0),
                 nothing + 4 * (prompt - nothing))  # fmt: skip


Rule = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def _walk(rule: Rule, last: Rule | None = None) -> Callable[..., Tensor]:
    """Walk along a schedule; `rule` moves z from t to t_next, and `last` in the last step."""

    def walk(predict: Any, z: Tensor, times: Tensor) -> Tensor:
        for t, t_next in pairwise(times):
            move = last if last and t_next == 0 else rule
            z = move(predict, z, t.expand(len(z)), t_next.expand(len(z)))
        return z

    return walk


def _along(z: Tensor, a: Tensor, b: Tensor, v: Tensor) -> Tensor:
    return z + (b - a)[0] * v


def _euler(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _along(z, a, b, predict(z, a))


def _heun(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    first = predict(z, a)
    return _along(z, a, b, (first + predict(_along(z, a, b, first), b)) / 2)


def _midpoint(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    half = (a + b) / 2
    return _along(z, a, b, predict(_along(z, a, half, predict(z, a)), half))


def _old_place(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _along(z, a, b, (predict(z, a) + predict(z, b)) / 2)


def _same_time(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    first = predict(z, a)
    return _along(z, a, b, (first + predict(_along(z, a, b, first), a)) / 2)


def _not_halved(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    first = predict(z, a)
    return _along(z, a, b, first + predict(_along(z, a, b, first), b))


def _second_only(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return _along(z, a, b, predict(_euler(predict, z, a, b), b))


def _from_there(predict: Any, z: Tensor, a: Tensor, b: Tensor) -> Tensor:
    first = predict(z, a)
    there = _along(z, a, b, first)
    return _along(there, a, b, (first + predict(there, b)) / 2)


def _bent(z: Tensor, t: Tensor) -> Tensor:
    return z.sin() + t[:, None] ** 3


@exercise(
    solution='''
def heun(predict, z, times):
    """predict(z, t) -> v, with t of shape (b,); z (b, ...); times: a schedule (steps + 1,)."""
    for t, t_next in zip(times[:-1], times[1:]):
        first = predict(z, t.expand(len(z)))
        there = z + (t_next - t) * first
        second = predict(there, t_next.expand(len(z)))
        z = z + (t_next - t) * (first + second) / 2
    return z
''',
    known={
        "this is Euler's method": _walk(_euler),
        "you look at the middle of the step: the midpoint method": _walk(_midpoint),
        "the second velocity is asked for at the old place": _walk(_old_place),
        "the second velocity is asked for at the old time": _walk(_same_time),
        "you forget to halve": _walk(_not_halved),
        "you use the second velocity only": _walk(_second_only),
        "you go on from the Euler step, not from the old z": _walk(_from_there),
    },
)
def heun(report: Report, answer: Callable[..., Any]) -> None:
    """Heun's method: average the velocity at both ends of each step.

    Karras' version, whose last step is Euler's, is right as well.
    """
    karras = _walk(_heun, last=_euler)
    for steps in (1, 2, report.whole(3, 6)):
        times = report.uniform(steps + 1).sort(descending=True).values
        times[0], times[-1] = 1.0, 0.0
        z = report.normal(3, 2)
        given = (_bent, z, times)
        name = "one step" if steps == 1 else f"{steps} steps of unequal length"
        report.equal(name, answer, given, _walk(_heun)(*given), also=karras(*given))


def _start(x: Tensor, noise: Tensor, times: Tensor, first: int, t: Any = None) -> Any:
    t = times[first] if t is None else t
    return (1 - t) * x + t * noise, times[first:]


def _first(times: Tensor, strength: float, whole: Callable[[float], int] = round) -> int:
    return len(times) - 1 - whole(strength * (len(times) - 1))


@exercise(
    solution='''
def start_half_way(x, noise, times, strength):
    """x, noise: (b, ...); times: a schedule (steps + 1,); returns (z, rest of the schedule)."""
    steps = len(times) - 1
    left = times[steps - round(strength * steps) :]
    return (1 - left[0]) * x + left[0] * noise, left
''',
    known={
        "you take the strength for the time": lambda x, noise, times, strength: _start(
            x, noise, times, _first(times, strength), strength
        ),
        "you keep the wrong end of the schedule": lambda x, noise, times, strength: _start(
            x, noise, times, round(strength * (len(times) - 1))
        ),
        "you add noise on top of the picture": lambda x, noise, times, strength: (
            x + times[_first(times, strength)] * noise, times[_first(times, strength) :],
        ),
        "you cut off with `int`": lambda x, noise, times, strength: _start(
            x, noise, times, _first(times, strength, int)
        ),
        "you round up with `ceil`": lambda x, noise, times, strength: _start(
            x, noise, times, _first(times, strength, math.ceil)
        ),
        "you return the whole schedule": lambda x, noise, times, strength: (
            _start(x, noise, times, _first(times, strength))[0], times,
        ),
    }
)  # fmt: skip
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
                     (x, noise, moved, strength),
                     _start(x, noise, moved, _first(moved, strength)))  # fmt: skip


def _shifted(t: Tensor, mu: float) -> Tensor:
    return math.exp(mu) / (math.exp(mu) + 1 / t - 1)


@exercise(
    solution='''
def schedule(steps, mu):
    """-> (steps + 1,), from 1 to 0, shifted by mu."""
    t = torch.linspace(1, 0, steps + 1)
    return math.exp(mu) / (math.exp(mu) + 1 / t - 1)
''',
    known={
        "the schedule has one value too few": lambda steps, mu: _shifted(
            torch.linspace(1, 0, steps), mu
        ),
        "you do not shift": lambda steps, mu: torch.linspace(1, 0, steps + 1),
        "the schedule runs from 0 to 1": lambda steps, mu: _shifted(
            torch.linspace(0, 1, steps + 1), mu
        ),
        "you shift towards the picture": lambda steps, mu: _shifted(
            torch.linspace(1, 0, steps + 1), -mu
        ),
        "you take μ for α": lambda steps, mu: mu / (mu + 1 / torch.linspace(1, 0, steps + 1) - 1),
        "you leave the end, t = 0, out": lambda steps, mu: _shifted(
            torch.linspace(1, 0, steps + 1)[:-1], mu
        ),
    },
)
def schedule(report: Report, answer: Callable[..., Any]) -> None:
    """The shifted times of a schedule, (steps + 1,)."""
    report.equal("two steps, no shift", answer, (2, 0.0), torch.tensor([1.0, 0.5, 0.0]))
    for _ in range(2):
        steps, mu = report.whole(3, 9), report.whole(30, 190) / 100
        right = _shifted(torch.linspace(1, 0, steps + 1), mu)
        report.equal(f"{steps} steps, μ = {mu:g}", answer, (steps, mu), right)


@exercise(
    solution='''
def euler(predict, z, times):
    """predict(z, t) -> v, with t of shape (b,); z (b, ...)."""
    for t, t_next in zip(times[:-1], times[1:]):
        z = z + (t_next - t) * predict(z, t.expand(len(z)))
    return z
''',
    known={
        "you walk away from the picture": _walk(
            lambda predict, z, a, b: _along(z, b, a, predict(z, a))
        ),
        "you ask for the velocity at the next time": _walk(
            lambda predict, z, a, b: _along(z, a, b, predict(z, b))
        ),
        "all steps have the same length": lambda predict, z, times: _walk(
            lambda predict, z, a, b: z - predict(z, a) / (len(times) - 1)
        )(predict, z, times),
        "you leave the last step out": lambda predict, z, times: _walk(_euler)(
            predict, z, times[:-1]
        ),
        "every step starts from the first z": lambda predict, z, times: z
        + sum(
            (b - a) * predict(z, a.expand(len(z))) for a, b in pairwise(times)
        ),
        "you jump to t = 0 in every step": _walk(
            lambda predict, z, a, b: z - a[0] * predict(z, a)
        ),
    }
)  # fmt: skip
def euler(report: Report, answer: Callable[..., Any]) -> None:
    """Euler's method along a schedule: z += (t_next - t) v."""
    for steps in (1, report.whole(2, 3), report.whole(4, 6)):
        times = report.uniform(steps + 1).sort(descending=True).values
        times[0], times[-1] = 1.0, 0.0
        given = (_bent, report.normal(3, 2), times)
        name = "one step" if steps == 1 else f"{steps} steps of unequal length"
        report.equal(name, answer, given, _walk(_euler)(*given))
