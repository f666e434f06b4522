"""Each check of notebook 02 accepts a right answer and rejects wrong ones with a hint."""

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from sklearn.decomposition import PCA

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", ["02.1", "02.2", "02.3", "02.4"])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def shrink(sample, alpha):
    size = len(sample)
    return (1 - alpha) * sample + alpha * sample.trace() / size * torch.eye(size, dtype=sample.dtype)


def test_02_1_accepts_the_equation():
    assert check("02.1", shrink)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        (lambda s, a: shrink(s, 1 - a), "alpha 0"),
        (lambda s, a: (1 - a) * s + a * s.trace() * torch.eye(6, dtype=s.dtype), "trace"),
        (lambda s, a: (1 - a) * s + a * s.diagonal().diag(), "round"),
        (lambda s, a: shrink(s, a**2), "half"),
        (lambda s, a: shrink(s, a).diagonal(), "matrix"),
    ],
)
def test_02_1_rejects(wrong, hint):
    rejects("02.1", wrong, hint)


def reconstruction(values, new, count, offset=0, mean_of=None, power=2):
    mean = values.mean(0) if mean_of is None else mean_of(values, new)
    _, _, directions = torch.linalg.svd(values - values.mean(0), full_matrices=False)
    main = directions[offset : offset + count]
    centred = new - mean
    return (centred - centred @ main.T @ main).norm(dim=1) ** power


def test_02_2_accepts_svd_and_scikit_learn():
    def by_sklearn(values, new, count):
        pca = PCA(count).fit(values.numpy())
        return torch.tensor(((new.numpy() - pca.inverse_transform(pca.transform(new.numpy()))) ** 2).sum(1))

    assert check("02.2", reconstruction)
    assert check("02.2", by_sklearn)


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"mean_of": lambda values, new: 0 * values[0]}, "mean"),
        ({"mean_of": lambda values, new: new.mean(0)}, "mean"),
        ({"power": 1}, "square"),
    ],
)
def test_02_2_rejects(options, hint):
    rejects("02.2", lambda values, new, count: reconstruction(values, new, count, **options), hint)


def test_02_2_rejects_the_smallest_directions():
    rejects("02.2", lambda v, n, c: reconstruction(v, n, c, offset=5 - c), "largest variance")


def test_02_3_accepts_the_root_of_the_chi_squared_quantile():
    assert check("02.3", lambda dimension, rate: np.sqrt(chi2.isf(rate, dimension)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda dimension, rate: chi2.isf(rate, dimension),
        lambda dimension, rate: np.sqrt(chi2.ppf(rate, dimension)),
        lambda dimension, rate: 1.96,
    ],
)
def test_02_3_rejects(wrong):
    rejects("02.3", wrong, "chi-squared")


def test_02_4_wants_three_different_aurocs():
    assert check("02.4", {0.0001: 0.8, 0.01: 0.85, 1.0: 0.7})
    rejects("02.4", {0.01: 0.85}, "keys")
    rejects("02.4", {0.0001: 0.8, 0.01: 0.8, 1.0: 0.8}, "equal")
    rejects("02.4", {0.0001: 0.2, 0.01: 0.3, 1.0: 0.4}, "guessing")
    rejects("02.4", {0.0001: 80.0, 0.01: 85.0, 1.0: 70.0}, "between 0 and 1")
