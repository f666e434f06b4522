"""The shared pieces: U-Net's shapes and paths, SSIM against scikit-image."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from adlearn.methods.synthetic_anomalies import UNet, double_conv, ssim


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("size", [(64, 64), (37, 50), (33, 17), (1, 1)])
@pytest.mark.parametrize("skips", [True, False])
def test_unet_keeps_any_size(size, skips):
    network = UNet(4, 2, width=2, levels=4, skips=skips).eval()
    assert network(torch.rand(2, 4, *size)).shape == (2, 2, *size)


def test_unet_widths_double_up_to_eight_times():
    network = UNet(3, 1, width=4, levels=6)
    assert [maps.shape[1] for maps in network.eval().encode(torch.rand(1, 3, 64, 64))] == [
        4,
        8,
        16,
        32,
        32,
        32,
    ]


def test_unet_grids_halve():
    maps = UNet(3, 1, width=2, levels=4).eval().encode(torch.rand(1, 3, 40, 21))
    assert [tuple(m.shape[-2:]) for m in maps] == [(40, 21), (20, 11), (10, 6), (5, 3)]


def without_the_coarsest_grid(network: UNet, images: torch.Tensor) -> torch.Tensor:
    """The network's answer when the coarsest map is constant."""
    handle = network.down[-1].register_forward_hook(lambda module, inputs, output: torch.ones_like(output))
    answer = network(images)
    handle.remove()
    return answer


def test_without_skips_everything_passes_the_coarsest_grid():
    first, second = torch.rand(2, 1, 3, 32, 32)
    closed, opened = (UNet(3, 3, width=2, levels=3, skips=skips).eval() for skips in (False, True))
    assert not torch.allclose(closed(first), closed(second))
    assert torch.equal(*(without_the_coarsest_grid(closed, images) for images in (first, second)))
    assert not torch.allclose(*(without_the_coarsest_grid(opened, images) for images in (first, second)))


def test_without_skips_no_gradient_goes_around_the_coarsest_grid():
    for skips in (False, True):
        images = torch.rand(1, 3, 32, 32, requires_grad=True)
        network = UNet(3, 3, width=2, levels=3, skips=skips).eval()
        without_the_coarsest_grid(network, images).square().sum().backward()
        assert (images.grad is not None and images.grad.abs().sum().item() > 0) == skips


def test_double_conv_is_two_rounds_without_idle_biases():
    names = [type(layer).__name__ for layer in double_conv(3, 5)]
    assert names == ["Conv2d", "BatchNorm2d", "ReLU"] * 2
    assert all(layer.bias is None for layer in double_conv(3, 5) if isinstance(layer, torch.nn.Conv2d))


def by_scikit_image(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    maps = [
        [
            structural_similarity(a.numpy(), b.numpy(), full=True, **options)[1]
            for a, b in zip(x, y, strict=True)
        ]
        for x, y in zip(first, second, strict=True)
    ]
    return np.mean(maps, axis=1)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.5])
def test_ssim_is_scikit_images(noise):
    first = torch.rand(2, 3, 24, 31, dtype=torch.float64)
    second = (first + noise * torch.randn_like(first)).clamp(0, 1)
    np.testing.assert_allclose(ssim(first, second).numpy(), by_scikit_image(first, second), atol=1e-10)


def test_ssim_of_equal_images_is_one_and_never_more():
    images = torch.rand(2, 3, 20, 20)
    torch.testing.assert_close(ssim(images, images), torch.ones(2, 20, 20))
    assert ssim(images, torch.rand_like(images)).max() <= 1


def test_ssim_is_symmetric_and_of_each_image_alone():
    first, second = torch.rand(2, 3, 3, 20, 20, dtype=torch.float64)
    torch.testing.assert_close(ssim(first, second), ssim(second, first))
    torch.testing.assert_close(ssim(first, second)[1:2], ssim(first[1:2], second[1:2]))


def test_ssim_has_the_right_gradient():
    first, second = torch.rand(2, 1, 1, 9, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: ssim(x, second, sigma=0.7), first.requires_grad_())
