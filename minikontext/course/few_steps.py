"""Teacher and students side by side, with fewer and fewer steps and a clock: a widget."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence

import ipywidgets as W
from PIL import Image

from minikontext.course import samples
from minikontext.course.parts import Desk, Picture, fade, follow, row, show
from minikontext.pipeline import KontextPipeline
from minikontext.sampler import StepInfo

STEPS = (1, 2, 4, 8, 28)
PROMPTS = ("make it night", "make the hat red", "bring this cat to the beach at sunset")
SIDE = "112px"


class FewStepsWidget(Desk):
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
        self.pictures = samples.by_name(pictures)
        self.prompts, self.seconds = prompts, {}
        super().__init__()
        self._connect_desk()
        follow(self._forget, self.picture, self.prompt, self.seed)
        self._forget()

    # ---- parts

    def _make_controls(self) -> None:
        tip = "Edit with every weights and number of steps (Enter)"
        self._make_desk(self.prompts[0], ("Race", tip))
        self.prompt.continuous_update = False
        self._offer({words: lambda words=words: self._fill(words) for words in self.prompts})
        every = [(name, n) for name in self.pipes for n in self.counts]
        self.progress.max = len(every)
        self.boxes = {key: Picture(f"{key[0]}, {_steps(key[1])}") for key in every}
        self.clocks = {key: W.HTML() for key in every}

    def _arrange(self) -> list[W.Widget]:
        cells: list[W.Widget] = [W.HTML(), *(W.HTML(_text(_steps(n))) for n in self.counts)]
        for name in self.pipes:
            cells.append(W.HTML(_text(f"<b>{html.escape(name)}</b>")))
            for n in self.counts:
                self.boxes[name, n].layout.width = "100%"
                cells.append(W.VBox([self.boxes[name, n], self.clocks[name, n]]))
        columns = f"56px repeat({len(self.counts)}, minmax(0, {SIDE}))"
        grid = W.Layout(grid_template_columns=columns, grid_gap="6px", align_items="center")
        return [
            row([self.picture, self.seed]),
            self.asking,
            self.presets,
            W.GridBox(cells, layout=grid),
            self.working,
            self.status,
        ]

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, self.picture, self.prompt, self.seed, *self.presets.children)

    # ---- what the user does

    def _start(self) -> None:
        self._forget()
        super()._start()

    def _forget(self) -> None:
        """A dial was turned: the pictures no longer fit."""
        if self.at_work:
            return
        self.seconds.clear()
        for key, box in self.boxes.items():
            show(box, self.pictures[self.picture.value])
            fade(box, True)
            self.clocks[key].value = _text("–")
        self._say("idle", "Same prompt, same seed, same noise for all. Press Race.")

    # ---- the work

    def _work(self) -> None:
        """Edit again and again, the fewest steps first; the first pass of each is a warm-up."""
        for name, pipe in self.pipes.items():
            self._edit(pipe, 1)
            for steps in self.counts:
                self._say("busy", f"{name}: {_steps(steps)}")
                start = time.perf_counter()
                picture = self._edit(pipe, steps)
                self.seconds[name, steps] = time.perf_counter() - start
                show(self.boxes[name, steps], picture)
                fade(self.boxes[name, steps], False)
                self.clocks[name, steps].value = _text(f"{self.seconds[name, steps]:.2f} s")
                self.progress.value += 1
        slow, fast = max(self.seconds.values()), min(self.seconds.values())
        text = f"From {slow:.2f} s to {fast:.2f} s. Which is the first you would keep?"
        self._say_with_notes("done", text)

    def _edit(self, pipe: KontextPipeline, steps: int) -> Image.Image:
        picture = self.pictures[self.picture.value]
        settings = {"num_inference_steps": steps, "callback": self._step, "progress": False}
        return pipe(self.prompt.value, image=picture, seed=self.seed.value, **settings).images[0]

    def _step(self, info: StepInfo) -> bool:
        return not self._stop.is_set()  # the bar counts pictures

    def _cancelled(self) -> str:
        return f"Cancelled after {self.progress.value} of {self.progress.max} pictures."


def _steps(count: int) -> str:
    return "1 step" if count == 1 else f"{count} steps"


def _text(text: str) -> str:
    return f'<div class="mk-caption">{text}</div>'
