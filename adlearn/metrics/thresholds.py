"""Thresholds from normal images only: choose the false alarm rate, not the threshold.

Use scores of normal images the detector was not fitted on; scores of its own training images are too low and
promise too much. For maps, pass each image's highest pixel: pixels of one image are not independent.
"""

import math

import numpy as np
import scipy.stats

from ..errors import DataError
from .inputs import ArrayLike, check_share, to_scores

_MIN_EXCESSES = 20


def quantile_threshold(normal_scores: ArrayLike, false_alarm_rate: float = 0.05) -> float:
    """The threshold that a new normal image reaches with probability at most `false_alarm_rate`.

    Split conformal (Vovk et al., 2005; Laxhammar, 2014): the ceil((n + 1)(1 - rate))-th smallest of n scores,
    or rather the next number above it, so that `score >= threshold` leaves the score itself silent. No
    assumption but exchangeability; the promise is on average over calibration sets.
    Raises DataError when n is too small for the rate: it takes 1 / rate - 1 normal images.
    """
    check_share(false_alarm_rate, "false_alarm_rate")
    scores = np.sort(to_scores(normal_scores, "normal_scores", ndim=1))
    spared = math.floor((len(scores) + 1) * false_alarm_rate + 1e-9)  # 100 * 0.29 is 28.999999999999996
    if spared < 1:
        needed = math.ceil(1 / false_alarm_rate - 1e-9) - 1
        raise DataError(
            f"normal_scores has {len(scores)} images; a false alarm rate of {false_alarm_rate:g} needs at "
            f"least {needed}: collect more normal images, raise the rate, or extrapolate with tail_threshold"
        )
    return float(np.nextafter(scores[len(scores) - spared], np.array(np.inf, scores.dtype)))


def tail_threshold(normal_scores: ArrayLike, false_alarm_rate: float = 0.01, tail: float = 0.1) -> float:
    """A threshold for rates too small for `quantile_threshold`, from the shape of the upper tail.

    Peaks over threshold: beyond a high quantile u, excesses of almost any distribution follow a generalised
    Pareto law (Pickands, 1975; Balkema and de Haan, 1974); the highest `tail` of the scores are fitted by
    maximum likelihood and the fit is read at the rate (Siffer et al., SPOT, KDD 2017, Eq. 1).
    It extrapolates: an estimate, not a promise. On samples of six known distributions, asked for 0.002, it
    gave on average 2 to 3 times as many false alarms with 20 excesses, 1.2 times with 100. Where there are
    images enough, prefer the quantile.
    Raises DataError when the tail has fewer than 20 different scores or the rate lies outside it.
    """
    check_share(false_alarm_rate, "false_alarm_rate")
    check_share(tail, "tail")
    if false_alarm_rate >= tail:
        raise DataError(
            f"false_alarm_rate {false_alarm_rate:g} must be below tail {tail:g}; else use quantile_threshold"
        )
    scores = to_scores(normal_scores, "normal_scores", ndim=1).astype(np.float64)
    start = np.quantile(scores, 1 - tail)
    excesses = scores[scores > start] - start
    distinct = len(np.unique(excesses))
    if distinct < _MIN_EXCESSES:
        raise DataError(
            f"normal_scores has {distinct} different values in its highest {tail:g}; a tail fit needs "
            f"{_MIN_EXCESSES}: collect more normal images or widen tail"
        )
    unit = excesses.mean()  # the fit starts near 1 whatever the scores' unit
    shape, _, scale = scipy.stats.genpareto.fit(excesses / unit, floc=0)
    beyond = false_alarm_rate * len(scores) / len(excesses)
    return float(start + unit * scipy.stats.genpareto.isf(beyond, shape, scale=scale))
