"""The look of every figure: one width, one font size, one meaning per colour."""

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from .png import show_as_compact_png

# Okabe & Ito's colours, told apart with every common form of colour blindness (jfly.uni-koeln.de/color).
BLUE, VERMILLION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"

NORMAL, ANOMALOUS, ACCENT = BLUE, VERMILLION, GREEN
INK, MUTED, FAINT = "#24292F", "#6E7781", "#D0D7DE"
METHODS = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILLION, BLACK)
LINES = ("-", "--", "-.", ":")
MARKS = ("o", "s", "D", "^")
HEAT = "inferno"

WIDTH = 8.3
"""Inches: at 100 dpi, the width of a notebook's column on GitHub."""
DPI = 100

STYLE = {
    "figure.figsize": (WIDTH, 3.4),
    "figure.dpi": DPI,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.pad_inches": 0.04,
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.labelsize": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": mpl.cycler(color=METHODS),
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.8,
    "image.cmap": HEAT,
}


styled = mpl.rc_context(STYLE)
"""Decorator: the function draws in this look, before `use_style` too."""


def use_style(figure_kb: int = 70) -> None:
    """Apply the look to the reader's own figures too; Jupyter shows figures as PNGs of `figure_kb` kB."""
    import matplotlib.pyplot as plt

    # Jupyter's own handling of figures is set up when pyplot resolves its backend; ours goes on top.
    plt.switch_backend(mpl.get_backend())
    plt.rcParams.update(STYLE)
    show_as_compact_png(1000 * figure_kb)


def new_figure(height: float, width: float = WIDTH, layout: str = "constrained") -> Figure:
    """A figure in inches that pyplot does not know: shown once, by being returned; freed with its name."""
    return Figure(figsize=(width, height), dpi=DPI, layout=layout)


def method_styles(names: Sequence[str]) -> list[dict]:
    """One colour per name, and another dash pattern when the colours start again."""
    return [
        {"color": METHODS[i % len(METHODS)], "linestyle": LINES[i // len(METHODS) % len(LINES)]}
        for i in range(len(names))
    ]


# Outlines over photographs and maps: cyan for the truth, magenta for what the method found.
MASK_LINE = {"colors": "#00E5FF", "linewidths": 1.4, "linestyles": "-"}
FOUND_LINE = {"colors": "#FF4FD8", "linewidths": 1.4, "linestyles": "--"}
