"""Exercises of notebook 10."""

import hashlib
import io
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minikontext import safety
from minikontext.course.checks import NotAttempted, Report, exercise
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, render

STEPS = 10
OWN = "you take the notebook's own attack"
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
FORBIDDEN = torch.tensor([True, True, False, True, False, False])


@exercise(
    solution='''
def rates(scores, forbidden, threshold):
    """Scores (n,), forbidden (n,) True or False; returns (recall, false alarms), both 0 to 1."""
    flagged = (scores >= threshold).float()
    return flagged[forbidden].mean().item(), flagged[~forbidden].mean().item()
''',
    known={
        "a score at the threshold is not flagged": lambda s, forbidden, t: tuple(
            (s > t)[where].float().mean().item() for where in (forbidden, ~forbidden)
        ),
        "you give the precision for the recall": lambda s, forbidden, t: (
            (((s >= t) & forbidden).sum() / (s >= t).sum().clamp(min=1)).item(),
            (s >= t)[~forbidden].float().mean().item(),
        ),
        "you divide the false alarms by all pictures": lambda s, forbidden, t: (
            (s >= t)[forbidden].float().mean().item(),
            ((s >= t) & ~forbidden).float().mean().item(),
        ),
    },
)
def rates(report: Report, answer: Callable[..., Any]) -> None:
    """Recall and share of false alarms at a threshold."""
    report.equal("a threshold in the middle", answer, (SCORES, FORBIDDEN, 0.5), (2 / 3, 1 / 3))
    report.equal(
        "exactly at the threshold: flagged", answer, (SCORES, FORBIDDEN, 0.8), (2 / 3, 0.0)
    )
    report.equal("everything is flagged", answer, (SCORES, FORBIDDEN, 0.0), (1.0, 1.0))
    report.equal("nothing is flagged", answer, (SCORES, FORBIDDEN, 1.0), (0.0, 0.0))
    few = torch.tensor([True, False, False, False, False, False])
    report.equal("few are forbidden", answer, (SCORES, few, 0.25), (1.0, 3 / 5))


@exercise(
    solution='''
def choose_threshold(scores, forbidden, allowed):
    """Scores (n,), forbidden (n,) True or False, allowed 0 to 1; returns a number."""
    best = scores.max().item() + 1
    for limit in scores.sort(descending=True).values.tolist():
        if (scores[~forbidden] >= limit).double().mean() <= allowed:
            best = limit
    return best
''',
    known={
        "you take the quantile of all scores": lambda s, _, allowed: s.quantile(1 - allowed).item(),
        "you take the middle, whatever the scores": lambda *_: 0.5,
        "you allow no false alarm at all": lambda s, forbidden, _: (
            s[~forbidden].max().item() + 1e-6
        ),
        "you stop at a harmless score, which is then flagged": lambda s, forbidden, allowed: (
            _highest(s[~forbidden])[int(allowed * int((~forbidden).sum()))].item()
        ),
    },
)
def choose_threshold(report: Report, answer: Callable[..., Any]) -> None:
    """The threshold with the largest recall whose false alarms stay within what is allowed."""
    draw = torch.Generator().manual_seed(9)
    scores = torch.cat([torch.randn(200, generator=draw) + 3, torch.randn(800, generator=draw)])
    forbidden = torch.arange(1000) < 200
    ties = torch.tensor([0.9, 0.5, 0.5, 0.5, 0.1, 0.0])
    for case, given, marked, allowed in (
        ("at most 1 % false alarms", scores.sigmoid(), forbidden, 0.01),
        ("at most 10 %", scores.sigmoid(), forbidden, 0.1),
        ("none at all", SCORES, FORBIDDEN, 0.0),
        ("equal scores stay together", ties, FORBIDDEN, 0.34),
        ("the highest is harmless: nothing may be flagged", ties, ~FORBIDDEN, 0.0),
    ):
        _judge(report, answer, case, given, marked, allowed)


def _highest(scores: Tensor) -> Tensor:
    return scores.sort(descending=True).values


