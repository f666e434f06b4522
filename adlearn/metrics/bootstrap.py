"""How far a metric could have come out otherwise on another test set of the same size."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.stats

from ..errors import DataError
from .inputs import ArrayLike, check_share, split_scores
from .ranking import area_under_roc, auroc

Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Interval:
    """A metric's value with the ends of its confidence interval; prints as `0.941 [0.915, 0.964]`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap_interval(
    metric: Metric,
    scores: ArrayLike,
    labels: ArrayLike,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap (Efron and Tibshirani, 1993) of `metric(scores, labels)`.

    Normal and anomalous images are redrawn apart, so every sample has as many of each as the test set.
    `metric=auroc` takes a faster way to the same numbers. It says nothing about another training run.
    """
    check_share(confidence, "confidence")
    if samples < 1:
        raise DataError(f"samples must be at least 1, got {samples}")
    normal, anomalous = split_scores(scores, labels)
    ranked = metric is auroc
    redraw = _auroc_of_draw(normal, anomalous) if ranked else _metric_of_draw(metric, normal, anomalous)
    rng = np.random.default_rng(seed)
    values = [
        redraw(rng.integers(len(normal), size=len(normal)), rng.integers(len(anomalous), size=len(anomalous)))
        for _ in range(samples)
    ]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    everything = redraw(np.arange(len(normal)), np.arange(len(anomalous)))
    return Interval(everything, float(low), float(high))


def delong_interval(scores: ArrayLike, labels: ArrayLike, confidence: float = 0.95) -> Interval:
    """AUROC with the normal interval of DeLong et al. (1988): no resampling; too narrow for AUROC near 1."""
    check_share(confidence, "confidence")
    normal, anomalous = split_scores(scores, labels)
    if min(len(normal), len(anomalous)) < 2:
        raise DataError("DeLong's interval needs at least 2 normal and 2 anomalous images")
    beaten, losing = _share_below(normal, anomalous), 1 - _share_below(anomalous, normal)
    error = np.sqrt(beaten.var(ddof=1) / len(anomalous) + losing.var(ddof=1) / len(normal))
    value, reach = area_under_roc(normal, anomalous), scipy.stats.norm.ppf((1 + confidence) / 2) * error
    return Interval(value, float(max(0, value - reach)), float(min(1, value + reach)))


def _share_below(others: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """For each of `scores`, the share of `others` below it, ties counting half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def _metric_of_draw(metric: Metric, normal: np.ndarray, anomalous: np.ndarray) -> Callable:
    labels = np.repeat([0, 1], [len(normal), len(anomalous)])

    def redraw(normals: np.ndarray, anomalies: np.ndarray) -> float:
        return float(metric(np.concatenate([normal[normals], anomalous[anomalies]]), labels))

    return redraw


def _auroc_of_draw(normal: np.ndarray, anomalous: np.ndarray) -> Callable:
    """Ranks are found once; a draw only counts how often each normal score came up."""
    order = np.argsort(normal)
    below, up_to = (np.searchsorted(normal[order], anomalous, side=side) for side in ("left", "right"))
    rank = np.argsort(order)
    pairs = 2 * len(normal) * len(anomalous)

    def redraw(normals: np.ndarray, anomalies: np.ndarray) -> float:
        drawn = np.bincount(rank[normals], minlength=len(normal))
        total = np.concatenate([[0], np.cumsum(drawn)])
        return int((total[below[anomalies]] + total[up_to[anomalies]]).sum()) / pairs

    return redraw
