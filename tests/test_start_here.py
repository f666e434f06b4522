"""Notebook 00's detectors against SciPy and a float64 loop."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis

from adlearn.errors import DataError
from adlearn.methods.start_here import (
    PatchGaussian,
    PixelGaussian,
    mean_and_variance,
    patches,
    whitened_distance,
    whitening,
)


def test_whitened_distance_is_scipys_mahalanobis_with_the_regularised_covariance():
    generator = torch.Generator().manual_seed(0)
    mixture = torch.randn(6, 6, generator=generator)
    embedding = torch.randn(40, 3, 6, generator=generator) @ mixture
    probe = torch.randn(2, 3, 6, generator=generator)
    distance = whitened_distance(probe, *whitening(embedding, 0.01))
    for position in range(3):
        points = embedding[:, position].double().numpy()
        inverse = np.linalg.inv(np.cov(points, rowvar=False) + 0.01 * np.eye(6))
        for b in range(2):
            expected = mahalanobis(probe[b, position].double().numpy(), points.mean(0), inverse)
            assert distance[b, position].item() == pytest.approx(expected, rel=1e-4)


def test_the_diagonal_model_is_the_full_one_where_features_do_not_move_together(tiny):
    embedding = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])[:, None]
    full = whitened_distance(torch.tensor([[[3.0, 1.0]]]), *whitening(embedding, 0.1))
    mean, variance = mean_and_variance(embedding)
    expected = (((torch.tensor([3.0, 1.0]) - mean[0]) ** 2) / (variance[0] + 0.1)).sum().sqrt()
    assert full.item() == pytest.approx(expected.item(), rel=1e-5)


def test_mean_and_variance_are_numpys():
    values = np.random.default_rng(0).normal(3, 2, (7, 4, 5))
    mean, variance = mean_and_variance(torch.tensor(values))
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(variance, values.var(0, ddof=1))


def test_patches_keep_the_place_of_every_layer():
    fine = torch.arange(2 * 4 * 4.0).reshape(1, 2, 4, 4)
    coarse = torch.arange(3 * 2 * 2.0).reshape(1, 3, 2, 2)
    embedding = patches({"fine": fine, "coarse": coarse})
    assert embedding.shape == (1, 16, 5)
    for row in range(4):
        for column in range(4):
            expected = torch.cat([fine[0, :, row, column], coarse[0, :, row // 2, column // 2]])
            assert torch.equal(embedding[0, 4 * row + column], expected)


def test_the_pixel_map_is_the_smoothed_standardised_distance(tiny):
    detector = PixelGaussian(regularisation=1e-3, sigma=2.0).fit(tiny.train)
    train = tiny.train.images().double().numpy()
    image = tiny.test.images()[-1:]
    z = (image[0].double().numpy() - train.mean(0)) / np.sqrt(train.var(0, ddof=1) + 1e-3)
    expected = gaussian_filter(np.sqrt((z**2).sum(axis=0)), 2.0)
    prediction = detector.predict(image)
    np.testing.assert_allclose(prediction.map[0], expected, rtol=1e-3)
    assert prediction.score.item() == pytest.approx(expected.max(), rel=1e-3)


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_the_patch_map_equals_a_loop_over_positions(tiny, covariance):
    detector = PatchGaussian(covariance, sigma=0.5).fit(tiny.train)
    points = patches(detector.extractor.extract(tiny.train)).double().numpy()
    image = tiny.test.images()[-1:]
    probe = patches(detector.extractor(image)).double().numpy()[0]
    expected = []
    for position in range(points.shape[1]):
        sigma = np.cov(points[:, position], rowvar=False) + 0.01 * np.eye(points.shape[2])
        if covariance == "diagonal":
            sigma = np.diag(np.diag(sigma))
        inverse = np.linalg.inv(sigma)
        expected.append(mahalanobis(probe[position], points[:, position].mean(0), inverse))
    grid = torch.tensor(expected).view(1, 1, 8, 8)
    full = torch.nn.functional.interpolate(grid, size=(64, 64), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(
        detector.predict(image).map[0], gaussian_filter(full[0, 0].numpy(), 0.5), rtol=2e-3
    )


def test_another_image_size_than_fitted_is_refused(tiny):
    bigger = torch.rand(1, 3, 96, 96)
    for detector in (PixelGaussian(), PatchGaussian()):
        with pytest.raises(DataError, match="fitted on"):
            detector.fit(tiny.train).predict(bigger)


def test_an_unknown_covariance_is_refused():
    with pytest.raises(DataError, match="full"):
        PatchGaussian("spherical")
