"""Exercises of notebook 00."""

from collections.abc import Callable
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np
from torch import Tensor

from minikontext.course.checks import Report, exercise


@exercise
def count_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens of a target and its contexts, 16 × 16 pixels each; sides are filled up."""
    big, toy = (1024, 1024), (64, 64)
    report.equal("a 64 × 64 picture, no context", answer, (toy, []), 16)
    report.equal("a 1024 × 1024 edit, the real model's", answer, (big, [big]), 8192)
    odd = [(report.whole(low, low + 6), report.whole(low + 17, low + 24)) for low in (17, 55, 87)]
    report.equal(f"sizes as they come: {odd}", answer, (odd[0], odd[1:]))


def _traced(answer: Callable[..., Any]) -> Callable[..., Any]:
    """An answer to `edit_chain` whose result is what it asked a pipeline, and what it returned."""

    @wraps(answer)
    def traced(picture: str, prompts: list[str]) -> list[str]:
        asked: list[str] = []

        def pipe(prompt: str, image: Any = None, **rest: Any) -> SimpleNamespace:
            asked.append(f"{prompt!r} to {_called(image)}")
            name = f"output {len(asked)}"
            return SimpleNamespace(name=name, latents=name, images=[f"pixels of {name}"])

        returned = answer(pipe, picture, prompts)
        if not isinstance(returned, (list, tuple)):
            return [*asked, f"returned {_called(returned)}, not a list"]
        return [*asked, f"returned {', '.join(map(_called, returned))}"]

    return traced


def _called(value: Any) -> str:
    """Latents are as good as the output; a list of one image is that image."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(getattr(value, "name", value))


@exercise
def edit_chain(report: Report, answer: Callable[..., Any]) -> None:
    """Each edit starts from the output of the one before, never from pixels or the original."""
    traced = report.through(_traced, answer)
    words = ["make the hat red", "make it night", "remove the hat", "add a sign", "draw a cat"]
    for count in (1, report.whole(2, 3), report.whole(4, 5)):
        name = f"{count} edits" if count > 1 else "one edit"
        report.equal(name, traced, ("the picture", words[:count]))


@exercise
def change_outside(report: Report, answer: Callable[..., Any]) -> None:
    """Mean absolute change of the pixels outside a mask, in steps of 0 … 255."""
    before = np.full((4, 4, 3), 100, dtype=np.uint8)
    inside, after = np.zeros((4, 4), dtype=bool), before.copy()
    inside[:2], after[3, 3] = True, (90, 110, 100)
    report.equal("one pixel of eight changes by 10, 10 and 0", answer, (before, after, inside),
                 20 / 24)  # fmt: skip
    for name in ("random pictures and a random mask", "others, with another mask"):
        h, w = report.whole(5, 9), report.whole(5, 9)
        draw = np.random.default_rng(report.whole(0, 2**31 - 1))
        one, two = draw.integers(0, 256, (2, h, w, 3), dtype=np.uint8)
        mask = draw.random((h, w)) < 0.4
        mask[0, 0], mask[0, 1] = True, False
        report.equal(name, answer, (one, two, mask))


@exercise
def join_context(report: Report, answer: Callable[..., Any]) -> None:
    """Target and contexts in one sequence, and their ids in the same order."""
    sizes = [report.whole(2, 5) for _ in range(4)]
    target, *contexts = (report.normal(3, n, 4) for n in sizes)
    target_ids, *ids = (report.normal(n, 3) for n in sizes)
    alone = (target, target_ids, [], [])
    report.equal("no context: the target alone", answer, alone, (target, target_ids))
    two: list[Tensor] = contexts[:2]
    report.equal("two contexts", answer, (target, target_ids, two, ids[:2]))
    last = contexts[2][:1]
    report.equal("three contexts, the last one the same for the whole batch", answer,
                 (target, target_ids, [*two, last], ids))  # fmt: skip
