"""Pictures of patches that can be clicked, and how weights are shown: maps, bars and words."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as W
import torch
import traitlets
from PIL import Image
from torch import Tensor

from minikontext import images as image_io
from minikontext.course import browser, parts, style
from minikontext.course.sequence import colour_of
from minikontext.runtime.log import markup

CSS = style.sheet("patches")


def heat(weights: Tensor, top: float, colour: str) -> Image.Image:
    """Weights (rows, cols) as a picture of one hue: paper is 0, the full colour `top`."""
    share = (weights / max(top, 1e-9)).clamp(0, 1)[..., None]
    full = torch.tensor([int(colour[i : i + 2], 16) for i in (1, 3, 5)]).float()
    paper = torch.tensor([238.0, 241.0, 245.0])
    mixed = torch.lerp(paper, full, share).round().to(torch.uint8)
    return Image.fromarray(mixed.numpy())


class PatchPicture(W.Box):
    """A picture under a grid of buttons: click a patch, or go there by arrow keys and press Enter.

    `chosen` is its (row, col); `cells[row, col]` is its button.
    """

    chosen = traitlets.Tuple(traitlets.Int(), traitlets.Int(), default_value=(0, 0))

    def __init__(
        self, alt: str, rows: int, cols: int, what: str = "row {}, column {}", css: str = "mk-map"
    ) -> None:
        self.image, self.grid, self.what = parts.Picture(alt, css), W.GridBox(), what
        self.cells: dict[tuple[int, int], W.Button] = {}
        self.grid.add_class("mk-patches")
        super().__init__([self.image, self.grid, W.HTML(browser.script("patches"))])
        self.add_class("mk-stack")
        self.divide(rows, cols)

    def divide(self, rows: int, cols: int) -> None:
        """Lay a grid of rows × cols buttons over the picture."""
        places = [(r, c) for r in range(rows) for c in range(cols)]
        self.cells = {place: self.cells.get(place) or self._cell(*place) for place in places}
        parts.swap(self.grid, list(self.cells.values()))
        self.grid.layout.grid_template_columns = f"repeat({cols}, 1fr)"
        self.grid.layout.grid_template_rows = f"repeat({rows}, 1fr)"

    def _cell(self, row: int, col: int) -> W.Button:
        first = (row, col) == (0, 0)
        cell = W.Button(tooltip=self.what.format(row + 1, col + 1), tabbable=first)
        cell.add_class("mk-patch")
        cell.on_click(lambda _: self.set_trait("chosen", (row, col)))
        return cell

    def show(self, picture: Image.Image) -> None:
        """Show a picture in its own size."""
        self.image.show(image_io.png_bytes(picture))
        self.layout.width, self.layout.height = (f"{side}px" for side in picture.size)


def share_bar(names: Sequence[str], shares: Sequence[float], first: int = 0) -> str:
    """One bar cut into shares, in the colours of the parts from number `first` on."""
    cuts = []
    for i, (name, share) in enumerate(zip(names, shares), start=first):
        text = html.escape(f"{name} {share:.0%}")
        colour = colour_of(i)
        css = f"flex: {share:.4f} 0 0; background: {colour}; color: {style.text_on(colour)}"
        label = text if share >= 0.025 * len(text) / 2 else ""  # what fits
        cuts.append(f'<div style="{css}" title="{text}">{label}</div>')
    return f'<div class="mk-shares">{"".join(cuts)}</div>'


def chips(words: Sequence[str], weights: Sequence[float]) -> str:
    """The words, each as bright as the attention it gets; padding is one chip."""
    pads = [w for word, w in zip(words, weights) if word == "<pad>"]
    pairs = [pair for pair in zip(words, weights) if pair[0] != "<pad>"]
    if pads:
        pairs.append((f"{len(pads)} × <pad>", sum(pads)))
    shown = [
        f'<span style="{_shaded(weight)}" title="{weight:.1%}">{markup(word)}</span>'
        for word, weight in pairs
    ]
    return f'<div class="mk-words">{"".join(shown)}</div>'


def _shaded(weight: float) -> str:
    """Gold over paper, the stronger the more weight, under ink: readable in either theme."""
    share = min(1.0, weight) ** 0.5
    ends = [[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in (style.PAPER, style.GOLD)]
    mixed = (round(a + share * (b - a)) for a, b in zip(*ends))
    return f"color: {style.INK}; background: #{''.join(f'{x:02x}' for x in mixed)}"