def _judge(
    report: Report, answer: Callable[..., Any], case: str, scores: Tensor, forbidden: Tensor,
    allowed: float,
) -> None:  # fmt: skip
    """Any threshold will do that flags what the best one flags of the forbidden."""
    try:
        got = float(answer(scores.clone(), forbidden.clone(), allowed))
    except NotImplementedError as error:
        raise NotAttempted from error
    except Exception as error:
        return report.fail(case, f"your code raised {type(error).__name__}: {error}")
    recall, alarms = _rates(scores, forbidden, got)
    fitting = (_rates(scores, forbidden, t) for t in [*scores.tolist(), 2.0])
    best = max(r for r, a in fitting if a <= allowed)
    text = f"recall {recall:.3f} with {alarms:.3f} false alarms at {got:.4f}"
    lines = [f"expected recall {best:.3f} with at most {allowed:g}; got {text}"]
    lines += report.named(got, (scores, forbidden, allowed), 1e-6)
    right = alarms <= allowed and recall == best
    return report.true(case, right, "\n       ".join(lines))


def _rates(scores: Tensor, forbidden: Tensor, limit: float) -> tuple[float, float]:
    flagged = scores.double() >= limit
    return flagged[forbidden].double().mean().item(), flagged[~forbidden].double().mean().item()


@lru_cache(maxsize=1)
def desk() -> tuple[KontextPipeline, safety.Safety]:
    """The untrained editor without filters, and the shipped filters."""
    with redirect_stdout(io.StringIO()):  # a line about the device says nothing here
        pipe = KontextPipeline.from_pretrained("toy", device="cpu", safety="none")
    return pipe, safety.load("toy")


@exercise(
    solution='''
def slip_through():
    """Returns (mk.toyworld.Scene, prompt): rendered, then edited with seed 0 and ten steps."""
    scene = mk.toyworld.Scene(species="bear", colour="purple", background="snow")
    return scene, "replace the bear with a star"
''',
    known={
        "the prompt names what is forbidden": lambda: (
            Scene(species="star", colour="yellow"),
            "make the star purple",
        ),
        "the picture shows it already": lambda: (
            Scene(species="star", colour="purple"),
            "make it night",
        ),
        "nothing forbidden comes out": lambda: (
            Scene(species="cat", colour="blue"),
            "turn the cat into a star",
        ),
        OWN: lambda: (
            Scene(species="cat", colour="purple"),
            "turn the cat into a star",
        ),
        "prompt and scene are exchanged": lambda: (
            "turn the cat into a star",
            Scene(species="cat", colour="purple"),
        ),
    },
)
def slip_through(report: Report, answer: Callable[..., Any]) -> None:
    """A scene and a prompt: the words pass, the input passes, and the output filter stops it."""
    scene, prompt = answer()
    if not isinstance(scene, Scene) or not isinstance(prompt, str):
        why = f"expected (Scene, text); got ({scene!r:.40}, {prompt!r:.40})"
        turned = isinstance(prompt, Scene) and isinstance(scene, str)
        return report.fail("a pair", why + _slip("prompt and scene are exchanged") * turned)
    why = f"it is a purple cat again{_slip(OWN)}"
    report.true("another way", (scene.colour, scene.species) != ("purple", "cat"), why)
    pipe, filters = desk()
    picture = Image.fromarray(render(scene))
    reasons = "the prompt names what is forbidden", "the picture shows it already"
    for layer, item, slip in zip(("prompt", "input"), (prompt, picture), reasons, strict=True):
        verdict = filters.check(layer, [item])[0]
        report.true(f"past the {layer} filter", not verdict.flagged, f"{verdict}{_slip(slip)}")
    if not all(report.results):
        return None
    output = pipe(prompt, image=picture, seed=0, num_inference_steps=STEPS, progress=False)
    verdict = filters.check("output", output.images)[0]
    why = f"{verdict}{_slip('nothing forbidden comes out')}"
    return report.true("caught by the output filter", verdict.flagged, why)


def _slip(mistake: str) -> str:
    return f"\n       this is what you get if {mistake}"


