"""A training small enough to watch in a notebook: the package's loss and loop, a smaller net."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Sequence
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
from minikontext.course.parts import CSS, REPR, TIGHT, Working, button, row, wide
from minikontext.errors import MinikontextError
from minikontext.text import ToyTextConfig, ToyTextEncoder
from minikontext.toyworld import Case, sample_edit, score, vocabulary
from minikontext.training.data import Pairs, pixels, wordings
from minikontext.training.editor import TIMESTEPS, Editor, EditorTraining, editor_loss
from minikontext.training.loop import Loop, LoopConfig
from minikontext.transformer import KontextTransformer, TransformerConfig
from minikontext.velocity import Velocity

STEPS = 100_000  # more than any notebook has time for: the clock ends the training


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
    parts = [autoencoder.encode(pixels(scenes[i : i + 64])) for i in range(0, len(scenes), 64)]
    latents = dict(zip(scenes, torch.cat(parts)))
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
    z = sampler.sample(Velocity(model.transformer, text, [context]), noise, times)
    return image_io.to_pil(autoencoder.decode(z))


def success(model: Editor, autoencoder: AutoEncoder, cases: Sequence[Case]) -> float:
    """The share of cases that the oracle finds right."""
    made = edit(model, autoencoder, cases)
    return sum(score(picture, case).success for picture, case in zip(made, cases)) / len(cases)


class Stopped(Exception):
    """Cancel was pressed."""


class LiveLoop(Loop):
    """The package's loop without bar and checkpoints: ends with the clock, or when told to."""

    def run_until(self, loss: object, stop: threading.Event, on_step: object) -> None:
        """Train; calls on_step(self, metrics) after every step. Raises Stopped."""
        last = time.monotonic()
        while self.step < self.config.steps:
            metrics = self._one(loss)
            now = time.monotonic()
            self.seconds, last = self.seconds + now - last, now
            on_step(metrics)
            last = time.monotonic()  # drawing is not training
            if stop.is_set():
                raise Stopped


