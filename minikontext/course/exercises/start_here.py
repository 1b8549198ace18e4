"""Exercises of notebook 00."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from minikontext.course.checks import Report, exercise


@exercise
def count_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens of a target and its contexts, 16 × 16 pixels each."""
    big, toy = (1024, 1024), (64, 64)
    report.equal("a 64 × 64 picture, no context", answer, (toy, []), 16)
    report.equal("a 64 × 64 edit: target and context", answer, (toy, [toy]), 32)
    report.equal("a 1024 × 1024 edit, the real model's", answer, (big, [big]), 8192)
    report.equal("two contexts of other sizes", answer, (toy, [(96, 48), (32, 32)]), 16 + 18 + 4)


@exercise
def edit_chain(report: Report, answer: Callable[..., Any]) -> None:
    """Each edit starts from the output of the one before, never from pixels or the original."""
    calls: list[tuple[str, Any]] = []
    results = [SimpleNamespace(images=[f"picture {i}"], latents=f"latents {i}") for i in range(3)]

    def pipe(prompt: str, image: Any = None, **rest: Any) -> SimpleNamespace:
        calls.append((prompt, image))
        return results[len(calls) - 1]

    prompts = ["make the hat red", "make it night", "remove the hat"]
    outputs = answer(pipe, "the picture", list(prompts))
    report.true("one edit for each prompt, in order", [c[0] for c in calls] == prompts,
                f"expected the prompts {prompts}, got {[c[0] for c in calls]}")  # fmt: skip
    sources = [call[1] for call in calls] + [None] * 3
    report.true("the first edit starts from the picture", sources[0] == "the picture",
                f"expected image='the picture', got {sources[0]!r}")  # fmt: skip
    follows = sources[1] is results[0] and sources[2] is results[1]
    report.true("each further edit starts from the last output", follows,
                f"expected image=output of the edit before, got {sources[1:3]!r}")  # fmt: skip
    same = isinstance(outputs, list) and [id(o) for o in outputs] == [id(r) for r in results]
    report.true("all outputs are returned, in a list", same,
                f"expected a list of 3 outputs, got {outputs!r}")  # fmt: skip


@exercise
def change_outside(report: Report, answer: Callable[..., Any]) -> None:
    """Mean absolute change of the pixels outside a mask, in steps of 0 … 255."""
    before = np.full((4, 4, 3), 100, dtype=np.uint8)
    inside = np.zeros((4, 4), dtype=bool)
    inside[:2] = True
    after = before.copy()
    report.equal("two equal pictures", answer, (before, after, inside), 0.0)
    after[0, 0] = 250
    report.equal("a change inside the mask does not count", answer, (before, after, inside), 0.0)
    after[3, 3] = (90, 110, 100)
    report.equal("one pixel of eight changes by 10, 10 and 0", answer, (before, after, inside),
                 20 / 24)  # fmt: skip
    black, white = np.zeros_like(before), np.full_like(before, 255)
    report.equal("uint8 must not wrap around", answer, (black, white, inside), 255.0)
