"""The system map: one small figure, the same in every notebook, with another box lit.

A box is green once the model has run with the student's own code in its place (`course.mine`), or,
around the model, once the notebook's last exercise is solved (`course.progress`).
"""

from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from minikontext.course import plots, progress, style


@dataclass(frozen=True)
class Box:
    """One box of the map: its text, the notebook that explains it, its centre and width."""

    text: str
    number: str
    x: float
    y: float
    width: float = 1.5


TOP, MIDDLE, BOTTOM = 2.3, 1.15, 0.0
BOXES: dict[str, Box] = {
    "picture in": Box("picture", "", 0.45, MIDDLE, 0.9),
    "autoencoder": Box("encode", "01", 1.85, MIDDLE, 1.25),
    "tokens": Box("tokens", "02", 3.4, MIDDLE, 1.25),
    "transformer": Box("transformer", "04", 5.25, MIDDLE, 1.85),
    "sampler": Box("sampler", "06", 7.2, MIDDLE, 1.35),
    "decode": Box("decode", "01", 8.8, MIDDLE, 1.25),
    "picture out": Box("picture", "", 10.25, MIDDLE, 0.9),
    "prompt": Box("“make the hat red”", "", 1.15, TOP, 2.3),
    "text": Box("text encoder", "04", 3.4, TOP, 1.7),
    "rope": Box("positions", "03", 5.25, TOP, 1.5),
    "noise": Box("noise", "05", 7.2, TOP, 1.1),
    "weights": Box("full weights", "11", 9.5, TOP, 1.9),
    "flow": Box("flow loss", "05", 1.85, BOTTOM, 1.3),
    "distillation": Box("distillation", "07", 3.4, BOTTOM, 1.5),
    "scale": Box("scale", "08", 4.85, BOTTOM, 1.1),
    "bench": Box("benchmark", "09", 7.85, BOTTOM, 1.5),
    "safety": Box("safety", "10", 9.3, BOTTOM, 1.1),
}
ARROWS = (
    ("picture in", "autoencoder"),
    ("autoencoder", "tokens"),
    ("tokens", "transformer"),
    ("transformer", "sampler"),
    ("sampler", "decode"),
    ("decode", "picture out"),
    ("prompt", "text"),
    ("text", "transformer"),
    ("rope", "transformer"),
    ("noise", "sampler"),
)
# The autoencoder is one idea in two places.
TOGETHER = {"autoencoder": ("autoencoder", "decode"), "everything": tuple(BOXES)}
HEIGHT = 0.62


def show_system(*lit: str) -> None:
    """Show the map with the named boxes lit. Raises KeyError for a name that is not in BOXES."""
    names = {box for name in lit for box in TOGETHER.get(name, (name,))}
    if unknown := names - BOXES.keys():
        raise KeyError(f"No box {sorted(unknown)} on the map. Known: {', '.join(BOXES)}.")
    own = {box for name in progress.green() for box in TOGETHER.get(name, (name,))}
    figure, ax = plt.subplots(figsize=(style.WIDEST, 2.1))
    figure.get_layout_engine().set(w_pad=0, h_pad=0)
    kinds = {"lit": names, "green": own}
    said = (f"{kind}: {', '.join(sorted(found))}" for kind, found in kinds.items() if found)
    figure.set_label(plots.told("The map of the whole system", *said))
    for start, end in ARROWS:
        _arrow(ax, BOXES[start], BOXES[end])
    for name, box in BOXES.items():
        _box(ax, box, lit=name in names, own=name in own)
    _loop(ax, BOXES["sampler"], BOXES["transformer"])
    for x, text in ((0.95, "how it learns"), (6.95, "how it is judged")):
        ax.text(x, BOTTOM, text, fontsize=7, color=style.GREY, va="center", ha="right")
    ax.set(xlim=(-0.1, 10.75), ylim=(-0.4, 2.75))
    ax.set_axis_off()
    plt.show()


def _box(ax: Axes, box: Box, lit: bool, own: bool) -> None:
    corner = (box.x - box.width / 2, box.y - HEIGHT / 2)
    plain = style.PALE if box.number else style.PAPER
    fill = style.GREEN if own else style.ACCENT if lit else plain
    edge = style.ACCENT if lit else style.GREY if not box.number else fill
    shape = "round,pad=0,rounding_size=0.14"
    box_style = {"facecolor": fill, "edgecolor": edge, "linewidth": 2.5 if own and lit else 0.8}
    ax.add_patch(FancyBboxPatch(corner, box.width, HEIGHT, shape, **box_style))
    ink = style.PAPER if lit or own else style.INK
    lift = 0.1 if box.number else 0.0
    weight = "bold" if lit else "normal"
    centre = {"ha": "center", "va": "center"}
    ax.text(box.x, box.y + lift, box.text, fontsize=7.5, color=ink, weight=weight, **centre)
    ax.text(
        box.x,
        box.y - 0.17,
        box.number,
        fontsize=6,
        color=ink if lit or own else style.GREY,
        **centre,
    )


def _loop(ax: Axes, start: Box, end: Box) -> None:
    """The sampler asks the transformer again at every step."""
    bend = {"connectionstyle": "arc3,rad=-0.3", "arrowstyle": "-|>", "color": style.GREY, "lw": 0.9}
    ends = ((box.x, box.y - HEIGHT / 2) for box in (end, start))
    ax.annotate("", *ends, arrowprops=bend)
    middle = ((start.x + end.x) / 2, start.y - HEIGHT / 2 - 0.14)
    ax.text(*middle, "every step", fontsize=6, color=style.GREY, ha="center", va="center")


def _arrow(ax: Axes, start: Box, end: Box) -> None:
    """From edge to edge: sideways inside a row, downwards between rows."""
    if start.y == end.y:
        tail = (start.x + start.width / 2, start.y)
        head = (end.x - end.width / 2, end.y)
    else:
        tail = (min(start.x + start.width / 3, end.x), start.y - HEIGHT / 2)
        head = (max(end.x - end.width / 3, min(start.x, end.x)), end.y + HEIGHT / 2)
    ax.annotate(
        "",
        head,
        tail,
        arrowprops={
            "arrowstyle": "-|>",
            "color": style.GREY,
            "lw": 0.9,
            "shrinkA": 1,
            "shrinkB": 1,
        },
    )
