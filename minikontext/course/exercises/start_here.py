"""Exercises of notebook 00."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minikontext.course.checks import Report, exercise

Size = tuple[int, int]


@exercise(
    solution='''
def count_tokens(target, contexts):
    """target: (width, height) in pixels; contexts: a list of such pairs."""
    return sum(-(-w // 16) * -(-h // 16) for w, h in [target, *contexts])
''',
    known={
        "you leave the contexts out": lambda target, contexts: _tokens(target),
        "you forget that 2 × 2 latents make one token": lambda target, contexts: sum(
            math.ceil(w / 8) * math.ceil(h / 8) for w, h in [target, *contexts]
        ),
        "you count along one side only": lambda target, contexts: sum(
            math.ceil(w / 16) for w, h in [target, *contexts]
        ),
        "you divide areas by 256: a side is filled up to whole tokens first": lambda target,
        contexts: sum(w * h // 256 for w, h in [target, *contexts]),
        "you cut off what does not fill a token": lambda target, contexts: sum(
            w // 16 * (h // 16) for w, h in [target, *contexts]
        ),
        "you divide with / and never round": lambda target, contexts: sum(
            w / 16 * (h / 16) for w, h in [target, *contexts]
        ),
    }
)  # fmt: skip
def count_tokens(report: Report, answer: Callable[..., Any]) -> None:
    """Tokens of a target and its contexts, 16 × 16 pixels each; sides are filled up."""
    big, toy = (1024, 1024), (64, 64)
    report.equal("a 64 × 64 picture, no context", answer, (toy, []), 16)
    report.equal("a 1024 × 1024 edit, the real model's", answer, (big, [big]), 8192)
    odd = [(report.whole(17, 31), report.whole(33, 47)) for _ in range(3)]
    report.equal(f"sizes as they come: {odd}", answer, (odd[0], odd[1:]), sum(map(_tokens, odd)))


def _tokens(size: Size) -> int:
    return math.ceil(size[0] / 16) * math.ceil(size[1] / 16)


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


def _each_from(pick: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def chain(pipe: Callable[..., Any], picture: Any, prompts: Sequence[str]) -> list[Any]:
        outputs, source = [], picture
        for prompt in prompts:
            outputs.append(pipe(prompt, image=source))
            source = pick(picture, outputs[-1])
        return outputs

    return chain


def _forgets_the_picture(pipe: Any, picture: Any, prompts: Sequence[str]) -> list[Any]:
    outputs: list[Any] = []
    for prompt in prompts:
        outputs.append(pipe(prompt, image=outputs[-1] if outputs else None))
    return outputs


@exercise(
    solution='''
def edit_chain(pipe, picture, prompts):
    """Apply one prompt after the other, each to the output of the last edit."""
    outputs, source = [], picture
    for prompt in prompts:
        source = pipe(prompt, image=source)
        outputs.append(source)
    return outputs
''',
    known={
        "every edit starts from the original": _each_from(lambda picture, output: picture),
        "you go through pixels, `output.images[0]`": _each_from(
            lambda picture, output: output.images[0]
        ),
        "you return only the last output": lambda *args: _each_from(lambda picture, output: output)(
            *args
        )[-1],
        "you return the pictures, not the outputs": lambda *args: [
            x.images[0] for x in _each_from(lambda _, output: output)(*args)
        ],
        "the first edit has no picture": _forgets_the_picture,
    },
)
def edit_chain(report: Report, answer: Callable[..., Any]) -> None:
    """Each edit starts from the output of the one before, never from pixels or the original."""
    traced = report.through(_traced, answer)
    words = ["make the hat red", "make it night", "remove the hat", "add a sign", "draw a cat"]
    for count in (1, report.whole(2, 3), report.whole(4, 5)):
        prompts = words[:count]
        right = _traced(_each_from(lambda _, output: output))("the picture", prompts)
        name = f"{count} edits" if count > 1 else "one edit"
        report.equal(name, traced, ("the picture", prompts), right)


def _change(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return np.abs(after.astype(float) - before)


@exercise(
    solution='''
def change_outside(before, after, inside):
    """before, after: (h, w, 3) uint8 arrays; inside: (h, w) bool, True where change is allowed."""
    difference = np.abs(after.astype(float) - before.astype(float))
    return difference[~inside].mean()
''',
    known={
        "`uint8` wraps around: 3 − 5 is 254": lambda before, after, inside: np.abs(after - before)[
            ~inside
        ].mean(),
        "you look inside the mask": lambda before, after, inside: _change(before, after)[
            inside
        ].mean(),
        "you average over all pixels": lambda before, after, inside: _change(before, after).mean(),
        "you blank the inside, but still divide by all pixels": lambda before, after, inside: (
            _change(before, after) * ~inside[..., None]
        ).mean(),
        "you forget the sign": lambda before, after, inside: (after.astype(float) - before)[
            ~inside
        ].mean(),
        "you square": lambda before, after, inside: (_change(before, after)[~inside] ** 2).mean(),
        "you add up and do not divide": lambda before, after, inside: _change(before, after)[
            ~inside
        ].sum(),
    }
)  # fmt: skip
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
        report.equal(name, answer, (one, two, mask), float(_change(one, two)[~mask].mean()))


def _row(target: Tensor, target_ids: Tensor, contexts: Any, context_ids: Any) -> Any:
    copies = [x.expand(len(target), -1, -1) for x in (target, *contexts)]
    return torch.cat(copies, dim=1), torch.cat((target_ids, *context_ids))


@exercise(
    solution='''
def join_context(target, target_ids, contexts, context_ids):
    """target (b, n, c), target_ids (n, 3); lists of contexts (b or 1, m, c) and their ids (m, 3).

    Returns the tokens (b, n + m + …, c) and the ids (n + m + …, 3).
    """
    copies = [tokens.expand(len(target), -1, -1) for tokens in (target, *contexts)]
    return torch.cat(copies, dim=1), torch.cat([target_ids, *context_ids])
''',
    known={
        "you put the contexts first": lambda target, target_ids, contexts, context_ids: (
            torch.cat([*(x.expand(len(target), -1, -1) for x in contexts), target], dim=1),
            torch.cat([*context_ids, target_ids]),
        ),
        "you join the first context only": lambda target, target_ids, contexts, context_ids: _row(
            target, target_ids, contexts[:1], context_ids[:1]
        ),
        "you join the contexts last to first": lambda target, target_ids, contexts, context_ids: (
            _row(target, target_ids, contexts[::-1], context_ids[::-1])
        ),
        "one context is not repeated for the whole batch": lambda target, target_ids, contexts,
        context_ids: (
            torch.cat((target, *contexts), dim=1), torch.cat((target_ids, *context_ids))
        ),
        "the contexts' ids are left out": lambda target, target_ids, contexts, context_ids: (
            _row(target, target_ids, contexts, context_ids)[0], target_ids,
        ),
    }
)  # fmt: skip
def join_context(report: Report, answer: Callable[..., Any]) -> None:
    """Target and contexts in one sequence, and their ids in the same order."""
    sizes = [report.whole(2, 5) for _ in range(4)]
    target, *contexts = (report.normal(3, n, 4) for n in sizes)
    target_ids, *ids = (report.normal(n, 3) for n in sizes)
    alone = (target, target_ids, [], [])
    report.equal("no context: the target alone", answer, alone, (target, target_ids))
    for name, some in (
        ("two contexts", contexts[:2]),
        ("three contexts, the last one the same for the whole batch",
         [*contexts[:2], contexts[2][:1]]),
    ):  # fmt: skip
        given = (target, target_ids, some, ids[: len(some)])
        report.equal(name, answer, given, _row(*given))
