"""The one look of the course: colours and matplotlib settings, shared by plots, map and widgets."""

from pathlib import Path
from string import Template

STATIC = Path(__file__).parent / "static"  # what widgets bring into a page

# White is readable on every one but GOLD, where INK is: 4.5 to 1 or more, as WCAG 2 AA asks.
INK, GREY, PALE, PAPER = "#1f2a37", "#687483", "#e9eef4", "#ffffff"
ACCENT, BLUE, GREEN, GOLD, VIOLET = "#c94521", "#2a7b9e", "#2f8257", "#e0a526", "#7b5ea7"
CYCLE = (BLUE, ACCENT, GREEN, VIOLET, GOLD, GREY)

# A plot in the dark theme: white becomes JupyterLab's #212121, hues stay.
DARK = "invert(.87) hue-rotate(180deg)"
# A sheet of pictures does the same, but its pictures stay: they are opaque, all else is at GROUND.
GROUND = 250  # of 255
_STEP = 255 / (255 - GROUND)
SHEET = (
    "url(\"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'%3E"
    "%3Cfilter id='sheet' x='0' y='0' width='1' height='1' color-interpolation-filters='sRGB'%3E"
    "%3CfeColorMatrix values='-.74 0 0 0 .87 0 -.74 0 0 .87 0 0 -.74 0 .87 0 0 0 1 0'/%3E"
    "%3CfeColorMatrix type='hueRotate' values='180' result='dark'/%3E"
    "%3CfeComponentTransfer in='SourceGraphic' result='pictures'%3E"
    f"%3CfeFuncA type='linear' slope='{_STEP:g}' intercept='{1 - _STEP:g}'/%3E"
    "%3C/feComponentTransfer%3E%3CfeMerge%3E%3CfeMergeNode in='dark'/%3E"
    "%3CfeMergeNode in='pictures'/%3E%3C/feMerge%3E%3C/filter%3E%3C/svg%3E#sheet\")"
)
# Below cells a plot is known by the width that it has for dense screens, and no picture has.
PLOTS = f"""<style>[data-jp-theme-light="false"] .jp-RenderedImage img {{ filter: {SHEET}; }}
[data-jp-theme-light="false"] .jp-RenderedImage img[width] {{ filter: {DARK}; }}</style>"""

# A light arrow for the dark theme, where that of a select is black on black.
ARROW = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='%23ddd' d='M5 7l4 4 4-4z'/%3E%3C/svg%3E"
)

# 5 x 3 inches at 110 dpi are 550 pixels; the widest figure stays below 800 with its margin.
FIGURE, DPI, WIDEST = (5.0, 3.0), 110, 6.8
# Inches of a widget's plot, 100 pixels each: a window of 800 pixels shrinks it by a quarter.
PLOT = 4.4


def sheet(name: str) -> str:
    """HTML with the rules of `static/NAME.css`, where ${BLUE} is this module's BLUE."""
    rules = (STATIC / f"{name}.css").read_text(encoding="utf-8")
    return f"<style>\n{Template(rules).substitute(globals())}</style>"


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb" as WCAG 2 defines it, 0 (black) to 1 (white)."""
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return sum(share * x for share, x in zip((0.2126, 0.7152, 0.0722), linear))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def text_on(colour: str) -> str:
    """The colour of text on a surface of this colour: PAPER or INK, whichever reads better."""
    return max((PAPER, INK), key=lambda ink: contrast(ink, colour))


def apply() -> None:
    """Set matplotlib's defaults for the course; a notebook's plots are sharp on dense screens."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib_inline.config import InlineBackend

    InlineBackend.instance().figure_formats = {"retina"}
    mpl.rcParams.update(
        {
            "figure.figsize": FIGURE, "figure.dpi": DPI, "savefig.dpi": DPI,
            "figure.constrained_layout.use": True, "figure.titlesize": 10,
            "figure.titleweight": "bold", "axes.prop_cycle": cycler(color=CYCLE),
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
            "axes.axisbelow": True, "axes.edgecolor": GREY, "axes.labelcolor": INK,
            "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
            "axes.labelsize": 9, "grid.color": PALE, "text.color": INK, "xtick.color": INK,
            "ytick.color": INK, "xtick.labelsize": 8, "ytick.labelsize": 8, "legend.fontsize": 8,
            "legend.frameon": False, "lines.linewidth": 1.8, "image.interpolation": "nearest",
        }
    )  # fmt: skip
