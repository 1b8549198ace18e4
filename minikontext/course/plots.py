"""Pictures and small plots for notebooks."""

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from minikontext import images as image_io
from minikontext.course import style


def show_images(
    pictures: Any, titles: Sequence[str] = (), columns: int | None = None, title: str = ""
) -> None:
    """Show pictures in a grid, each pixel a sharp square.

    pictures: one or a list of PIL images, uint8 arrays or pixels (3, h, w) in [-1, 1]; or a
    batch (b, 3, h, w). titles: one for each, or fewer.
    """
    pictures = as_pictures(pictures)
    axes = grid(len(pictures), columns, ratio=pictures[0].height / pictures[0].width)
    for ax, picture in zip(axes, pictures):
        ax.imshow(upscale(picture))
    for ax, text in zip(axes, titles):
        ax.set_title(text, fontsize=8, fontweight="normal", loc="center", wrap=True)
    finish(title)


def show_latents(latents: Tensor, columns: int | None = None, title: str = "") -> None:
    """Show the channels of one sample's latents (c, h, w) or (1, c, h, w): blue -, red +."""
    channels = latents.detach().float().cpu().reshape(-1, *latents.shape[-2:]).numpy()
    limit = float(np.abs(channels).max()) or 1.0
    axes = grid(len(channels), columns, ratio=channels.shape[1] / channels.shape[2])
    for i, (ax, channel) in enumerate(zip(axes, channels)):
        ax.imshow(channel, cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(str(i), fontsize=7, fontweight="normal", loc="center", pad=2)
    finish(title)


def bars(values: dict[str, float], title: str, label: str = "", lit: Sequence[str] = ()) -> None:
    """Show named numbers as horizontal bars; those named in `lit` in the accent colour."""
    _, ax = plt.subplots(figsize=(style.FIGURE[0], 0.45 + 0.32 * len(values)))
    colours = [style.ACCENT if name in lit else style.BLUE for name in values]
    drawn = ax.barh(list(values), list(values.values()), color=colours, height=0.65)
    ax.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(label)
    ax.set_title(title)
    plt.show()


def upscale(picture: Image.Image, side: int = 192) -> Image.Image:
    """Enlarge a small picture by a whole factor, without blur; large ones stay as they are."""
    factor = max(1, side // max(picture.size))
    size = (picture.width * factor, picture.height * factor)
    return picture.resize(size, Image.Resampling.NEAREST)


def as_pictures(pictures: Any) -> list[Image.Image]:
    """Turn any form of picture, or a list of them, into PIL images."""
    if isinstance(pictures, Tensor):
        return image_io.to_pil(pictures if pictures.ndim == 4 else pictures[None])
    if isinstance(pictures, Sequence) and not isinstance(pictures, str):
        return [one for picture in pictures for one in as_pictures(picture)]
    return [image_io.read(pictures)]


def grid(count: int, columns: int | None, ratio: float) -> list[Axes]:
    """Axes without ticks for `count` pictures of height = ratio * width; unused ones are hidden."""
    columns = min(count, columns or 8)
    rows = -(-count // columns)
    width = min(style.WIDEST, 1.75 * columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(width, rows * (width / columns * ratio + 0.22)),
    )
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.01, hspace=0.01)
    for ax in axes.flat:
        ax.set_axis_off()
    return list(axes.flat[:count])


def finish(title: str) -> None:
    """Give the figure its title and show it."""
    if title:
        plt.gcf().suptitle(title, fontsize=10, fontweight="bold", x=0.01, ha="left")
    plt.show()
