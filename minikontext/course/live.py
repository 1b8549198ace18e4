"""A training small enough to watch in a notebook: the package's loss and loop, a smaller net."""

from __future__ import annotations

import html
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import ipywidgets as W
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from minikontext import images as image_io
from minikontext import sampler
from minikontext.autoencoder import AutoEncoder
from minikontext.course import plots, style
from minikontext.course.flow_pictures import png
from minikontext.course.parts import (
    THIRD,
    TIGHT,
    Working,
    button,
    choice,
    plot_box,
    row,
    wide,
)
from minikontext.denoiser import Denoiser
from minikontext.errors import Cancelled
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Case, sample_edit, score, vocabulary
from minikontext.training.data import Pairs, pixels, wordings
from minikontext.training.editor import TIMESTEPS, Editor, EditorLossConfig, editor_loss
from minikontext.training.loop import Loop, LoopConfig, LossFunction
from minikontext.transformer import KontextTransformer, TransformerConfig

TICKS = (0.1, 0.2, 0.5, 1, 2)  # of the loss
CSS = style.sheet("live")


def small() -> TransformerConfig:
    """The toy transformer's code with less of everything: it learns one edit in two minutes."""
    sizes = {"hidden_size": 96, "axes_dim": (4, 10, 10), "depth": 1, "depth_single_blocks": 2}
    return replace(TransformerConfig.toy(), **sizes)


def new_editor(seed: int = 0, sizes: TransformerConfig | None = None) -> Editor:
    """An editor that has learned nothing yet."""
    torch.manual_seed(seed)
    sizes = sizes or small()
    words = ToyTextConfig(
        vocabulary=vocabulary(), depth=1, width=sizes.context_in_dim, pooled=sizes.vec_in_dim
    )
    net = KontextTransformer(sizes).init_weights(torch.Generator().manual_seed(seed))
    return Editor(net, ToyTextEncoder(words))


@torch.no_grad()
def encode_pairs(
    autoencoder: AutoEncoder, text: ToyTextEncoder, level: int = 1, count: int = 2000, seed: int = 0
) -> Pairs:
    """`count` training cases of a level with one context each; every picture is encoded once."""
    cases = [sample_edit(i, level, seed=seed) for i in range(count)]
    scenes = list(dict.fromkeys(s for case in cases for s in (case.target, case.contexts[0])))
    chunks = [autoencoder.encode(pixels(scenes[i : i + 64])) for i in range(0, len(scenes), 64)]
    latents = dict(zip(scenes, torch.cat(chunks)))
    return Pairs(
        target=torch.stack([latents[case.target] for case in cases]),
        contexts=torch.stack([latents[case.contexts[0]][None] for case in cases]),
        count=torch.ones(count, dtype=torch.long),
        tokens=torch.stack([text.tokenize(wordings(case)) for case in cases]),
        index=torch.arange(count),
    )


