"""How well scores rank anomalous above normal: AUROC, average precision, best F1; of images and of pixels."""

from typing import NamedTuple

import numpy as np

from .inputs import ArrayLike, split_maps, split_scores
from .sweep import Curve, step_curve, sweep


class F1Max(NamedTuple):
    """The best F1 over all thresholds, and the highest threshold that reaches it."""

    f1: float
    threshold: float


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """The probability that an anomalous image outranks a normal one, ties counting half (Mann-Whitney U).

    `scores` (N,), `labels` (N,). Raises DataError unless both kinds of image are present.
    """
    return area_under_roc(*split_scores(scores, labels))


def aupr(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision, sum of (R_k - R_{k-1}) P_k: scikit-learn's `average_precision_score`.

    No interpolation between points; so not the trapezoid under the precision-recall curve, which flatters.
    """
    return _average_precision(*split_scores(scores, labels))


def f1_max(scores: ArrayLike, labels: ArrayLike) -> F1Max:
    """The best F1 any threshold reaches. An oracle: the threshold is chosen with the test labels in hand."""
    return _f1_max(*split_scores(scores, labels))


def pixel_auroc(maps: ArrayLike, masks: ArrayLike) -> float:
    """AUROC over all pixels of all images: `maps` (N, H, W), `masks` (N, H, W) bool."""
    return area_under_roc(*split_maps(maps, masks))


def pixel_aupr(maps: ArrayLike, masks: ArrayLike) -> float:
    """Average precision over all pixels of all images; as `aupr`."""
    return _average_precision(*split_maps(maps, masks))


def pixel_f1_max(maps: ArrayLike, masks: ArrayLike) -> F1Max:
    """The best F1 over all pixels of all images; as `f1_max`."""
    return _f1_max(*split_maps(maps, masks))


def roc_curve(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """False alarm rate (x) and hit rate (y), from (0, 0) to (1, 1); corners only. Flatten maps to use it."""
    normal, anomalous = split_scores(scores, labels)
    return step_curve(sweep(normal, anomalous), len(normal), len(anomalous))


def pr_curve(scores: ArrayLike, labels: ArrayLike) -> Curve:
    """Recall (x) and precision (y) at each distinct anomalous score, after the conventional point (0, 1).

    Draw it with `plt.step(..., where="pre")`: the area drawn is `aupr`.
    """
    counts = sweep(*split_scores(scores, labels))
    hits = counts.hits
    return Curve(
        np.concatenate([[0.0], hits / hits[-1]]),
        np.concatenate([[1.0], hits / (hits + counts.reached)]),
        np.concatenate([[np.inf], counts.thresholds]).astype(np.float64),
    )


def area_under_roc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    """AUROC of normal scores (n,) and anomalous scores (m,), in whole numbers up to the last division."""
    counts = sweep(normal, anomalous)
    double_wins = np.sum(counts.gained * (2 * len(normal) - counts.above - counts.reached))
    return int(double_wins) / (2 * len(normal) * len(anomalous))


def _average_precision(normal: np.ndarray, anomalous: np.ndarray) -> float:
    counts = sweep(normal, anomalous)
    precision = counts.hits / (counts.hits + counts.reached)
    return float(np.sum(counts.gained * precision) / len(anomalous))


def _f1_max(normal: np.ndarray, anomalous: np.ndarray) -> F1Max:
    counts = sweep(normal, anomalous)
    f1 = 2 * counts.hits / (counts.hits + counts.reached + len(anomalous))
    best = int(np.argmax(f1))
    return F1Max(float(f1[best]), float(counts.thresholds[best]))
