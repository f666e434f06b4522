"""Each check of notebook 01 accepts a right answer and rejects wrong ones with a hint."""

import numpy as np
import pytest
import scipy.stats

from adlearn import metrics
from adlearn.exercises import Wrong, check

LABELS = [0] * 4 + [1] * 4


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", ["01.1", "01.2", "01.3", "01.4", "01.5"])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def test_01_1_accepts_one_good_part_above_everything():
    assert check("01.1", ([1, 2, 3, 9, 4, 5, 6, 7], LABELS))


def test_01_1_accepts_a_defect_tied_with_the_highest_good_part():
    assert check("01.1", ([1, 2, 3, 9, 4, 5, 6, 9], LABELS))


@pytest.mark.parametrize(
    "answer, hint",
    [
        (([1, 2, 3, 4, 5, 6, 7, 8], LABELS), "4 defective parts"),
        (([5, 6, 7, 8, 1, 2, 3, 4], LABELS), "AUROC is 0.000"),
        (([1, 2, 3, 4], [0, 0, 1, 1]), "eight"),
        (([1, 2, 3, 9, 4, 5, 6, 7], [0] * 5 + [1] * 3), "four"),
        (7, "pair"),
    ],
)
def test_01_1_rejects(answer, hint):
    rejects("01.1", answer, hint)


def by_ranks(scores, labels, method="average"):
    ranks = scipy.stats.rankdata(scores, method=method)
    positives = int(np.sum(labels))
    wins = ranks[np.asarray(labels) == 1].sum() - positives * (positives + 1) / 2
    return wins / (positives * (len(labels) - positives))


def test_01_2_accepts_the_rank_sum():
    assert check("01.2", by_ranks)


@pytest.mark.parametrize("method", ["ordinal", "min", "max", "dense"])
def test_01_2_rejects_ranks_that_break_ties_otherwise(method):
    rejects("01.2", lambda scores, labels: by_ranks(scores, labels, method), "ties")


def test_01_2_rejects_the_wrong_direction_and_a_value():
    rejects("01.2", lambda scores, labels: 1 - by_ranks(scores, labels), "instead of")
    rejects("01.2", 0.84, "function")
    rejects("01.2", lambda scores, labels: scores, "one number")


def test_01_3_accepts_bayes():
    assert check("01.3", lambda tpr, fpr, p: tpr * p / (tpr * p + fpr * (1 - p)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda tpr, fpr, p: tpr / (tpr + fpr),
        lambda tpr, fpr, p: tpr * p / (tpr * p + fpr),
        lambda tpr, fpr, p: tpr * p,
    ],
)
def test_01_3_rejects_formulas_that_forget_the_prevalence_or_the_good_parts(wrong):
    rejects("01.3", wrong, "instead of")


def maps_with(found_small: int):
    """One large found defect and five small ones, of which `found_small` are found."""
    masks, maps = np.zeros((1, 64, 64), bool), np.zeros((1, 64, 64))
    maps += np.random.default_rng(0).random(maps.shape)
    masks[0, 2:40, 2:40] = True
    maps[masks] += 1
    for k in range(5):
        masks[0, 60, 5 + 10 * k] = True
        maps[0, 60, 5 + 10 * k] = 2 if k < found_small else 0
    return maps, masks


def test_01_4_accepts_maps_that_miss_the_small_defects():
    assert check("01.4", maps_with(found_small=0))


def test_01_4_rejects_maps_that_find_all_or_nothing_and_bad_shapes():
    rejects("01.4", maps_with(found_small=5), "AUPRO")
    maps, masks = maps_with(found_small=0)
    rejects("01.4", (-maps, masks), "pixel AUROC")
    rejects("01.4", (maps[0], masks[0]), "axes")
    rejects("01.4", (maps, np.zeros_like(masks)), "no defect")


def sure(scores, rate, confidence=0.95):
    """The lowest order statistic that a fair draw of calibrations exceeds often enough."""
    above = int(scipy.stats.binom.ppf(1 - confidence, len(scores), rate))
    return np.sort(scores)[len(scores) - above]


def test_01_5_accepts_the_binomial_order_statistic():
    assert check("01.5", sure)


def test_01_5_rejects_the_average_promise_and_the_maximum():
    rejects("01.5", metrics.quantile_threshold, "at most 5 %")
    rejects("01.5", lambda scores, rate: np.quantile(scores, 1 - rate), "at most 5 %")
    rejects("01.5", lambda scores, rate: 2 * scores.max(), "too cautious")
