"""Figures in one look: each function takes tensors or arrays and returns a Matplotlib figure."""

from .catalogue import searchable, timeline
from .curves import compare_bars, pr_plot, pro_plot, roc_plot, score_histogram, training_curve
from .images import MapLimits, map_limits, show_images, show_maps
from .png import compact_png
from .style import use_style

__all__ = [
    "MapLimits",
    "compact_png",
    "compare_bars",
    "map_limits",
    "pr_plot",
    "pro_plot",
    "roc_plot",
    "score_histogram",
    "searchable",
    "show_images",
    "show_maps",
    "timeline",
    "training_curve",
    "use_style",
]