class LiveTraining(Working):
    """Trains an editor before your eyes: its loss, and some held-out edits getting better.

    `train(minutes)` runs here and now (interrupt the kernel to stop: nothing learned is lost).
    Parts: run, cancel, minutes, timesteps, rate, curve, edits, progress, status. After a training,
    `losses` holds (seconds, loss) of every step and `snapshots` (seconds, pictures).
    """

    def __init__(
        self,
        model: Editor,
        pairs: Pairs,
        autoencoder: AutoEncoder,
        examples: Sequence[Case],
        batch: int = 64,
        every: float = 5.0,
    ) -> None:
        self.model, self.pairs, self.autoencoder = model, pairs, autoencoder
        self.examples, self.batch, self.every = list(examples), batch, every
        self.losses: list[tuple[float, float]] = []
        self.snapshots: list[tuple[float, list[Image.Image]]] = []
        self._start_weights = {k: v.clone() for k, v in model.state_dict().items()}
        self._stop, self._thread = threading.Event(), threading.Thread()
        self._make_controls()
        super().__init__(self._arrange())
        self.add_class("mk")
        self.run.on_click(lambda _: self._start())
        self.cancel.on_click(lambda _: self._stop.set())
        self._busy(False)
        self._say("idle", "Press Train, or call train().")

    def __repr__(self) -> str:
        return REPR

    # ---- parts

    def _make_controls(self) -> None:
        same = {"style": TIGHT, "layout": wide("213px")}
        self.minutes = W.FloatSlider(
            1.0, min=0.1, max=5, step=0.1, description="Minutes", readout_format=".1f", **same
        )
        self.timesteps = W.Dropdown(options=TIMESTEPS, description="Times", **same)
        self.rate = W.FloatLogSlider(
            2e-3, base=10, min=-4, max=-1.5, step=0.1, description="Rate", **same
        )
        self.run = button("Train", "Train from nothing", "mk-run", "90px", "primary")
        self.cancel = button("Stop", "Stop and keep what was learned", "mk-quiet", "90px")
        self.progress = W.FloatProgress(0, min=0, max=1, layout=W.Layout(flex="1 1 auto"))
        self.progress.add_class("mk-bar")
        self.curve, self.edits = W.Image(format="png"), W.Image(format="png")
        self.curve.alt, self.edits.alt = "the loss so far", "held-out edits so far"
        for box in (self.curve, self.edits):
            box.layout.width, box.layout.object_fit = "664px", "contain"
            box.layout.display = "none"
        self.status = W.HTML()

    def _arrange(self) -> list[W.Widget]:
        hidden = W.HTML(CSS, layout=W.Layout(display="none"))
        self.working = W.HBox([self.progress, self.cancel], layout=W.Layout(align_items="center"))
        dials = row([self.minutes, self.timesteps, self.rate, self.run])
        return [hidden, dials, self.working, self.status, self.curve, self.edits]

    # ---- the work

    def train(self, minutes: float | None = None) -> LiveTraining:
        """Train from nothing for some minutes of the clock and return self."""
        if self._thread.is_alive():
            return self
        self._stop.clear()
        self.minutes.value = self.minutes.value if minutes is None else minutes
        self._work(self.minutes.value if minutes is None else minutes)
        return self

    def _start(self) -> None:
        if self._thread.is_alive():
            return
        self._stop.clear()
        self._busy(True)
        work = {"target": self._work, "args": (self.minutes.value,), "daemon": True}
        self._thread = threading.Thread(**work)
        self._thread.start()

    def _work(self, minutes: float) -> None:
        self._busy(True)
        try:
            self._train(minutes)
            self._say("done", f"Done: {self._seen()}.")
        except (Stopped, KeyboardInterrupt):
            self._say("note", f"Stopped; what was learned is kept: {self._seen()}.")
        except MinikontextError as error:
            self._say("error", str(error))
        except Exception as error:  # a widget must show what went wrong, whatever it was
            self._say("error", f"{type(error).__name__}: {error}")
        finally:
            self.model.eval()
            self._draw()
            self._busy(False)

    def _train(self, minutes: float) -> None:
        self.model.load_state_dict(self._start_weights)
        self.losses, self.snapshots, self._drawn = [], [], 0.0
        device = torch.device("cpu")
        how = EditorTraining(self.batch, timesteps=self.timesteps.value)
        null = self.model.text.tokenize([""])[0]
        loss = editor_loss(self.model.train(), self.pairs, null, how, device)
        rate = self.rate.value
        dials = LoopConfig(
            STEPS, lr=rate, muon_lr=2.5 * rate, warmup=STEPS // 40, decay=0.6, minutes=minutes
        )
        self._snap(0.0)
        with tempfile.TemporaryDirectory() as folder:
            loop = LiveLoop(self.model, dials, folder)
            loop.run_until(loss, self._stop, lambda metrics: self._one(loop, metrics))
        self._snap(loop.seconds)

    def _one(self, loop: Loop, metrics: dict[str, float]) -> None:
        """After each step: note the loss; now and then draw it, and try the examples."""
        self.losses.append((loop.seconds, metrics["loss"]))
        total = 60 * loop.config.minutes
        self.progress.value = min(1.0, loop.seconds / total)
        if loop.seconds - self._drawn < self.every:
            return
        self._drawn = loop.seconds
        self._say("busy", f"{self._seen()}, loss {self.recent():.3f}")
        taken = len(self.snapshots)  # at 0, 1/7 and 3/7 of the time, and at the end
        if taken < 3 and loop.seconds > (2**taken - 1) * total / 7:
            self._snap(loop.seconds)
        self._draw()

    def _snap(self, seconds: float) -> None:
        self.model.eval()
        self.snapshots.append((seconds, edit(self.model, self.autoencoder, self.examples)))
        self.model.train()

    # ---- what can be seen

    def recent(self, steps: int = 50) -> float:
        """The mean loss of the last steps."""
        last = [loss for _, loss in self.losses[-steps:]]
        return sum(last) / max(1, len(last))

    def _seen(self) -> str:
        seconds = self.losses[-1][0] if self.losses else 0
        return f"{len(self.losses) * self.batch} samples in {seconds:.0f} s"

    def plot(self) -> None:
        """Show the loss curve in the notebook."""
        _, ax = plt.subplots()
        self._curve(ax)
        ax.set_title(
            f"{len(self.losses) * self.batch} samples: from nothing to {self.recent():.2f}"
        )
        plt.show()

    def sheet(self) -> Image.Image:
        """The held-out examples: a row for each, from the picture given to the last attempt."""
        pictures, titles = [], []
        for i, case in enumerate(self.examples):
            pictures += [case.context_images()[0], *(made[i] for _, made in self.snapshots)]
            titles += [case.prompt, *(f"after {seconds:.0f} s" for seconds, _ in self.snapshots)]
        return plots.sheet(pictures, titles, columns=1 + len(self.snapshots))

    def _curve(self, ax: Axes) -> None:
        seconds, losses = (list(part) for part in zip(*self.losses)) if self.losses else ([], [])
        ax.plot(seconds, losses, color=style.PALE, linewidth=0.8)
        smooth = averaged(torch.tensor(losses)).tolist()
        ax.plot(seconds, smooth, color=style.BLUE)
        ax.set(xlabel="seconds of training", ylabel="loss", yscale="log")

    def _draw(self) -> None:
        figure = Figure(figsize=(6.64, 2.4), layout="constrained")
        self._curve(figure.subplots())
        self.curve.value = png(figure)
        self.edits.value = image_io.png_bytes(self.sheet())
        for box in (self.curve, self.edits):
            box.layout.display = ""

    def _busy(self, busy: bool) -> None:
        self.progress.value = 0.0
        self.working.layout.display = "flex" if busy else "none"
        for part in (self.run, self.minutes, self.timesteps, self.rate):
            part.disabled = busy


def averaged(values: Tensor, width: int = 25) -> Tensor:
    """A running mean over the last `width` values, (n,) -> (n,)."""
    if not len(values):
        return values
    total = torch.cat((torch.zeros(1), values.cumsum(0)))
    ends = torch.arange(1, len(values) + 1)
    starts = (ends - width).clamp_min(0)
    return (total[ends] - total[starts]) / (ends - starts)
