"""The widget of notebook 09: leaf through a benchmark's answers, the failures first."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

import ipywidgets as W
import numpy as np
from PIL import Image

from minikontext.bench.oracle_bench import edit_all
from minikontext.course.parts import (
    TIGHT,
    Picture,
    Widget,
    button,
    caption,
    choice,
    follow,
    row,
    show,
    wide,
)
from minikontext.pipeline import KontextPipeline
from minikontext.toyworld import Case, Score, score
from minikontext.toyworld.scene import ATTRIBUTES

ALL = "every category"
FILTERS = {"failures": False, "successes": True, "both": None}
PARTS = ("followed", "preserved", "identity")
SIDE = "124px"  # five stand side by side
GAP, NARROW = 8, 560  # pixels between two of them; below this width they take two rows


@dataclass(frozen=True)
class Answer:
    """One case of a benchmark, the picture that an editor made of it, and what the oracle says."""

    case: Case
    picture: Image.Image
    score: Score

    @property
    def missed(self) -> list[str]:
        """Which of followed, preserved and identity it fails."""
        return [part for part in PARTS if not getattr(self.score, part)]

    @property
    def misread(self) -> dict[str, tuple[str, str]]:
        """What the picture shows and should not: attribute -> (shown, wanted)."""
        wanted, shown = self.case.target, self.score.read
        free = {f"{name}_colour" for name in self.case.free} | set(self.case.free)
        return {
            name: (getattr(shown, name), getattr(wanted, name))
            for name in ATTRIBUTES
            if name not in free and getattr(shown, name) != getattr(wanted, name)
        }


def answer_all(pipe: KontextPipeline, cases: Sequence[Case], **call: object) -> list[Answer]:
    """Edit and score cases; `call` goes to the pipeline."""
    pictures = edit_all(pipe, list(cases), quiet=True, **call)
    return [Answer(c, p, score(p, c)) for c, p in zip(cases, pictures, strict=True)]


def difference(a: Image.Image, b: Image.Image) -> Image.Image:
    """Where two pictures differ: white is equal, the darker the farther apart (twice enlarged)."""
    apart = np.abs(np.asarray(a).astype(int) - np.asarray(b)).max(-1)
    return Image.fromarray((255 - (2 * apart).clip(0, 255)).astype(np.uint8)).convert("RGB")


class FailuresWidget(Widget):
    """Leaf through answers: contexts, answer, right answer, where they differ, and why it failed.

    Parts: category, kind, back, forward, place, boxes (by name), status; `shown` is the Answer on
    show, or None where none is left.
    """

    def __init__(self, answers: Sequence[Answer]) -> None:
        self.answers = list(answers)
        super().__init__()
        follow(self._choose, self.category, self.kind)
        follow(self._show, self.place)
        self.back.on_click(lambda _: self._turn(-1))
        self.forward.on_click(lambda _: self._turn(1))
        self._choose()

    def _make_controls(self) -> None:
        tasks = sorted({answer.case.task for answer in self.answers})
        choices = [(self._count(task), task) for task in (ALL, *tasks)]
        self.category = choice(choices, "Category", "300px", ALL)
        self.kind = W.ToggleButtons(options=FILTERS, value=False, style={"button_width": "100px"})
        self.back = button("‹", "The answer before", "mk-quiet", "40px")
        self.forward = button("›", "The next answer", "mk-quiet", "40px")
        self.place = W.IntSlider(
            0, 0, 0, readout=False, description="Answer", style=TIGHT, layout=wide("220px")
        )
        self.boxes = {n: Picture(n) for n in ("input", "second", "answer", "right", "differs")}
        self.boxes["differs"].add_class("mk-plot")  # white is 0, and dark in the dark theme
        self.prompt = W.HTML()

    def _count(self, task: str) -> str:
        mine = self._of(task)
        failed = sum(not answer.score.success for answer in mine)
        return f"{task}: {failed} of {len(mine)} fail"

    def _of(self, task: str) -> list[Answer]:
        return [a for a in self.answers if task in (ALL, a.case.task)]

    def _arrange(self) -> list[W.Widget]:
        for box in self.boxes.values():
            box.layout.width, box.layout.max_width = "100%", SIDE
        names = ("input", "second input", "answer", "a right answer", "where they differ")
        pictures = zip(self.boxes.values(), names, strict=True)
        columns = [W.VBox([box, caption(name)]) for box, name in pictures]
        self.columns = W.GridBox(columns, layout=W.Layout(grid_gap=f"{GAP}px"))
        return [
            row([self.category, self.kind]),
            row([self.back, self.place, self.forward]),
            self.prompt,
            self.columns,
            self.status,
        ]

    def _show_only(self, names: Sequence[str]) -> None:
        """Show these pictures, with their captions; the others take no room."""
        self.columns.layout.grid_template_columns = balanced(len(names))
        for name, column in zip(self.boxes, self.columns.children, strict=True):
            column.layout.display = None if name in names else "none"

    def _choose(self) -> None:
        """Another category or kind: start at its first answer."""
        kind = self.kind.value
        mine = self._of(self.category.value)
        self.chosen = [a for a in mine if kind is None or a.score.success == kind]
        self.place.max = max(len(self.chosen) - 1, 0)
        self.place.value = 0
        self._show()

    def _turn(self, by: int) -> None:
        self.place.value = min(max(self.place.value + by, 0), self.place.max)

    @property
    def shown(self) -> Answer | None:
        """The answer on show."""
        return self.chosen[self.place.value] if self.chosen else None

    def _show(self) -> None:
        answer = self.shown
        self.back.disabled = self.place.value == 0
        self.forward.disabled = self.place.value >= self.place.max
        if answer is None:
            self._show_only(())
            self.prompt.value = ""
            self._say("idle", "Nothing of this kind: choose another.")
            return
        self._fill(answer)

    def _fill(self, answer: Answer) -> None:
        contexts, right = answer.case.context_images(), answer.case.target_image()
        pictures = {"answer": answer.picture, "right": right}
        pictures["differs"] = difference(answer.picture, right)
        pictures |= dict(zip(("input", "second"), contexts))
        self._show_only(list(pictures))
        for name, picture in pictures.items():
            show(self.boxes[name], picture)
        number = f"{self.place.value + 1} of {len(self.chosen)}"
        words = html.escape(f"{number} · {answer.case.task} · “{answer.case.prompt}”")
        self.prompt.value = f"<b>{words}</b>"
        self._say("done" if answer.score.success else "error", describe(answer))


def balanced(count: int) -> str:
    """Columns (CSS) for pictures in one row, or in two where it is narrow: none stands alone."""
    half = count if count < 4 else -(-count // 2)
    shares = [f"(100% - {GAP * (n - 1) + 1}px) / {n}" for n in (max(count, 1), max(half, 1))]
    # Below NARROW the product is huge and the smaller one is the half; above, it is negative.
    least = f"max({shares[0]}, min({shares[1]}, ({NARROW}px - 100%) * 1000))"
    return f"repeat(auto-fit, minmax({least}, 1fr))"


def describe(answer: Answer) -> str:
    """Why the oracle passes or fails an answer, in a sentence."""
    if answer.score.success:
        return "Passes: followed, preserved, and still the same character."
    misread = [
        f"{name.replace('_', ' ')} is {shown or 'empty'}, not {wanted or 'empty'}"
        for name, (shown, wanted) in answer.misread.items()
    ]
    names = {"followed": "instruction", "preserved": "preservation", "identity": "identity"}
    why = ", ".join(misread) or "the pixels are too far off"
    return f"Fails: {', '.join(names[part] for part in answer.missed)}. Read by the oracle: {why}."
