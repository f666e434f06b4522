"""Evaluation: exact, from sorted scores, never binned.

Everywhere, larger scores are more anomalous, label 1 is anomalous, and an alarm is `score >= threshold`.
Scores, labels, maps and masks may be torch tensors, numpy arrays or lists; results are plain Python numbers.
"""

from .bootstrap import Interval, bootstrap_interval, delong_interval
from .ranking import (
    F1Max,
    aupr,
    auroc,
    f1_max,
    pixel_aupr,
    pixel_auroc,
    pixel_f1_max,
    pr_curve,
    roc_curve,
)
from .regions import Region, aupro, pro_curve, saturate, spro, spro_curve
from .summary import evaluate
from .sweep import Curve
from .thresholds import quantile_threshold, tail_threshold

__all__ = [
    "Curve",
    "F1Max",
    "Interval",
    "Region",
    "aupr",
    "aupro",
    "auroc",
    "bootstrap_interval",
    "delong_interval",
    "evaluate",
    "f1_max",
    "pixel_aupr",
    "pixel_auroc",
    "pixel_f1_max",
    "pr_curve",
    "pro_curve",
    "quantile_threshold",
    "roc_curve",
    "saturate",
    "spro",
    "spro_curve",
    "tail_threshold",
]
