"""Sheets of pictures and small plots for notebooks."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from IPython import get_ipython
from IPython.display import Image as Shown
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from minikontext import images as image_io
from minikontext.course import style

PAGE, TILE, GAP, LINE = 720, 192, 10, 15  # pixels: widest sheet, largest tile, space, text line


def show_images(
    pictures: Any, titles: Sequence[str] = (), columns: int | None = None, title: str = ""
) -> None:
    """Show pictures in a grid; small ones are enlarged by whole factors, so pixels stay sharp.

    pictures: one or a list of PIL images, uint8 arrays or pixels (3, h, w) in [-1, 1]; or a
    batch (b, 3, h, w). titles: one for each, or fewer.
    """
    page = sheet(pictures, titles, columns, title)
    show(page, told(title, *(caption.replace("\n", " ") for caption in titles)))


def show(page: Image.Image, text: str) -> None:
    """Show a sheet, with a text for a reader who cannot see it.

    What `paste` put on it is opaque, and all else nearly: by this the dark theme tells them apart.
    """
    opaque = Image.new("L", page.size, style.GROUND)
    for box in page.info.get("pictures", ()):
        opaque.paste(255, box)
    page = page.copy()
    page.putalpha(opaque)
    display(Shown(image_io.png_bytes(page), format="png", alt=text))


def paste(page: Image.Image, tile: Image.Image, place: tuple[int, int]) -> None:
    """Put a picture on a sheet: its colours stay in the dark theme."""
    page.paste(tile, place)
    box = (*place, place[0] + tile.width, place[1] + tile.height)
    page.info.setdefault("pictures", []).append(box)


def show_latents(latents: Tensor, columns: int = 8, title: str = "") -> None:
    """Show the channels of one sample's latents (c, h, w) or (1, c, h, w): blue -, red +."""
    channels = latents.detach().float().cpu().reshape(-1, *latents.shape[-2:])
    limit = channels.abs().max().item() or 1.0
    pictures = [colours(channel, limit) for channel in channels]
    show_images(pictures, [str(i) for i in range(len(pictures))], columns, title)


def bars(values: dict[str, float], title: str, label: str = "", lit: Sequence[str] = ()) -> None:
    """Show named numbers as horizontal bars; those named in `lit` in the accent colour."""
    figure, ax = plt.subplots(figsize=(style.FIGURE[0], 0.45 + 0.32 * len(values)))
    figure.set_label(told(title, label, *(f"{name}: {x:.3g}" for name, x in values.items())))
    painted = [style.ACCENT if name in lit else style.BLUE for name in values]
    drawn = ax.barh(list(values), list(values.values()), color=painted, height=0.65)
    ax.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    ax.margins(x=0.12)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(label)
    ax.set_title(title)
    plt.show()


def stacked_bars(
    ax: Axes, rows: dict[str, dict[str, float]], colours: dict[str, str], limit: float | None = None
) -> None:
    """Draw named rows of named parts as stacked bars with a legend; a dashed line is the limit."""
    lefts = [0.0] * len(rows)
    for name, colour in colours.items():
        sizes = [row[name] for row in rows.values()]
        ax.barh(list(rows), sizes, left=lefts, color=colour, label=name, height=0.6)
        lefts = [left + size for left, size in zip(lefts, sizes)]
    if limit:
        ax.axvline(limit, color=style.INK, linestyle="--", linewidth=1)
        ax.set_xlim(0, max(1.25 * limit, 1.05 * max(lefts)))
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.figure.legend(ncols=3, fontsize=8, loc="outside lower center")


def told(*parts: str) -> str:
    """A text for a reader who cannot see a picture, of all that is written on it, once each."""
    return "; ".join(dict.fromkeys(part for part in parts if part))


def told_by(figure: Figure) -> str:
    """What a plot's label says, or else its titles, axes and legend."""
    parts = [figure.get_suptitle()]
    for ax in figure.axes:
        parts += [ax.get_title(loc) for loc in ("left", "center", "right")]
        parts += [f"{name}: {text}" for name in "xy" if (text := getattr(ax, f"get_{name}label")())]
        parts += ax.get_legend_handles_labels()[1]
    return str(figure.get_label()) or told(*parts)


