"""Rectified flow on points in the plane: everything can be seen, and the best field is known."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence

import ipywidgets as W
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from minikontext import flow, sampler
from minikontext.course import style
from minikontext.course.parts import TIGHT, Widget, choice, follow, plot_box, row, wide

LIMIT = 3.2  # the plane is shown from -LIMIT to LIMIT
SPREAD = 0.12  # of the points around an answer
EARLIEST = 1e-3  # below this time the field divides by next to nothing
TIMES = (1.0, 0.75, 0.5, 0.25, 0.0)
PANELS = (310, 326)  # widths of the widget's two pictures, in pixels


def answers(name: str, count: int = 240, seed: int = 0) -> Tensor:
    """Points (count, 2) that play the pictures; `name` is one of ANSWERS."""
    generator = torch.Generator().manual_seed(seed)
    centres = ANSWERS[name](torch.arange(count))
    return centres + SPREAD * torch.randn(count, 2, generator=generator)


def _one(i: Tensor) -> Tensor:
    return torch.tensor([1.6, 0.8]).expand(len(i), 2)


def _two(i: Tensor) -> Tensor:
    return torch.stack(((i % 2) * 4.0 - 2.0, torch.zeros(len(i))), dim=1)


def _ring(i: Tensor) -> Tensor:
    angle = 2 * math.pi * (i % 6) / 6
    return 2.2 * torch.stack((angle.cos(), angle.sin()), dim=1)


ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {"one": _one, "two": _two, "six": _ring}


def average_velocity(x: Tensor) -> sampler.Predict:
    """The best possible field for data points x (n, 2): the mean over all pairs through z at t.

    A pair (x_k, noise) passes through z at t if noise = (z - (1 - t) x_k) / t. Its weight is how
    likely that noise is. Returns predict(z (b, 2), t (b,)) -> (b, 2).
    """

    def predict(z: Tensor, t: Tensor) -> Tensor:
        t = t.clamp_min(EARLIEST)[:, None, None]
        noise = (z[:, None] - (1 - t) * x) / t  # (b, n, 2)
        weight = torch.softmax(-noise.square().sum(-1) / 2, dim=1)  # (b, n)
        return torch.einsum("bn,bnd->bd", weight, noise - x)

    return predict


def walk(predict: sampler.Predict, noise: Tensor, times: Tensor) -> Tensor:
    """Follow a field with Euler's method and keep every stop: (steps + 1, b, 2)."""
    stops = [noise]
    sampler.sample(predict, noise, times, lambda info: stops.append(info.latents))
    return torch.stack(stops)


# ---------------------------------------------------------------- figures


def plot_along(x: Tensor, noise: Tensor, times: Sequence[float] = TIMES, title: str = "") -> None:
    """The same pairs at several times: a cloud of noise becomes the data."""
    figure, axes = plt.subplots(1, len(times), figsize=(style.WIDEST, 1.75), sharey=True)
    for ax, t in zip(axes, times):
        z = flow.interpolate(x, noise, torch.full((len(x),), t))
        ax.scatter(*z.T, s=3, color=mixed(t), linewidths=0)
        _plane(ax, f"t = {t:g}")
    _head(figure, title)
    plt.show()


def plot_fields(predict: sampler.Predict, x: Tensor, times: Sequence[float], title: str) -> None:
    """Arrows of a field at several times, pointing from noise to data, where a sampler walks."""
    figure, axes = plt.subplots(1, len(times), figsize=(style.WIDEST, 2.5), sharey=True)
    for ax, t in zip(axes, times):
        _arrows(ax, predict, t)
        ax.scatter(*x.T, s=3, color=style.ACCENT, linewidths=0)
        _plane(ax, f"t = {t:g}")
    _head(figure, title)
    plt.show()


def plot_sides(paths: dict[str, tuple[Tensor, Tensor]], title: str = "") -> None:
    """Seen from the side: time to the right, the horizontal place of each point upwards.

    paths: name -> (times (k,), stops (k, b, 2)).
    """
    wide = style.WIDEST if len(paths) > 1 else style.FIGURE[0]
    figure, axes = plt.subplots(1, len(paths), figsize=(wide, 2.6), sharey=True, squeeze=False)
    for ax, (name, (times, stops)) in zip(axes[0], paths.items()):
        _side(ax, times, stops)
        ax.set_title(name, fontsize=9, fontweight="normal")
    axes[0, 0].set_ylabel("horizontal place")
    _head(figure, title)
    plt.show()


def mixed(t: float) -> tuple[float, ...]:
    """A colour between that of noise and that of data."""
    ends = [[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in (style.ACCENT, style.GREY)]
    return tuple((1 - t) * a + t * b for a, b in zip(*ends))


def _plane(ax: Axes, title: str) -> None:
    ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), aspect="equal", xticks=[], yticks=[])
    ax.set_title(title, fontsize=9, loc="center", fontweight="normal")