@exercise(
    solution='''
import hashlib

import numpy as np

def tile_checksums(pixels, count):
    """uint8 array (h, w, 3); returns a list of count * count texts."""
    tiles = [t for band in np.split(pixels, count, axis=0) for t in np.split(band, count, axis=1)]
    return [hashlib.sha256(tile.tobytes()).hexdigest()[:8] for tile in tiles]
''',
    known={
        "you go column by column": lambda pixels, count: [
            one for j in range(count) for one in _tiles(pixels, count)[j::count]
        ],
        "you hash floats, not bytes": lambda pixels, count: _tiles(
            pixels.astype(np.float32), count
        ),
        "you cut squares": lambda pixels, count: _tiles(pixels[:, : len(pixels)], count),
        "you give all digits": lambda pixels, count: [
            hashlib.sha256(tile.tobytes()).hexdigest()
            for band in np.split(pixels, count, axis=0)
            for tile in np.split(band, count, axis=1)
        ],
    },
)
def tile_checksums(report: Report, answer: Callable[..., Any]) -> None:
    """First 8 hex digits of the SHA-256 of each tile's bytes, row by row."""
    small = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    report.equal("four tiles", answer, (small, 2), _tiles(small, 2))
    report.equal("one tile", answer, (small, 1), _tiles(small, 1))
    wide = np.concatenate([small, small[::-1]], axis=1)
    report.equal("wider than high", answer, (wide, 2), _tiles(wide, 2))
    shown = render(Scene())
    report.equal("a picture", answer, (shown, 8), _tiles(shown, 8))


def _tiles(pixels: np.ndarray, count: int) -> list[str]:
    return [
        hashlib.sha256(tile.tobytes()).hexdigest()[:8]
        for band in np.split(pixels, count, axis=0)
        for tile in np.split(band, count, axis=1)
    ]


def _evaded(
    way: float = -1.0, limit: bool = True, clamp: bool = True, sign: bool = True,
    once: bool = False, around: bool = True,
) -> Callable[..., Tensor]:  # fmt: skip
    """The attack with a slip."""

    def evade(score, picture, most, rate, steps):  # noqa: ANN001, ANN202
        x = picture.clone()
        for _ in range(1 if once else steps):
            last = x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(score(x), x)
            x = x + way * rate * (slope.sign() if sign else slope)
            if limit:
                middle = picture if around else last
                x = torch.minimum(torch.maximum(x, middle - most), middle + most)
            x = x.clamp(0, 1) if clamp else x
        return x.detach()

    return evade


@exercise(
    solution='''
def evade(score, picture, most, rate, steps):
    """score(x) -> a number with a gradient; picture (3, h, w) in [0, 1]; returns a new picture.

    Each of `steps` moves every value by `rate`, the way that lowers the score. No value may be
    farther than `most` from the picture's, or outside of [0, 1]."""
    x = picture.clone()
    for _ in range(steps):
        x.requires_grad_()
        (slope,) = torch.autograd.grad(score(x), x)
        x = (x - rate * slope.sign()).detach()
        x = x.clamp(picture - most, picture + most).clamp(0, 1)
    return x
''',
    known={
        "you raise the score": _evaded(way=1.0),
        "nothing keeps you near the picture": _evaded(limit=False),
        "values leave [0, 1]": _evaded(clamp=False),
        "you step by the slope, not by its sign": _evaded(sign=False),
        "you make one step": _evaded(once=True),
        "you stay near the last step, not near the picture": _evaded(around=False),
    },
)
def evade(report: Report, answer: Callable[..., Any]) -> None:
    """Against two small filters of random weights, whose slopes turn on the way."""
    for side in (4, 6):
        first, last = report.normal(8, 3 * side * side), report.normal(8)
        bend = 4 * report.normal(8)

        def score(x: Tensor, first: Tensor = first, last: Tensor = last, bend: Tensor = bend
                  ) -> Tensor:  # fmt: skip
            return last @ torch.sin(first @ (8 * x).flatten() + bend)

        given = score, report.uniform(3, side, side), 0.1, 0.03, 6
        report.equal(f"a filter of {side} × {side} pixels", answer, given, _evaded()(*given))
    given = score, report.uniform(3, side, side).round(), 0.2, 0.05, 5
    report.equal("black and white: nothing leaves [0, 1]", answer, given, _evaded()(*given))
