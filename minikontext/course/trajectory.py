"""The sampler's path, step by step: a widget to scrub through it, and its schedule drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as W
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minikontext import images as image_io
from minikontext import sampler
from minikontext.course import samples, style
from minikontext.course.parts import (
    CSS,
    THIRD,
    TIGHT,
    Working,
    button,
    captioned,
    chip,
    fade,
    on_run,
    picture_box,
    row,
    show,
    wide,
)
from minikontext.denoiser import PATCH, Denoiser
from minikontext.flow import mu_for_tokens
from minikontext.pipeline import KontextPipeline
from minikontext.sampler import StepInfo

STRIP = (664, 28)  # pixels of the drawn schedule, as it is shown
ENDS = "".join(f"<span>{text}</span>" for text in ("t = 1: noise", "t = 0.5", "t = 0: clean"))
MEMORY = 256  # decoded frames that are kept
PROMPTS = ("make the hat red", "make it night", "change the background to the beach", "")


@dataclass(frozen=True)
class Trajectory:
    """What one run of the sampler went through: its times (steps + 1,) and what each step saw."""

    times: Tensor
    steps: list[StepInfo]
    plan: image_io.ResizePlan


@torch.no_grad()
def trajectory(
    pipe: KontextPipeline,
    prompt: str,
    picture: Image.Image,
    steps: int = 28,
    mu: float | None = None,
    guidance: float = 1.0,
    seed: int = 0,
    callback: Callable[[StepInfo], object] | None = None,
) -> Trajectory:
    """Edit a picture and keep every step; `mu=None` takes the pipeline's own shift.

    `callback` may stop the run as in `sampler.sample`, which then raises Cancelled.
    """
    plan = image_io.plan(picture.size, "kontext", pipe.defaults.multiple, pipe.defaults.sizes)
    context = pipe.encode(plan.apply(picture))
    noise = pipe.noise([seed], *plan.working)
    tokens = noise.shape[-1] * noise.shape[-2] // PATCH**2
    times = sampler.schedule(steps, num_target_tokens=tokens, mu=mu)
    seen: list[StepInfo] = []

    def keep(info: StepInfo) -> object:
        seen.append(info)
        return callback(info) if callback else None

    sampler.sample(predictor(pipe, prompt, context, guidance), noise, times, keep)
    return Trajectory(times, seen, plan)


def predictor(
    pipe: KontextPipeline, prompt: str, context: Tensor, guidance: float = 1.0
) -> sampler.Predict:
    """The velocity of a prompt beside its context (1, c, h, w), guided away from no prompt."""
    given, nothing = (
        Denoiser(
            pipe.transformer,
            pipe.text_encoder.encode([text]).to(pipe.device, pipe.dtype),
            [context],
            guidance_scale=pipe.defaults.guidance_scale,
        )
        for text in (prompt, "")
    )
    return sampler.guided(given, nothing, guidance)


def strip(times: Sequence[float] | Tensor, current: int = 0) -> Image.Image:
    """Draw a schedule on a line, noise at the left; step `current` (1 ...) in the accent colour."""
    scale = 2  # drawn twice as large as shown, for sharp screens
    (w, h), pad, y = STRIP, 14, 14
    page = Image.new("RGB", (w * scale, h * scale), style.PAPER)
    draw = ImageDraw.Draw(page)

    def at(t: float) -> float:
        return scale * (pad + (1 - float(t)) * (w - 2 * pad))

    draw.line((at(1), y * scale, at(0), y * scale), fill=style.PALE, width=4 * scale)
    values = [float(t) for t in times]
    if current:
        ends = (at(values[current - 1]), y * scale, at(values[current]), y * scale)
        draw.line(ends, fill=style.ACCENT, width=4 * scale)
    for i, t in enumerate(values):
        lit, r = i == current and current > 0, 4 * scale
        colour = style.ACCENT if lit else style.BLUE
        draw.ellipse((at(t) - r, y * scale - r, at(t) + r, y * scale + r), fill=colour)
    return page


class TrajectoryWidget(Working):
    """Sample once, then go back and forth through the steps.

    Parts: picture, prompt, run, cancel, presets, steps, shift, guidance, seed, progress, status,
    step, play, line, before, noisy, image. After a run, `path` holds the trajectory.
    """

    def __init__(
        self,
        pipe: KontextPipeline,
        pictures: Mapping[str, Image.Image] | None = None,
        prompts: Sequence[str] = PROMPTS,
    ) -> None:
        self.pipe = pipe
        self.pictures = dict(pictures if pictures is not None else samples.pictures())
        self.path: Trajectory | None = None
        self._frames: dict[tuple[int, str], Image.Image] = {}
        self._make_controls(prompts)
        super().__init__(self._arrange())
        self._connect()
        self._forget()

    # ---- parts

    def _make_controls(self, prompts: Sequence[str]) -> None:
        first = next(iter(self.pictures))
        self.picture = W.Dropdown(options=list(self.pictures), value=first, layout=wide("190px"))
        self.prompt = W.Text(prompts[0], placeholder="no words", layout=W.Layout(flex="1 1 auto"))
        self.prompt.add_class("mk-prompt")
        self.run = button("Sample", "Run the sampler (Enter)", "mk-run", "90px", "primary")
        self.cancel = button("Cancel", "Stop after the running step", "mk-quiet", "90px")
        self.presets = row([self._preset(prompt) for prompt in prompts])
        self._make_dials()
        self.progress = W.IntProgress(0, 0, 1, layout=W.Layout(flex="1 1 auto", margin="0 8px 0 0"))
        self.progress.add_class("mk-bar")
        self.status = W.HTML()
        self.play = W.Play(value=1, min=1, max=1, interval=180, show_repeat=False)
        self.step = W.IntSlider(1, 1, 1, description="Step", style=TIGHT, layout=wide("480px"))
        self.line = W.Image(format="png", layout=W.Layout(width=f"{STRIP[0]}px"))
        self.line.alt = "the schedule: the values of t that the sampler visits, from noise to clean"
        names = ("the picture to edit", "the latents after the step", "the estimate at the step")
        self.before, self.noisy, self.image = (picture_box(name) for name in names)

    def _make_dials(self) -> None:
        same = {"style": TIGHT, "layout": wide(THIRD), "continuous_update": True}
        side = self.pipe.noise([0], *self.size).shape
        own = round(mu_for_tokens(side[-1] * side[-2] // PATCH**2), 2)
        self.steps = W.IntSlider(
            self.pipe.defaults.num_inference_steps, 1, 50, description="Steps", **same
        )
        self.shift = W.FloatSlider(
            own, min=-2, max=4, step=0.01, description="Shift μ", readout_format=".2f", **same
        )
        self.guidance = W.FloatSlider(
            self.pipe.defaults.true_cfg_scale, min=0, max=10, step=0.5, description="Guidance",
            readout_format=".1f", **same,
        )  # fmt: skip
        self.seed = W.BoundedIntText(
            0, 0, 2**31 - 1, description="Seed", style=TIGHT, layout=wide("140px")
        )

    def _preset(self, prompt: str) -> W.Button:
        made = chip(prompt or "(no words)")
        made.on_click(lambda _: self._fill(prompt))
        return made

    def _arrange(self) -> list[W.Widget]:
        names = ("the picture", "z: what the sampler holds", "z − t v: what it expects")
        boxes = (self.before, self.noisy, self.image)
        for box in boxes:
            box.layout.width = "206px"
        self.working = W.HBox([self.progress, self.cancel], layout=W.Layout(align_items="center"))
        self.scrub = row([self.play, self.step])
        return [
            W.HTML(CSS, layout=W.Layout(display="none")),
            row([W.Label("Picture"), self.picture, self.seed]),
            W.HBox([self.prompt, self.run], layout=W.Layout(align_items="center")),
            self.presets,
            row([self.steps, self.shift, self.guidance]),
            W.VBox([self.line, W.HTML(f'<div class="mk-ends">{ENDS}</div>')]),
            captioned(boxes, names),
            self.scrub,
            self.working,
            self.status,
        ]

    def _connect(self) -> None:
        on_run(self.prompt, self.run, self._start)
        self.cancel.on_click(lambda _: self._stop.set())
        self.prompt.continuous_update = False
        for dial in (self.picture, self.prompt, self.steps, self.shift, self.guidance, self.seed):
            dial.observe(lambda _: self._forget(), "value")
        self.step.observe(lambda _: self.show(), "value")
        W.jslink((self.play, "value"), (self.step, "value"))

    # ---- what the user does

    @property
    def size(self) -> image_io.Size:
        """Pixels (width, height) of the chosen picture inside the model."""
        d, size = self.pipe.defaults, self.pictures[self.picture.value].size
        return image_io.plan(size, "kontext", d.multiple, d.sizes).working

    def _fill(self, prompt: str) -> None:
        self.prompt.value = prompt

    def _forget(self) -> None:
        """A dial was turned: show the new times; the old path no longer fits."""
        if self.at_work:
            return
        self.path = None
        self._frames.clear()
        picture = self.pictures[self.picture.value]
        for box in (self.before, self.noisy, self.image):
            show(box, picture)
        for box in (self.noisy, self.image):
            fade(box, True)
        self.scrub.layout.display = self.working.layout.display = "none"
        times = sampler.schedule(self.steps.value, mu=self.shift.value)
        self.line.value = image_io.png_bytes(strip(times))
        reports = self.pipe.text_encoder.report(self.prompt.value)
        text = " ".join(map(str, reports)) or "The dots are the values of t it will visit."
        self._say("note" if reports else "idle", f"{text} Press Sample.")

    def _start(self) -> None:
        if not self.at_work:
            self._forget()
            self._begin(self._work)

    # ---- the work

    def _work(self) -> None:
        """Sample, then show the last step."""
        picture = self.pictures[self.picture.value]
        dials = (self.steps.value, self.shift.value, self.guidance.value, self.seed.value)
        self._done(trajectory(self.pipe, self.prompt.value, picture, *dials, self._one))

    def _one(self, info: StepInfo) -> bool:
        self.progress.max, self.progress.value = info.steps, info.step
        self._say("busy", f"Step {info.step} of {info.steps}")
        return not self._stop.is_set()

    def _done(self, path: Trajectory) -> None:
        self.path = path
        self.step.max = self.play.max = len(path.steps)
        self.step.value = self.play.value = len(path.steps)
        for box in (self.noisy, self.image):
            fade(box, False)
        self.scrub.layout.display = "flex"
        self.show()

    # ---- what the user sees

    def show(self) -> None:
        """Show the chosen step: latents, estimate, and its place in the schedule."""
        if self.path is None:
            return
        info = self.path.steps[self.step.value - 1]
        show(self.noisy, self._frame(info, "latents"))
        show(self.image, self._frame(info, "clean"))
        self.line.value = image_io.png_bytes(strip(self.path.times, info.step))
        t_next = self.path.times[info.step].item()
        text = f"Step {info.step} of {info.steps}: from t = {info.t:.3f} to {t_next:.3f}."
        self._say_with_notes("done", text)

    def _frame(self, info: StepInfo, what: str) -> Image.Image:
        """A decoded picture; decoded once."""
        key = (info.step, what)
        if key not in self._frames:
            if len(self._frames) >= MEMORY:
                self._frames.clear()
            decoded = self.pipe.decode(getattr(info, what))[0]
            self._frames[key] = self.path.plan.undo(decoded)
        return self._frames[key]

    def _busy(self, busy: bool) -> None:
        if busy:
            self.progress.value = 0
            self._say("busy", "Reading the picture and the prompt …")
        self.working.layout.display = "flex" if busy else "none"
        dials = (self.picture, self.prompt, self.steps, self.shift, self.guidance, self.seed)
        for part in (self.run, *dials, *self.presets.children):
            part.disabled = busy
