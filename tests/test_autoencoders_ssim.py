"""SSIM: the loss against scikit-image, and its three factors."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from adlearn.data.base import Benchmark
from adlearn.methods.autoencoders import ConvolutionalAutoencoder, SSIMAutoencoder, ssim_factors
from adlearn.methods.synthetic_anomalies import ssim

SMALL = {"size": 32, "width": 4, "code": 5, "epochs": 2, "batch_size": 4}
OPTIONS = {
    "gaussian_weights": True,
    "sigma": 1.5,
    "use_sample_covariance": False,
    "data_range": 1,
    "full": True,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    first = torch.rand(2, 3, 24, 28, dtype=torch.float64)
    return first, (0.7 * first + 0.3 * torch.rand_like(first)) * 0.8


def reference(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    """Scikit-image's map, image by image and channel by channel: (B, C, H, W)."""
    rows = [
        [structural_similarity(a, b, **OPTIONS)[1] for a, b in zip(x, y, strict=True)]
        for x, y in zip(first.numpy(), second.numpy(), strict=True)
    ]
    return np.array(rows)


def test_difference_is_one_minus_scikit_images():
    first, second = pair()
    found = SSIMAutoencoder(**SMALL).difference(first, second)
    np.testing.assert_allclose(found, 1 - reference(first, second).mean(axis=1), rtol=1e-9, atol=1e-9)


def test_factors_multiply_to_ssim():
    first, second = pair()
    luminance, contrast, structure = ssim_factors(first, second)
    product = (luminance * contrast * structure).mean(dim=1)
    torch.testing.assert_close(product, ssim(first, second), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        luminance * contrast * structure, reference(first, second), rtol=1e-9, atol=1e-9
    )


def test_each_factor_answers_to_its_own_change():
    wave = 0.1 * torch.sin(torch.arange(48.0, dtype=torch.float64) * np.pi / 2).expand(1, 1, 48, 48)
    changes = {"luminance": 0.6 + wave, "contrast": 0.4 + wave / 3, "structure": 0.4 + wave.roll(1, dims=3)}
    for number, changed in enumerate(changes.values()):
        factors = [factor[0, 0, 24, 24].item() for factor in ssim_factors(0.4 + wave, changed)]
        own = factors.pop(number)
        assert own < 0.96 and all(other > 0.99 for other in factors)


def test_equal_and_constant_images_have_finite_factors_of_1():
    for value in (0.0, 0.3, 1.0):
        flat = torch.full((1, 3, 16, 16), value)
        for factor in ssim_factors(flat, flat):
            torch.testing.assert_close(factor, torch.ones_like(flat), rtol=0, atol=1e-3)


def test_loss_and_map_are_1_minus_ssim(tiny: Benchmark):
    detector, images = SSIMAutoencoder(**SMALL).fit(tiny.train), tiny.test.images()[:3]
    reduced = detector.reduced(images)
    with torch.no_grad():
        away = 1 - ssim(reduced, detector.restore(reduced))
    torch.testing.assert_close(detector.loss(images), away.sum() / 3)
    assert detector.predict(images).score.max() <= 2


def test_gradients_are_finite_where_the_drawing_is_the_image():
    images = torch.full((1, 3, 16, 16), 0.5, requires_grad=True)
    (1 - ssim(images, torch.full_like(images, 0.5))).sum().backward()
    assert torch.isfinite(images.grad).all()


def test_only_the_difference_differs():
    own = set(vars(SSIMAutoencoder)) - {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
    assert own == {"difference"} and issubclass(SSIMAutoencoder, ConvolutionalAutoencoder)
