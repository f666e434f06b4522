"""Checks of notebook 01, evaluation."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.stats

from .. import metrics
from ..errors import DataError
from . import Wrong, exercise, require

_CALIBRATIONS = 2000


def _numbers(values: Any, name: str) -> np.ndarray:
    array = np.asarray(values)
    require(array.dtype.kind in "biuf", f"{name} must be numbers")
    return array


def _pair(answer: Any, names: str) -> tuple[Any, Any]:
    require(isinstance(answer, tuple | list) and len(answer) == 2, f"the answer is a pair: ({names})")
    return answer[0], answer[1]


def _function(answer: Any) -> Callable:
    require(callable(answer), "the answer is a function: pass it without calling it")
    return answer


def _number(value: Any) -> float:
    require(np.ndim(value) == 0 and np.isreal(value), "the function must return one number")
    return float(value)


@exercise("01.1")
def _ranked_but_silent(answer: Any) -> None:
    """AUROC says the ranking is good, yet without false alarms nothing is caught."""
    scores, labels = (
        _numbers(v, n) for v, n in zip(_pair(answer, "scores, labels"), ("scores", "labels"), strict=True)
    )
    require(scores.shape == labels.shape == (8,), "eight scores and eight labels")
    require(sorted(labels.tolist()) == [0] * 4 + [1] * 4, "four labels are 0, four are 1")
    value = metrics.auroc(scores, labels)
    require(value >= 0.75, f"the AUROC is {value:.3f}: lose at most 4 of the 16 pairs")
    caught = int((scores[labels == 1] > scores[labels == 0].max()).sum())
    require(
        caught == 0,
        f"{caught} defective parts lie above every good one: what single good part would stop that?",
    )


@exercise("01.2")
def _auroc_by_ranks(answer: Any) -> None:
    """Equal to the pairs, ties included, and without comparing them one by one."""
    auroc, rng = _function(answer), np.random.default_rng(0)
    for levels, what in ((1000, "without ties"), (4, "with many ties: ties share their mean rank")):
        for n in (5, 12, 60):
            scores, labels = rng.integers(0, levels, n) / levels, np.arange(n) % 3 == 0
            order = rng.permutation(n)
            scores, labels = scores[order], labels[order].astype(int)
            found, wanted = _number(auroc(scores, labels)), metrics.auroc(scores, labels)
            require(abs(found - wanted) < 1e-9, f"{found:.4f} instead of {wanted:.4f} on {n} scores {what}")


@exercise("01.3")
def _precision_on_the_line(answer: Any) -> None:
    """Agrees with counting alarms, from balanced test sets to rare defects."""
    precision = _function(answer)
    for good, bad, tpr, fpr in (
        (100, 100, 0.8, 0.1),
        (1000, 10, 0.9, 0.05),
        (300, 900, 0.5, 0.5),
        (990, 10, 1.0, 0.1),
    ):
        hits, false_alarms = tpr * bad, fpr * good
        found, wanted = _number(precision(tpr, fpr, bad / (good + bad))), hits / (hits + false_alarms)
        hint = f"of {good} good and {bad} defective parts, {false_alarms:g} and {hits:g} raise an alarm"
        require(abs(found - wanted) < 1e-9, f"{found:.4f} instead of {wanted:.4f}: {hint}")


@exercise("01.4")
def _flattering_maps(answer: Any) -> None:
    """Pixel AUROC is pleased, and most defects are missed."""
    maps, masks = (np.asarray(v) for v in _pair(answer, "maps, masks"))
    try:
        pixels, regions = metrics.pixel_auroc(maps, masks), metrics.aupro(maps, masks)
    except DataError as error:
        raise Wrong(str(error)) from None
    require(pixels >= 0.98, f"pixel AUROC is {pixels:.3f}: find one large defect completely")
    require(regions <= 0.6, f"AUPRO is {regions:.3f}: miss more of the defects, and make them small")


@exercise("01.5")
def _sure_threshold(answer: Any) -> None:
    """Exceeds the rate in at most 5 % of calibrations, and is no more cautious than it must be."""
    choose, rng = _function(answer), np.random.default_rng(0)
    for n, rate, law in ((200, 0.05, scipy.stats.expon()), (120, 0.1, scipy.stats.norm(50, 10))):
        draws = law.rvs((_CALIBRATIONS, n), random_state=rng)
        true_rates = law.sf([_number(choose(draw, rate)) for draw in draws])
        broken = (true_rates > rate).mean()
        case = f"with {n} good images and a rate of {rate:g}"
        require(broken <= 0.065, f"{case}, {broken:.0%} of calibrations exceed the rate; at most 5 % may")
        require(
            broken >= 0.005, f"{case}, {broken:.1%} exceed the rate: too cautious, a lower threshold will do"
        )
