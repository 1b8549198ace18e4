"""The one look of the course: colours and matplotlib settings, shared by plots, map and widgets."""

INK, GREY, PALE, PAPER = "#1f2a37", "#8894a3", "#e9eef4", "#ffffff"
ACCENT, BLUE, GREEN, GOLD, VIOLET = "#e4572e", "#2e86ab", "#3c9d6b", "#e0a526", "#7b5ea7"
CYCLE = (BLUE, ACCENT, GREEN, VIOLET, GOLD, GREY)

# 5 x 3 inches at 110 dpi are 550 pixels; the widest figure stays below 800 with its margin.
FIGURE, DPI, WIDEST = (5.0, 3.0), 110, 6.8


def apply() -> None:
    """Set matplotlib's defaults for the course."""
    import matplotlib as mpl
    from cycler import cycler

    mpl.rcParams.update(
        {
            "figure.figsize": FIGURE,
            "figure.dpi": DPI,
            "savefig.dpi": DPI,
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=CYCLE),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.edgecolor": GREY,
            "axes.labelcolor": INK,
            "axes.titlesize": 10,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 9,
            "grid.color": PALE,
            "text.color": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
            "legend.fontsize": 8,
            "legend.frameon": False,
            "lines.linewidth": 1.8,
            "image.interpolation": "nearest",
        }
    )
