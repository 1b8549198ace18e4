"""The sampler's path, step by step: a widget to scrub through it, and its schedule drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets as W
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from minikontext import images as image_io
from minikontext import sampler
from minikontext.course import samples, style
from minikontext.course.parts import (
    THIRD,
    TIGHT,
    Desk,
    Picture,
    captioned,
    fade,
    follow,
    plot_box,
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
    picture = image_io.read(picture)
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
    conditional, unconditional = (
        Denoiser(
            pipe.transformer,
            pipe.text_encoder.encode([text]).to(pipe.device, pipe.dtype),
            [context],
            guidance_scale=pipe.defaults.guidance_scale,
        )
        for text in (prompt, "")
    )
    return sampler.guided(conditional, unconditional, guidance)


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


class TrajectoryWidget(Desk):
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
        self.pictures = samples.by_name(pictures)
        self.path: Trajectory | None = None
        self._frames: dict[tuple[int, str], Image.Image] = {}
        self.prompts = prompts
        super().__init__()
        self._connect_desk()
        self.prompt.continuous_update = False
        follow(self._forget, *self._turned())
        follow(self.show, self.step)
        W.jslink((self.play, "value"), (self.step, "value"))
        self._forget()

    # ---- parts

    def _make_controls(self) -> None:
        self._make_desk(self.prompts[0], ("Sample", "Run the sampler (Enter)"))
        self._offer({words: lambda words=words: self._fill(words) for words in self.prompts})
        self._make_dials()
        self.play = W.Play(value=1, min=1, max=1, interval=180, show_repeat=False)
        self.step = W.IntSlider(1, 1, 1, description="Step", style=TIGHT, layout=wide("480px"))
        self.line = plot_box(
            "the schedule: the values of t that the sampler visits, from noise to clean",
            f"{STRIP[0]}px",
        )
        names = ("the picture to edit", "the latents after the step", "the estimate at the step")
        self.before, self.noisy, self.image = map(Picture, names)

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

    def _turned(self) -> tuple[W.Widget, ...]:
        return (self.picture, self.prompt, self.steps, self.shift, self.guidance, self.seed)

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, *self._turned(), *self.presets.children)

    def _arrange(self) -> list[W.Widget]:
        names = ("the picture", "z: what the sampler holds", "z − t v: what it expects")
        boxes = (self.before, self.noisy, self.image)
        for box in boxes:
            box.layout.width = "206px"
        self.scrub = row([self.play, self.step])
        return [
            row([self.picture, self.seed]),
            self.asking,
            self.presets,
            row([self.steps, self.shift, self.guidance]),
            W.VBox([self.line, W.HTML(f'<div class="mk-ends">{ENDS}</div>')]),
            captioned(boxes, names),
            self.scrub,
            self.working,
            self.status,
        ]

    # ---- what the user does

    @property
    def size(self) -> image_io.Size:
        """Pixels (width, height) of the chosen picture inside the model."""
        d, size = self.pipe.defaults, self.pictures[self.picture.value].size
        return image_io.plan(size, "kontext", d.multiple, d.sizes).working

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
        self.scrub.layout.display = "none"
        times = sampler.schedule(self.steps.value, mu=self.shift.value)
        self.line.show(image_io.png_bytes(strip(times)))
        self._say_words("The dots are the values of t it will visit. Press Sample.")

    def _start(self) -> None:
        self._forget()
        super()._start()

    # ---- the work

    def _work(self) -> None:
        """Sample, then show the last step."""
        picture = self.pictures[self.picture.value]
        dials = (self.steps.value, self.shift.value, self.guidance.value, self.seed.value)
        self._done(trajectory(self.pipe, self.prompt.value, picture, *dials, self._step))

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
        self.line.show(image_io.png_bytes(strip(self.path.times, info.step)))
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