def _head(figure: Figure, title: str) -> None:
    if title:
        figure.suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")


def _arrows(ax: Axes, predict: sampler.Predict, t: float) -> None:
    line = torch.linspace(-LIMIT + 0.3, LIMIT - 0.3, 11)
    z = torch.cartesian_prod(line, line)  # (121, 2)
    v = -predict(z, torch.full((len(z),), t))
    v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-6) * v.norm(dim=1, keepdim=True).sqrt()
    ax.quiver(*z.T, *v.T, color=style.BLUE, angles="xy", scale=28, width=0.007)


def _side(ax: Axes, times: Tensor, stops: Tensor) -> None:
    for i in range(stops.shape[1]):
        end = style.BLUE if stops[-1, i, 0] > 0 else style.ACCENT
        ax.plot(times, stops[:, i, 0], color=end, linewidth=0.8)
    ax.set(xlim=(1.02, -0.02), ylim=(-LIMIT, LIMIT))
    ax.set_xlabel("t: noise → data")


# ---------------------------------------------------------------- widget


class FlowWidget(Widget):
    """Turn time, number of answers and number of steps, and watch points walk.

    Parts: answers, t, steps, seed, image (the plane), side, status.
    """

    def __init__(self, points: int = 80) -> None:
        self.points = points
        super().__init__()
        follow(self.show, self.answers, self.t, self.steps, self.seed)
        self.show()

    def _make_controls(self) -> None:
        small, large = ({"style": TIGHT, "layout": wide(w)} for w in ("140px", "318px"))
        self.answers = choice(list(ANSWERS), "Answers", "140px", "two")
        self.seed = W.BoundedIntText(0, 0, 2**31 - 1, description="Seed", **small)
        self.t = W.FloatSlider(
            0.5, min=0, max=1, step=0.01, description="Time t", readout_format=".2f", **large
        )
        self.steps = W.IntSlider(28, 1, 50, description="Steps", **large)
        self.image = plot_box("points and arrows in the plane", f"{PANELS[0]}px")
        self.side = plot_box("the paths of the points, seen from the side", f"{PANELS[1]}px")

    def _arrange(self) -> list[W.Widget]:
        dials = row([self.answers, self.seed]), row([self.t, self.steps])
        return [*dials, row([self.image, self.side]), self.status]

    def show(self) -> None:
        """Walk with these steps, and draw where the points are at time t and how they came."""
        x = answers(self.answers.value)
        generator = torch.Generator().manual_seed(self.seed.value)
        noise = torch.randn(self.points, 2, generator=generator)
        times = sampler.schedule(self.steps.value, shifted=False)
        stops = walk(average_velocity(x), noise, times)
        self.image.show(png(self._plane(x, times, stops)))
        self.side.show(png(self._paths(times, stops)))
        missed = torch.cdist(stops[-1], x).min(dim=1).values.gt(4 * SPREAD).sum()
        steps = "One step" if self.steps.value == 1 else f"{self.steps.value} steps"
        text = f"{steps}: {missed} of {self.points} points end where there is no data."
        self._say("idle", text)

    def _plane(self, x: Tensor, times: Tensor, stops: Tensor) -> Figure:
        figure, t = Figure(figsize=(PANELS[0] / 100, 3.0), layout="constrained"), self.t.value
        ax = figure.add_subplot()
        _arrows(ax, average_velocity(x), t)
        ax.scatter(*x.T, s=3, color=style.ACCENT, linewidths=0)
        ax.scatter(*between(times, stops, t).T, s=14, color=style.INK, linewidths=0)
        _plane(ax, f"the points at t = {t:.2f}, the data in red")
        return figure

    def _paths(self, times: Tensor, stops: Tensor) -> Figure:
        figure = Figure(figsize=(PANELS[1] / 100, 3.0), layout="constrained")
        ax = figure.add_subplot()
        _side(ax, times, stops)
        ax.axvline(self.t.value, color=style.INK, linewidth=1)
        ax.set_title("all the way, from the side", fontsize=9, loc="center", fontweight="normal")
        ax.set_ylabel("horizontal place", fontsize=8)
        return figure


def between(times: Tensor, stops: Tensor, t: float) -> Tensor:
    """Where the points are at time t, on their way from stop to stop: (b, 2)."""
    i = int((times[1:-1] >= t).sum())
    share = (times[i] - t) / (times[i] - times[i + 1])
    return torch.lerp(stops[i], stops[i + 1], share)


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, at the course's resolution."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=2 * style.DPI)
    return buffer.getvalue()
