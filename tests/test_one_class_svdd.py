"""SVDD: the dual against SLSQP and libsvm, the optimality conditions, what a ball must do."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.svm import OneClassSVM

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import (
    SVDD,
    gaussian_kernel,
    median_distance,
    svdd_distance,
    svdd_dual,
    svdd_radius,
)
from adlearn.metrics import auroc


def points(count: int, dimensions: int = 2, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


def ball(kernel: torch.Tensor, nu: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights, squared distances and squared radius on the training points."""
    weights = svdd_dual(kernel, nu)
    distances = svdd_distance(kernel.diagonal(), kernel, weights, weights @ kernel @ weights)
    return weights, distances, svdd_radius(distances, weights, nu)


def linear(x: torch.Tensor) -> torch.Tensor:
    return x @ x.T


def gaussian(x: torch.Tensor) -> torch.Tensor:
    return gaussian_kernel(x, x, median_distance(x))


@pytest.mark.parametrize("make", [linear, gaussian])
@pytest.mark.parametrize("nu", [0.02, 0.2, 0.6])
def test_dual_is_that_of_a_general_solver(make, nu: float):
    kernel = make(points(14, 3))
    k = kernel.numpy()
    answer = minimize(
        lambda a: a @ k @ a - a @ k.diagonal(),
        np.full(14, 1 / 14),
        jac=lambda a: 2 * k @ a - k.diagonal(),
        bounds=[(0, 1 / (nu * 14))] * 14,
        constraints={"type": "eq", "fun": lambda a: a.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15, "maxiter": 2000},
    )
    ours = svdd_dual(kernel, nu).numpy()
    assert ours @ k @ ours - ours @ k.diagonal() <= answer.fun + 1e-9
    np.testing.assert_allclose(ours, answer.x, atol=2e-5)


@pytest.mark.parametrize("nu", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dimensions", [2, 40])
def test_gaussian_svdd_is_the_one_class_svm(nu: float, dimensions: int):
    kernel = gaussian(points(70, dimensions))
    asked = points(30, dimensions, seed=1)
    cross = gaussian_kernel(asked, points(70, dimensions), median_distance(points(70, dimensions)))
    svm = OneClassSVM(kernel="precomputed", nu=nu, tol=1e-10).fit(kernel.numpy())
    theirs = torch.zeros(70, dtype=torch.float64)
    theirs[svm.support_] = torch.from_numpy(svm.dual_coef_[0]) / (nu * 70)
    weights, _, radius = ball(kernel, nu)
    torch.testing.assert_close(weights, theirs, rtol=0, atol=1e-5)
    found = svdd_distance(torch.ones(30).double(), cross, weights, weights @ kernel @ weights)
    decision = torch.from_numpy(svm.decision_function(cross.numpy()))
    torch.testing.assert_close(found - radius, -2 * decision / (nu * 70), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [linear, gaussian])
@pytest.mark.parametrize("nu", [0.03, 0.25, 0.7])
def test_optimality_conditions(make, nu: float):
    weights, distances, radius = ball(make(points(60, 4)), nu)
    most = 1 / (nu * 60)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert weights.min() >= 0 and weights.max() <= most * (1 + 1e-12)
    slack = 1e-6 * distances.max()
    assert (distances[weights == 0] <= radius + slack).all()
    assert (distances[weights > most * (1 - 1e-9)] >= radius - slack).all()
    margin = (weights > 1e-9) & (weights < most * (1 - 1e-9))
    torch.testing.assert_close(distances[margin], radius.expand(int(margin.sum())), rtol=1e-5, atol=1e-6)
    assert (distances > radius + slack).double().mean() <= nu
    assert (weights > 0).double().mean() >= nu


def test_distance_is_the_plain_one_for_the_dot_product():
    x, asked = points(20, 3), points(7, 3, seed=2)
    weights = svdd_dual(linear(x), 0.1)
    found = svdd_distance(asked.square().sum(dim=1), asked @ x.T, weights, weights @ linear(x) @ weights)
    torch.testing.assert_close(found, (asked - weights @ x).square().sum(dim=1))


def test_no_other_centre_gives_a_smaller_ball():
    x = points(25, 3)
    weights, distances, radius = ball(linear(x), 0.01)
    assert distances.max().item() == pytest.approx(radius.item(), rel=1e-6)
    for step in points(50, 3, seed=3) * 0.05:
        assert (x - weights @ x - step).square().sum(dim=1).max() > radius


def test_the_dot_products_ball_moves_with_the_points():
    x = points(30, 3)
    before, after = (ball(linear(p), 0.2) for p in (x, x + torch.tensor([5.0, -3.0, 2.0])))
    for first, second in zip(before, after, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)


def test_the_smallest_ball_of_a_triangle_and_an_inner_point():
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3**0.5], [1.0, 0.5]], dtype=torch.float64)
    weights, _, radius = ball(linear(x), 0.1)
    torch.testing.assert_close(
        weights, torch.tensor([1, 1, 1, 0], dtype=torch.float64) / 3, atol=1e-7, rtol=0
    )
    assert radius.item() == pytest.approx(4 / 3)


