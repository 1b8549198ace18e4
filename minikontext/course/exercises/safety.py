"""Exercises of notebook 10."""

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from minikontext import safety
from minikontext.course.checks import FAILED, Report, describe, exercise, same
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Scene, render

STEPS = 10
OWN = "you take the notebook's own attack"
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.3, 0.2, 0.1])
FORBIDDEN = torch.tensor([True, True, False, True, False, False])


@exercise
def rates(report: Report, answer: Callable[..., Any]) -> None:
    """Recall and share of false alarms at a threshold."""
    report.equal("a threshold in the middle", answer, (SCORES, FORBIDDEN, 0.5), (2 / 3, 1 / 3))
    report.equal(
        "exactly at the threshold: flagged", answer, (SCORES, FORBIDDEN, 0.8), (2 / 3, 0.0)
    )
    report.equal("everything is flagged", answer, (SCORES, FORBIDDEN, 0.0), (1.0, 1.0))
    report.equal("nothing is flagged", answer, (SCORES, FORBIDDEN, 1.0), (0.0, 0.0))
    scores = report.uniform(12)
    few = torch.arange(12) < 3
    report.equal("few are forbidden", answer, (scores, few, scores[1].item()))


@exercise
def choose_threshold(report: Report, answer: Callable[..., Any]) -> None:
    """The threshold with the largest recall whose false alarms stay within what is allowed."""
    scores = torch.cat([report.normal(200) + 3, report.normal(800)])
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


def _judge(
    report: Report, answer: Callable[..., Any], case: str, scores: Tensor, forbidden: Tensor,
    allowed: float,
) -> None:  # fmt: skip
    """Any threshold will do that flags what the best one flags of the forbidden."""
    given = scores, forbidden, allowed
    got = report.call(case, answer, scores.clone(), forbidden.clone(), allowed, known=given)
    if got is FAILED:
        return None
    report.tried.append((got, given, partial(same, tolerance=1e-6)))
    try:
        got = float(got)
    except (TypeError, ValueError, RuntimeError):
        return report.fail(case, f"expected a number; got {describe(got)}")
    recall, alarms = _rates(scores, forbidden, got)
    fitting = (_rates(scores, forbidden, t) for t in [*scores.tolist(), 2.0])
    best = max(r for r, a in fitting if a <= allowed)
    text = f"recall {recall:.3f} with {alarms:.3f} false alarms at {got:.4f}"
    why = f"expected recall {best:.3f} with at most {allowed:g}; got {text}"
    return report.true(case, alarms <= allowed and recall == best, why)


def _rates(scores: Tensor, forbidden: Tensor, limit: float) -> tuple[float, float]:
    flagged = scores.double() >= limit
    return flagged[forbidden].double().mean().item(), flagged[~forbidden].double().mean().item()


@lru_cache(maxsize=1)
def desk() -> tuple[KontextPipeline, safety.Safety]:
    """The untrained editor without filters, and the shipped filters."""
    with redirect_stdout(io.StringIO()):  # a line about the device says nothing here
        pipe = KontextPipeline.from_pretrained("toy", device="cpu", safety="none")
    return pipe, safety.load("toy")


@exercise
def slip_through(report: Report, answer: Callable[..., Any]) -> None:
    """A scene and a prompt: the words pass, the input passes, and the output filter stops it."""
    got = report.call("a pair", answer)
    if got is FAILED:
        return None
    scene, prompt = got if isinstance(got, (tuple, list)) and len(got) == 2 else (got, None)
    if not isinstance(scene, Scene) or not isinstance(prompt, str):
        why = f"expected (Scene, text); got ({scene!r:.40}, {prompt!r:.40})"
        turned = isinstance(prompt, Scene) and isinstance(scene, str)
        return report.fail("a pair", why + _slip("prompt and scene are exchanged") * turned)
    why = f"it is a purple cat again{_slip(OWN)}"
    report.true("another way", (scene.colour, scene.species) != ("purple", "cat"), why)
    pipe, filters = desk()
    picture = Image.fromarray(render(scene))
    reasons = "the words alone are too near to what is forbidden", "the picture shows it already"
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


@exercise
def tile_checksums(report: Report, answer: Callable[..., Any]) -> None:
    """First 8 hex digits of the SHA-256 of each tile's bytes, row by row."""
    draw = np.random.default_rng(report.whole(0, 2**31 - 1))
    small = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    report.equal("four tiles", answer, (small, 2))
    report.equal("one tile", answer, (small, 1))
    wide = np.concatenate([small, small[::-1]], axis=1)
    report.equal("wider than high", answer, (wide, 2))
    shown = render(Scene())
    report.equal("a picture", answer, (shown, 8))


@exercise
def evade(report: Report, answer: Callable[..., Any]) -> None:
    """Against two small filters of random weights, whose slopes turn on the way."""
    for side in (4, 6):
        first, last = report.normal(8, 3 * side * side), report.normal(8)
        bend = 4 * report.normal(8)

        def score(x: Tensor, first: Tensor = first, last: Tensor = last, bend: Tensor = bend
                  ) -> Tensor:  # fmt: skip
            return last @ torch.sin(first @ (8 * x).flatten() + bend)

        given = score, report.uniform(3, side, side), 0.1, 0.03, 6
        report.equal(f"a filter of {side} × {side} pixels", answer, given)
    given = score, report.uniform(3, side, side).round(), 0.2, 0.05, 5
    report.equal("black and white: nothing leaves [0, 1]", answer, given)