def with_texts() -> None:
    """From now on a notebook keeps with each plot the text that `told_by` gives."""
    import matplotlib_inline.backend_inline  # noqa: F401  later it would choose formats anew

    pngs = get_ipython().display_formatter.formatters["image/png"]
    drawn = pngs.type_printers.get(Figure)  # none where plots are no pictures

    def described(figure: Figure) -> tuple[str, dict[str, Any]]:
        found = drawn(figure)
        png, metadata = found if isinstance(found, tuple) else (found, {})
        return png, {**metadata, "alt": told_by(figure)}

    if drawn:
        pngs.for_type(Figure, described)


def sheet(
    pictures: Any, titles: Sequence[str] = (), columns: int | None = None, title: str = ""
) -> Image.Image:
    """Draw what `show_images` shows as one picture, at most PAGE pixels wide."""
    pictures = as_pictures(pictures)
    columns = min(len(pictures), columns or 5)
    side = min(TILE, (PAGE + GAP) // columns - GAP)
    tiles = [fit(picture, side) for picture in pictures]
    wide, high = (max(getattr(tile, name) for tile in tiles) for name in ("width", "height"))
    captions = [wrap(text, wide + GAP // 2) for text in titles]
    text_high = LINE * max((len(lines) for lines in captions), default=0) + 3 * bool(captions)
    top, row = (LINE + GAP if title else 0), high + text_high + GAP
    size = (columns * (wide + GAP) + GAP, top + row * -(-len(tiles) // columns) + GAP)
    page = Image.new("RGB", (max(size[0], _width(title, bold=True) + 2 * GAP), size[1]), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP // 2), title, fill=style.INK, font=_font(bold=True))
    for i, tile in enumerate(tiles):
        x, y = GAP + i % columns * (wide + GAP), GAP + top + i // columns * row
        paste(page, tile, (x + (wide - tile.width) // 2, y + text_high))
        for k, line in enumerate(captions[i] if i < len(captions) else []):
            place = (x + wide / 2, y + text_high - 3 - LINE * (len(captions[i]) - k))
            draw.text(place, line, fill=style.INK, font=_font(), anchor="ma")
    return page


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Bring a picture to a tile: larger by a whole factor, without blur, or smaller with it."""
    factor = side // max(picture.size)
    if factor >= 1:
        size = (picture.width * factor, picture.height * factor)
        return picture.resize(size, Image.Resampling.NEAREST)
    shrunk = picture.copy()
    shrunk.thumbnail((side, side), Image.Resampling.LANCZOS)
    return shrunk


def colours(channel: Tensor, limit: float) -> Image.Image:
    """One channel (h, w) as a picture: blue is -limit, white 0, red +limit."""
    scaled = (channel / limit).clamp(-1, 1) * 0.5 + 0.5
    painted = matplotlib.colormaps["RdBu_r"](scaled.numpy(), bytes=True)
    return Image.fromarray(np.ascontiguousarray(painted[..., :3]))


def as_pictures(pictures: Any) -> list[Image.Image]:
    """Turn any form of picture, or a list of them, into PIL images."""
    if isinstance(pictures, Tensor):
        return image_io.to_pil(pictures if pictures.ndim == 4 else pictures[None])
    if isinstance(pictures, Sequence) and not isinstance(pictures, str):
        return [one for picture in pictures for one in as_pictures(picture)]
    return [image_io.read(pictures)]


def wrap(text: str, width: int) -> list[str]:
    """Break a caption into lines of at most `width` pixels; a single long word may stick out."""
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split(" "):
            longer = f"{line} {word}".strip()
            if line and _width(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _width(text: str, bold: bool = False) -> int:
    return int(_font(bold).getlength(text)) + 1


@lru_cache(maxsize=2)
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    """The font of the plots, which comes with matplotlib."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, 12)
