"""What positions alone do to attention: pictures of rotary embedding, and a widget."""

from __future__ import annotations

import io
from collections.abc import Sequence

import ipywidgets as W
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw
from torch import Tensor

from minikontext import rope, tokens
from minikontext.course import parts, style
from minikontext.course.patches import CSS, PatchPicture, heat, share_bar
from minikontext.course.sequence import colour_of

THETA = 10_000
HEADS = {  # name -> channels for virtual time, row, column
    "16 channels: 4 + 6 + 6": (4, 6, 6),
    "48, the toy: 8 + 20 + 20": (8, 20, 20),
    "128, FLUX: 16 + 56 + 56": (16, 56, 56),
}
CONTENTS = {  # name -> how much lies in the channels of each axis, and in how many pairs of them
    "in all channels": ((1, 1, 1), None),
    "in each axis's fastest pair": ((1, 1, 1), 1),
    "in virtual time's channels": ((1, 0, 0), None),
    "in row's and column's channels": ((0, 1, 1), None),
}
WISHES = {"its own place": 0, "the same place, context 1": 1}  # name -> virtual time it looks for
ROWS, SIDE = 8, 208


def position_logits(
    query: Sequence[int],
    ids: Tensor,
    axes_dim: Sequence[int] = HEADS["48, the toy: 8 + 20 + 20"],
    content: str = "in all channels",
    wish: int = 0,
) -> Tensor:
    """Attention logits of a token at `query` (3,) for tokens at `ids` (n, 3) of equal content.

    Query and key have the length sqrt(d), as after QK norm, so its own place gets sqrt(d).
    content: which channels hold it, a name in CONTENTS. A `wish` of 1 is a head whose queries look
    one virtual time step ahead. -> (n,)
    """
    x = _token(axes_dim, *CONTENTS[content])
    d = x.shape[-1]
    place = torch.tensor([query]) + torch.tensor([wish, 0, 0])
    q = rope.rotate(x, rope.rotations(place, axes_dim, THETA))
    k = rope.rotate(x.expand(1, 1, len(ids), d), rope.rotations(ids, axes_dim, THETA))
    return (q @ k.mT)[0, 0, 0] / d**0.5


def _token(axes_dim: Sequence[int], axes: Sequence[int], pairs: int | None) -> Tensor:
    """Equal numbers in the chosen channels, of the length sqrt(d): (1, 1, 1, d)."""
    weight = torch.zeros(sum(axes_dim))
    for part, share, n in zip(weight.split(list(axes_dim)), axes, axes_dim):
        part[: n if pairs is None else 2 * pairs] = share
    return (weight * (len(weight) / weight.sum()).sqrt()).view(1, 1, 1, -1)


def position_attention(
    query: tuple[int, int],
    offset: int,
    grid: tuple[int, int] = (ROWS, ROWS),
    **settings: object,
) -> list[Tensor]:
    """Where the target's token (row, col) looks by position alone: target, context (rows, cols).

    `offset` is the context's virtual time; the others are those of `position_logits`.
    """
    ids = [tokens.position_ids(*grid, index=index) for index in (0, offset)]
    weights = position_logits((0, *query), torch.cat(ids), **settings).softmax(dim=0)
    return [part.view(grid) for part in weights.chunk(2)]


def draw_map(
    weights: Tensor, top: float, part: int, chosen: tuple[int, int] | None = None, side: int = SIDE
) -> Image.Image:
    """One grid of weights in the colour of its part, with a frame around the chosen token."""
    rows, cols = weights.shape
    step = side // max(rows, cols)
    page = heat(weights, top, colour_of(part))
    page = page.resize((cols * step, rows * step), Image.Resampling.NEAREST)
    if chosen is not None:
        corner = (chosen[1] * step, chosen[0] * step)
        box = (*corner, corner[0] + step - 1, corner[1] + step - 1)
        ImageDraw.Draw(page).rectangle(box, outline=style.INK, width=2)
    return page