@torch.no_grad()
def edit(
    model: Editor, autoencoder: AutoEncoder, cases: Sequence[Case], steps: int = 8
) -> list[Image.Image]:
    """Edit cases of one context each with an editor; case i gets seed i."""
    context = autoencoder.encode(pixels([case.contexts[0] for case in cases]))
    text = model.text(model.text.tokenize([case.prompt for case in cases]))
    draws = (torch.Generator().manual_seed(i) for i in range(len(cases)))
    noise = torch.cat([torch.randn(1, *context.shape[1:], generator=draw) for draw in draws])
    times = sampler.schedule(steps, num_target_tokens=context[0, 0].numel() // 4)
    z = sampler.sample(Denoiser(model.transformer, text, [context]), noise, times)
    return image_io.to_pil(autoencoder.decode(z))


def success(model: Editor, autoencoder: AutoEncoder, cases: Sequence[Case]) -> float:
    """The share of cases that the oracle finds right."""
    edited = edit(model, autoencoder, cases)
    return sum(score(picture, case).success for picture, case in zip(edited, cases)) / len(cases)


class LiveLoop(Loop):
    """The package's loop without bar and checkpoints; it ends early when told to."""

    def run_until(self, loss: LossFunction, on_step: Callable[[dict[str, float]], bool]) -> None:
        """Train to the last step, or until on_step(metrics) is false. Raises Cancelled."""
        while self.step < self.config.steps:
            began = time.monotonic()
            metrics = self._one(loss)
            self.seconds += time.monotonic() - began  # drawing is not training
            if not on_step(metrics):
                raise Cancelled


class LiveTraining(Working):
    """Trains an editor before your eyes: its loss, and some held-out edits getting better.

    `train(steps)` runs here and now (interrupt the kernel to stop: nothing learned is lost).
    Parts: run, cancel, steps, timesteps, rate, curve, edits, progress, status. After a training,
    `losses` holds the loss of every step, `snapshots` (steps, pictures) and `seconds` its time.
    """

    def __init__(
        self,
        model: Editor,
        pairs: Pairs,
        autoencoder: AutoEncoder,
        examples: Sequence[Case],
        batch: int = 32,
        every: float = 3.0,
        empty_prompts: float = 0.08,
    ) -> None:
        self.empty_prompts = empty_prompts  # the share of samples that learn without words
        self.model, self.pairs, self.autoencoder = model, pairs, autoencoder
        self.examples, self.batch, self.every = list(examples), batch, every
        self.losses: list[float] = []
        self.snapshots: list[tuple[int, list[Image.Image]]] = []
        self.seconds = 0.0
        self._start_weights = {k: v.clone() for k, v in model.state_dict().items()}
        super().__init__()
        self.cancel.description, self.cancel.tooltip = "Stop", "Stop and keep what was learned"
        self.run.on_click(lambda _: self._start())
        self._say("idle", "Press Train, or call train().")

    css = CSS

    # ---- parts

    def _make_controls(self) -> None:
        same = {"style": TIGHT, "layout": wide(THIRD)}
        self.steps = W.IntSlider(240, min=20, max=1000, step=20, description="Steps", **same)
        self.timesteps = choice(TIMESTEPS, "Draw t", THIRD)
        self.rate = W.FloatLogSlider(
            2e-3, base=10, min=-4, max=-1.5, step=0.1, description="Rate", readout_format=".4f",
            **same,
        )  # fmt: skip
        self.run = button("Train", "Train from nothing", "mk-run", "90px", "primary")
        self.curve, self.edits = plot_box("the loss so far"), W.HTML()
        self.seen = W.VBox([self.curve, self.edits], layout=W.Layout(display="none"))

    def _arrange(self) -> list[W.Widget]:
        dials = row([self.steps, self.timesteps, self.rate, self.run])
        return [dials, self.working, self.status, self.seen]

    def _dials(self) -> Iterable[W.Widget]:
        return (self.run, self.steps, self.timesteps, self.rate)

    # ---- the work

    def train(self, steps: int | None = None) -> LiveTraining:
        """Train from nothing, for as many steps as the slider says, and return self."""
        if not self.at_work:
            self.steps.value = steps or self.steps.value
            self._stop.clear()
            self._busy(True)
            self._guarded()
        return self

    def _work(self) -> None:
        try:
            self._train(self.steps.value)
            self._say("done", f"Done: {self._seen()}.")
        finally:
            self.model.eval()
            self._draw()

    def _cancelled(self) -> str:
        return f"Stopped; what was learned is kept: {self._seen()}."

    def _train(self, steps: int) -> None:
        self.model.load_state_dict(self._start_weights)
        self.losses, self.snapshots, self.seconds, self._drawn = [], [], 0.0, 0.0
        how, dials = self.settings(steps)
        null = self.model.text.tokenize([""])[0]
        loss = editor_loss(self.model.train(), self.pairs, null, how, torch.device("cpu"))
        self._snap()
        with tempfile.TemporaryDirectory() as folder:
            loop = LiveLoop(self.model, dials, folder)
            loop.run_until(loss, lambda metrics: self._one(loop, metrics["loss"]))

    def settings(self, steps: int) -> tuple[EditorLossConfig, LoopConfig]:
        """What a training of so many steps sets, beside what the sliders say."""
        how = EditorLossConfig(
            self.batch, empty_prompts=self.empty_prompts, timesteps=self.timesteps.value
        )
        rate, warmup = self.rate.value, steps // 40
        return how, LoopConfig(steps, lr=rate, muon_lr=2.5 * rate, warmup=warmup, decay=0.6)

    def _one(self, loop: Loop, loss: float) -> bool:
        """After each step: note the loss; now and then draw it, and try the examples."""
        self.losses.append(loss)
        self.seconds, self.progress.value = loop.seconds, loop.step
        # Four tries: at 0, 1/7 and 3/7 of the steps, and at the end.
        if loop.step >= (2 ** len(self.snapshots) - 1) * loop.config.steps / 7:
            self._snap()
        if self.seconds - self._drawn > self.every:
            self._drawn = self.seconds
            self._say("busy", f"{self._seen()}, loss {self.recent():.3f}")
            self._draw()
        return not self._stop.is_set()

    def _snap(self) -> None:
        self.model.eval()
        edited = edit(self.model, self.autoencoder, self.examples)
        self.snapshots.append((len(self.losses), edited))
        self.model.train()

    # ---- what can be seen

    def recent(self, steps: int = 50) -> float:
        """The mean loss of the last steps."""
        last = self.losses[-steps:]
        return sum(last) / max(1, len(last))

    def _seen(self) -> str:
        return f"{len(self.losses)} of {self.progress.max} steps in {self.seconds:.0f} s"

    def plot(self) -> None:
        """Show the loss curve in the notebook."""
        _, ax = plt.subplots()
        self._curve(ax)
        ax.set_title(
            f"{len(self.losses) * self.batch:,} samples: from nothing to {self.recent():.2f}"
        )
        plt.show()

    def show_tries(self, title: str = "") -> None:
        """Show the held-out examples: a row each, from the picture given to the last attempt."""
        pictures, titles = zip(*(one for row in self._tries() for one in row))
        plots.show_images(pictures, titles, 1 + len(self.snapshots), title)

    def _tries(self) -> list[list[tuple[Image.Image, str]]]:
        return [
            [(case.context_images()[0], case.prompt)]
            + [(edited[i], f"after {steps} steps") for steps, edited in self.snapshots]
            for i, case in enumerate(self.examples)
        ]

    def _curve(self, ax: Axes) -> None:
        ax.plot(self.losses, color=style.PALE, linewidth=0.8)
        ax.plot(averaged(torch.tensor(self.losses)), color=style.BLUE)
        ax.set(xlabel=f"steps of {self.batch} samples", ylabel="loss", yscale="log")
        ax.minorticks_off()
        ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])

    def _draw(self) -> None:
        figure = Figure(figsize=(style.PLOT, 2.2), layout="constrained")
        self._curve(figure.subplots())
        self.curve.show(png(figure))
        self.edits.value = tries(self._tries())
        self.seen.layout.display = "flex"

    def _busy(self, busy: bool) -> None:
        super()._busy(busy)
        self.progress.max = self.steps.value


def tries(rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> str:
    """Rows of small pictures, each below its name, as HTML in the colours of the theme."""
    figures = [
        f'<figure><figcaption class="mk-caption">{html.escape(name)}</figcaption><img '
        f'src="{image_io.data_url(picture)}" alt="{html.escape(name, quote=True)}"></figure>'
        for row in rows
        for picture, name in row
    ]
    columns = f"grid-template-columns: repeat({len(rows[0])}, minmax(0, 122px))"
    return f'<div class="mk-tries" style="{columns}">{"".join(figures)}</div>'


def averaged(values: Tensor, width: int = 25) -> Tensor:
    """A running mean over the last `width` values, (n,) -> (n,)."""
    if not len(values):
        return values
    total = torch.cat((torch.zeros(1), values.cumsum(0)))
    ends = torch.arange(1, len(values) + 1)
    starts = (ends - width).clamp_min(0)
    return (total[ends] - total[starts]) / (ends - starts)
