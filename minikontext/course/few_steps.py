"""Teacher and students side by side, with fewer and fewer steps and a clock: a widget."""

from __future__ import annotations

import html
import time
from collections.abc import Mapping, Sequence

import ipywidgets as W
from PIL import Image

from minikontext.course import samples
from minikontext.course.parts import (
    CSS,
    TIGHT,
    Working,
    button,
    chip,
    fade,
    on_run,
    picture_box,
    row,
    show,
    wide,
)
from minikontext.pipeline import KontextPipeline
from minikontext.sampler import StepInfo

STEPS = (1, 2, 4, 8, 28)
PROMPTS = ("make it night", "make the hat red", "bring this cat to the beach at sunset")
SIDE = "112px"


class FewStepsWidget(Working):
    """One prompt and seed through several weights, each with 1, 2, 4, 8 and 28 steps.

    Below each picture: the seconds it took here and now. Parts: picture, prompt, presets, seed,
    run, cancel, progress, status; `boxes` and `clocks` by (name of the weights, steps).
    """

    def __init__(
        self,
        pipes: Mapping[str, KontextPipeline],
        pictures: Mapping[str, Image.Image] | None = None,
        prompts: Sequence[str] = PROMPTS,
        steps: Sequence[int] = STEPS,
    ) -> None:
        self.pipes, self.counts = dict(pipes), tuple(steps)
        self.pictures = dict(pictures if pictures is not None else samples.pictures())
        self.seconds: dict[tuple[str, int], float] = {}
        self._make_controls(prompts)
        super().__init__(self._arrange())
        self._connect()
        self._forget()

    # ---- parts

    def _make_controls(self, prompts: Sequence[str]) -> None:
        first = next(iter(self.pictures))
        self.picture = W.Dropdown(options=list(self.pictures), value=first, layout=wide("190px"))
        self.seed = W.BoundedIntText(
            0, 0, 2**31 - 1, description="Seed", style=TIGHT, layout=wide("140px")
        )
        self.prompt = W.Text(prompts[0], placeholder="no words", layout=W.Layout(flex="1 1 auto"))
        self.prompt.continuous_update = False
        self.prompt.add_class("mk-prompt")
        self.presets = row([self._preset(prompt) for prompt in prompts])
        self.run = button("Race", "Edit with every weights and number of steps (Enter)", "mk-run",
                          "90px", "primary")  # fmt: skip
        self.cancel = button("Cancel", "Stop after the running step", "mk-quiet", "90px")
        every = [(name, n) for name in self.pipes for n in self.counts]
        self.progress = W.IntProgress(0, 0, len(every), layout=W.Layout(flex="1 1 auto"))
        self.progress.add_class("mk-bar")
        self.status = W.HTML()
        self.boxes = {key: picture_box(f"{key[0]}, {_steps(key[1])}") for key in every}
        self.clocks = {key: W.HTML() for key in every}

    def _preset(self, prompt: str) -> W.Button:
        made = chip(prompt)
        made.on_click(lambda _: setattr(self.prompt, "value", prompt))
        return made

    def _arrange(self) -> list[W.Widget]:
        self.working = W.HBox([self.progress, self.cancel], layout=W.Layout(align_items="center"))
        cells: list[W.Widget] = [W.HTML(), *(_caption(_steps(n)) for n in self.counts)]
        for name in self.pipes:
            cells.append(W.HTML(f'<div class="mk-caption"><b>{html.escape(name)}</b></div>'))
            for n in self.counts:
                self.boxes[name, n].layout.width = "100%"
                cells.append(W.VBox([self.boxes[name, n], self.clocks[name, n]]))
        columns = f"56px repeat({len(self.counts)}, minmax(0, {SIDE}))"
        grid = W.Layout(grid_template_columns=columns, grid_gap="6px", align_items="center")
        return [
            W.HTML(CSS, layout=W.Layout(display="none")),
            row([W.Label("Picture"), self.picture, self.seed]),
            W.HBox([self.prompt, self.run], layout=W.Layout(align_items="center")),
            self.presets,
            W.GridBox(cells, layout=grid),
            self.working,
            self.status,
        ]

    def _connect(self) -> None:
        on_run(self.prompt, self.run, self._start)
        self.cancel.on_click(lambda _: self._stop.set())
        for dial in (self.picture, self.prompt, self.seed):
            dial.observe(lambda _: self._forget(), "value")

    # ---- what the user does

    def _start(self) -> None:
        if not self.at_work:
            self._forget()
            self._begin(self._work)

    def _forget(self) -> None:
        """A dial was turned: the pictures no longer fit."""
        if self.at_work:
            return
        self.seconds.clear()
        for key, box in self.boxes.items():
            show(box, self.pictures[self.picture.value])
            fade(box, True)
            self.clocks[key].value = _text("–")
        self.working.layout.display = "none"
        self._say("idle", "Same prompt, same seed, same noise for all. Press Race.")

    # ---- the work

    def _work(self) -> None:
        """Edit again and again, the fewest steps first; the first pass of each is a warm-up."""
        for name, pipe in self.pipes.items():
            self._edit(pipe, 1)
            for steps in self.counts:
                self._say("busy", f"{name}: {_steps(steps)}")
                start = time.perf_counter()
                made = self._edit(pipe, steps)
                self.seconds[name, steps] = time.perf_counter() - start
                show(self.boxes[name, steps], made)
                fade(self.boxes[name, steps], False)
                self.clocks[name, steps].value = _text(f"{self.seconds[name, steps]:.2f} s")
                self.progress.value += 1
        slow, fast = max(self.seconds.values()), min(self.seconds.values())
        self._say("done", f"From {slow:.2f} s to {fast:.2f} s. Which is the first you would keep?")

    def _edit(self, pipe: KontextPipeline, steps: int) -> Image.Image:
        picture = self.pictures[self.picture.value]
        settings = {"num_inference_steps": steps, "callback": self._one, "progress": False}
        return pipe(self.prompt.value, image=picture, seed=self.seed.value, **settings).images[0]

    def _one(self, info: StepInfo) -> bool:
        return not self._stop.is_set()

    def _cancelled(self) -> str:
        return f"Cancelled after {self.progress.value} of {self.progress.max} pictures."

    def _busy(self, busy: bool) -> None:
        if busy:
            self.progress.value = 0
        self.working.layout.display = "flex" if busy else "none"
        for part in (self.run, self.picture, self.prompt, self.seed, *self.presets.children):
            part.disabled = busy


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _caption(text: str) -> W.HTML:
    return W.HTML(f'<div class="mk-caption">{text}</div>')


def _text(text: str) -> str:
    return f'<div class="mk-caption">{text}</div>'