def draw_maps(query: tuple[int, int], offset: int, **settings: object) -> list[Image.Image]:
    """The maps of target and context on one scale, as the widget shows them."""
    target, context = position_attention(query, offset, **settings)
    top = max(target.max().item(), context.max().item())
    return [draw_map(target, top, 1, query), draw_map(context, top, 2, query)]


def draw_curve(offset: int, size: int = SIDE, **settings: object) -> Image.Image:
    """Logit of the same place in a picture against that picture's virtual time."""
    times = torch.arange(13)
    ids = torch.stack([times, 0 * times, 0 * times], dim=1)
    logits = position_logits((0, 0, 0), ids, **settings).tolist()
    figure = Figure(figsize=(size / 100, size / 100), dpi=200, layout="constrained")
    ax = figure.add_subplot()
    ax.plot(times, logits, color=style.GREY, marker="o", markersize=3, linewidth=1)
    ax.plot(0, logits[0], "o", color=colour_of(1), markersize=6)
    ax.plot(offset, logits[offset], "o", color=colour_of(2), markersize=6)
    ax.set_xlabel("virtual time", fontsize=8)
    ax.set_ylabel("logit of the same place", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.set_xticks([0, 5, 10])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


class RopeWidget(parts.Widget):
    """Move the context in virtual time and see what its tokens' positions do to attention.

    All tokens have equal content here, so only positions speak. Parts: offset, head, content,
    wish, target (click a token), context, curve, shares, status.
    """

    css = CSS

    def __init__(self) -> None:
        super().__init__()
        parts.follow(self.show, self.offset, self.head, self.content, self.wish)
        parts.follow(self.show, self.target, trait="chosen")
        self.show()

    def _make_controls(self) -> None:
        self.offset = W.IntSlider(
            1, 0, 10, description="Context's virtual time", style=parts.TIGHT,
            layout=parts.wide("310px"),
        )  # fmt: skip
        self.head, self.content, self.wish = (
            parts.choice(list(table), name, "310px", list(table)[1])
            for table, name in ((HEADS, "Head"), (CONTENTS, "Content"), (WISHES, "Looks for"))
        )
        self.target = PatchPicture("the target: click a token", ROWS, ROWS, css="mk-plot")
        self.target.set_trait("chosen", (3, 2))
        self.context = parts.plot_box("the context", f"{SIDE}px")
        self.curve = parts.plot_box("logit against virtual time", f"{SIDE}px")
        self.shares = W.HTML()

    def _arrange(self) -> list[W.Widget]:
        boxes = (self.target, self.context, self.curve)
        names = ("target: click a token", "context", "the same place, by virtual time")
        return [
            parts.row([self.offset, self.wish, self.head, self.content]),
            parts.captioned(boxes, names, wrap=True),
            self.shares,
            self.status,
        ]

    @property
    def settings(self) -> dict[str, object]:
        """What the dials say, as arguments of `position_logits`."""
        return {
            "axes_dim": HEADS[self.head.value],
            "content": self.content.value,
            "wish": WISHES[self.wish.value],
        }

    def show(self) -> None:
        """Draw maps, curve and shares for what is chosen."""
        query, offset = self.target.chosen, self.offset.value
        target, context = draw_maps(query, offset, **self.settings)
        self.target.show(target)
        parts.show(self.context, context)
        parts.show(self.curve, draw_curve(offset, **self.settings))
        maps = position_attention(query, offset, **self.settings)
        shares = [weights.sum().item() for weights in maps]
        self.shares.value = share_bar(("target", "context"), shares, first=1)
        same = maps[1][query].item() / maps[0][query].item()
        text = f"Its place in the context gets {same:.2g} × the attention of its own place."
        if offset == 0:
            text = "Virtual time 0 for both: every token has a twin with the same ids."
        self._say("idle", text)
