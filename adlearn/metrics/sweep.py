"""The one pass behind every metric here: what lies above each threshold.

Only thresholds at *anomalous* scores matter. Between two of them the alarms gain normal scores alone, so a
ROC or PRO curve runs straight and precision only falls. The normal scores are therefore sorted once, without
an index, and the (few) distinct anomalous scores are looked up in them.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """Points of a curve by falling threshold: `x`, `y`, `thresholds`, each (K,) float64.

    A point is where `score >= threshold` leads; the first threshold is infinite (no alarms).
    """

    x: np.ndarray
    y: np.ndarray
    thresholds: np.ndarray


@dataclass(frozen=True)
class Sweep:
    """Counts at the K distinct anomalous scores, from the highest down.

    `gained` (K,) weight of the anomalous scores equal to each threshold (their number if not weighted);
    `above` and `reached` (K,) how many normal scores are > and >= it; `normals` how many there are in all;
    `lowest` the smallest score of either kind.
    """

    thresholds: np.ndarray
    gained: np.ndarray
    above: np.ndarray
    reached: np.ndarray
    normals: int
    lowest: float

    @property
    def hits(self) -> np.ndarray:
        """(K,) weight of the anomalous scores >= each threshold."""
        return np.cumsum(self.gained)


def sweep(normal: np.ndarray, anomalous: np.ndarray, weights: np.ndarray | None = None) -> Sweep:
    """Count normal and anomalous scores at each distinct anomalous score; exact, ties included."""
    ordered = np.sort(normal)
    if weights is None:
        thresholds, gained = np.unique(anomalous, return_counts=True)
    else:
        thresholds, place = np.unique(anomalous, return_inverse=True)
        gained = np.bincount(place, weights, minlength=len(thresholds))
    return Sweep(
        thresholds=thresholds[::-1],
        gained=gained[::-1],
        above=(len(ordered) - np.searchsorted(ordered, thresholds, side="right"))[::-1],
        reached=(len(ordered) - np.searchsorted(ordered, thresholds, side="left"))[::-1],
        normals=len(ordered),
        lowest=float(np.concatenate([thresholds[:1], ordered[:1]]).min()),
    )


def step_curve(counts: Sweep, normals: int, anomalous: float) -> Curve:
    """Hit rate over false alarm rate: each threshold gives the point just above it and the point at it.

    Tied normal and anomalous scores join these two by a slope; elsewhere the curve is flat or vertical.
    """
    hits = counts.hits
    before = np.concatenate([[0], hits[:-1]])[: len(hits)]
    just_above = np.nextafter(counts.thresholds, np.array(np.inf, counts.thresholds.dtype))
    x = _interleave(0, counts.above, counts.reached, counts.normals) / normals
    y = _interleave(0, before, hits, hits[-1:].sum()) / anomalous
    thresholds = _interleave(np.inf, just_above, counts.thresholds, counts.lowest)
    moved = np.concatenate([[True], (np.diff(x) > 0) | (np.diff(y) > 0)])
    return Curve(x[moved], np.minimum(y[moved], 1), thresholds[moved])  # sums of weights may round above 1


def _interleave(start: float, first: np.ndarray, second: np.ndarray, end: float) -> np.ndarray:
    """start, first[0], second[0], first[1], second[1], ..., end as float64."""
    return np.concatenate([[start], np.stack([first, second], axis=1).ravel(), [end]]).astype(np.float64)