def test_one_point_and_copies_of_one():
    for x in (points(1, 3), points(1, 3).expand(5, 3)):
        for make in (linear, gaussian):
            weights, distances, radius = ball(make(x), 0.1)
            assert weights.sum().item() == pytest.approx(1)
            torch.testing.assert_close(distances, torch.zeros_like(distances), atol=1e-9, rtol=0)
            assert radius.abs() < 1e-9


def test_duplicates_do_not_move_the_hard_ball():
    x = points(12, 2)
    once, twice = (ball(linear(p), 0.01)[2] for p in (x, torch.cat([x, x])))
    torch.testing.assert_close(once, twice, rtol=1e-6, atol=0)


def test_nu_of_one_is_the_mean():
    weights, distances, radius = ball(gaussian(points(9)), 1.0)
    torch.testing.assert_close(weights, torch.full((9,), 1 / 9, dtype=torch.float64))
    assert radius <= distances.min()


@pytest.mark.parametrize("nu", [0, -0.1, 1.5])
def test_impossible_shares_are_refused(nu: float):
    with pytest.raises(DataError, match="nu"):
        svdd_dual(torch.eye(3), nu)


def test_a_kernel_that_is_not_finite_is_refused():
    with pytest.raises(DataError, match="NaN"):
        svdd_dual(torch.full((2, 2), torch.nan), 0.1)


def test_gaussian_kernel_by_loops():
    x, y = points(4, 3), points(5, 3, seed=4)
    expected = [[np.exp(-((a - b) ** 2).sum() / 1.7**2) for b in y.numpy()] for a in x.numpy()]
    torch.testing.assert_close(gaussian_kernel(x, y, 1.7), torch.tensor(expected))
    torch.testing.assert_close(gaussian_kernel(x, x, 1.7).diagonal(), torch.ones(4, dtype=torch.float64))


def test_median_distance():
    assert median_distance(torch.tensor([[0.0], [1.0], [4.0]])).item() == 3
    assert median_distance(torch.ones(1, 8)).item() == pytest.approx(4)
    assert median_distance(torch.ones(5, 8)).item() == pytest.approx(4)


def test_detector_is_the_dual_of_its_training_images(tiny: Benchmark):
    detector = SVDD(nu=0.3).fit(tiny.train)
    features = detector.extractor.extract(tiny.train)
    x = detector.standardise(features).double()
    kernel = gaussian(x)
    _, distances, radius = ball(kernel, 0.3)
    found = detector.predict_dataset(tiny.train)
    torch.testing.assert_close(found.score.double(), distances, rtol=0, atol=1e-4)
    assert detector.radius.item() == pytest.approx(radius.item(), abs=1e-4)
    assert found.map is None
    assert auroc(detector.predict_dataset(tiny.test).score, tiny.test.labels) == 1


def test_test_images_do_not_change_the_kernels_width(tiny: Benchmark):
    detector = SVDD(width_factor=2.0).fit(tiny.train)
    x = detector.standardise(detector.extractor.extract(tiny.train))
    assert detector.width.item() == pytest.approx(2 * torch.pdist(x).median().item(), rel=1e-5)
    torch.testing.assert_close(x.mean(dim=0), torch.zeros(x.shape[1]), atol=1e-4, rtol=0)
