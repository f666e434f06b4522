"""Restoring from a part of the image: edges, high frequencies, surroundings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from skimage.color import rgb2lab

from adlearn.errors import DataError
from adlearn.methods.autoencoders import (
    FAIR,
    SSMCTB,
    SSPCAB,
    CornerConvolution,
    EdgRec,
    PredictiveAutoencoder,
    PredictiveUNet,
    colour_difference,
    edges,
    gradient_dissimilarity,
    grey,
    high_pass,
    lab_colours,
    steepness,
)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_edges_are_the_range_of_grey_values_around_each_pixel():
    images = rand(2, 3, 7, 9)
    shades = grey(images)[:, 0].numpy()
    for b, y, x in np.ndindex(2, 7, 9):
        around = shades[b, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        assert edges(images)[b, 0, y, x] == pytest.approx(around.max() - around.min(), abs=1e-12)


def test_colours_are_scikit_images_lab():
    images = rand(3, 3, 6, 5)
    images[0] *= 0.05
    expected = rgb2lab(images.permute(0, 2, 3, 1).numpy())[..., 1:]
    np.testing.assert_allclose(lab_colours(images).permute(0, 2, 3, 1), expected, atol=2e-3)


def test_the_colour_of_grey_is_nothing_and_lightness_does_not_count():
    shades = rand(1, 1, 4, 4).expand(1, 3, 4, 4)
    assert lab_colours(shades).abs().max() < 0.05
    assert colour_difference(shades, 0.3 * shades).max() < 1e-2
    red = shades.clone()
    red[:, 0] = 1
    assert colour_difference(shades, red).min() > 1


def test_colours_keep_gradients_finite_at_black():
    black = torch.zeros(1, 3, 4, 4, requires_grad=True)
    lab_colours(black).square().sum().backward()
    assert torch.isfinite(black.grad).all()


def prewitt(plane, y, x):
    padded = np.pad(plane, 1)[y : y + 3, x : x + 3]
    across = (padded[:, 0] - padded[:, 2]).sum() / 3
    down = (padded[0] - padded[2]).sum() / 3
    return np.sqrt(across**2 + down**2 + 1e-12)


def test_gradient_similarity_is_the_papers_formula_at_the_first_scale():
    first, second = rand(1, 2, 6, 5), rand(1, 2, 6, 5, seed=1)
    found = gradient_dissimilarity(first, second, scales=1)
    for y, x in np.ndindex(6, 5):
        values = []
        for c in range(2):
            one, two = (prewitt(images[0, c].numpy(), y, x) for images in (first, second))
            values.append(1 - (2 * one * two + 0.0026) / (one**2 + two**2 + 0.0026))
        assert found[0, y, x] == pytest.approx(np.mean(values), abs=1e-9)


def test_gradient_similarity_averages_scales():
    first, second = rand(1, 3, 16, 16), rand(1, 3, 16, 16, seed=1)
    fine = gradient_dissimilarity(first, second, scales=1)
    coarse = gradient_dissimilarity(F.avg_pool2d(first, 2), F.avg_pool2d(second, 2), scales=1)
    larger = F.interpolate(coarse[:, None], (16, 16), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(gradient_dissimilarity(first, second), (fine + larger) / 2)
    assert gradient_dissimilarity(first, first).abs().max() < 1e-12


def test_a_brighter_image_is_as_steep():
    images = rand(1, 3, 8, 8)
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    torch.testing.assert_close(steepness(images)[inner], steepness(images + 0.3)[inner])


def test_high_pass_is_butterworths_filter():
    images = rand(1, 3, 16, 20)
    spectrum = np.fft.fft2(grey(images)[0, 0].numpy())
    frequency = np.hypot(np.fft.fftfreq(16)[:, None], np.fft.fftfreq(20))
    with np.errstate(divide="ignore"):
        expected = np.fft.ifft2(spectrum / (1 + (0.1 / frequency) ** 4)).real
    np.testing.assert_allclose(high_pass(images, cutoff=0.1)[0, 0], expected, atol=1e-6)


def test_high_pass_removes_brightness_and_keeps_fine_stripes():
    x = torch.arange(32, dtype=torch.float64)
    stripes = (0.5 + 0.2 * torch.cos(torch.pi * x)).expand(1, 3, 32, 32)
    found = high_pass(stripes)
    assert found.mean().abs() < 1e-9
    assert found.abs().mean() == pytest.approx(0.2, abs=1e-3)
    torch.testing.assert_close(high_pass(stripes + 0.2), found, atol=1e-6, rtol=0)


@pytest.mark.parametrize("cls", [EdgRec, FAIR])
def test_the_network_sees_one_grey_channel_without_shading(cls):
    detector = cls(size=32, width=4, levels=3)
    images = rand(2, 3, 32, 32).float() * 0.5
    torch.testing.assert_close(detector.visible(images), detector.visible(images + 0.2), atol=1e-5, rtol=0)
    assert detector.visible(images).shape == (2, 1, 32, 32)


def test_the_loss_compares_with_clean_images():
    detector = EdgRec(size=32, width=4, levels=3)
    images = rand(4, 3, 32, 32).float()
    clean = []
    detector.restore = lambda damaged: clean.append(damaged) or images
    torch.manual_seed(0)
    assert detector.loss(images) == pytest.approx(0, abs=1e-5)
    assert not torch.equal(clean[0], images)


@pytest.mark.parametrize("dilation", [1, 2])
def test_a_position_never_sees_itself_nor_its_neighbours(dilation):
    torch.manual_seed(0)
    block = CornerConvolution(3, dilation).double()
    values = rand(1, 3, 9, 9).requires_grad_()
    outputs = sum(layer.bias.sum() for layer in block.corners) * 0 + block(values)
    for y, x in ((4, 4), (0, 0), (8, 3)):
        (gradient,) = torch.autograd.grad(outputs[0, :, y, x].sum(), values, retain_graph=True)
        seen = gradient[0].abs().sum(dim=0).nonzero().tolist()
        reach = dilation + 1
        corners = [[y + a * reach, x + b * reach] for a in (-1, 1) for b in (-1, 1)]
        assert all(place in corners for place in seen)
    for layer in block.corners:
        torch.nn.init.constant_(layer.bias, 10.0)
    (gradient,) = torch.autograd.grad(block(values)[0, :, 4, 4].sum(), values)
    assert gradient[0].abs().sum(dim=0).count_nonzero() == 4


@pytest.mark.parametrize("block", [SSPCAB, SSMCTB])
def test_blocks_keep_the_shape_and_weigh_channels_between_0_and_1(block):
    torch.manual_seed(0)
    made = block(8)
    values = rand(2, 8, 6, 7).float()
    predicted, found = made.predict(values), made(values)
    assert found.shape == values.shape
    weights = found / predicted.clamp(min=1e-9)
    seen = predicted > 1e-6
    assert weights[seen].min() > 0 and weights[seen].max() < 1
    for b, c in np.ndindex(2, 8):
        one = weights[b, c][seen[b, c]]
        assert one.numel() == 0 or one.max() - one.min() < 1e-4


def test_the_blocks_own_losses():
    values, predicted = 3 * rand(2, 4, 3, 3), 3 * rand(2, 4, 3, 3, seed=1)
    squares = (values - predicted).square().mean()
    torch.testing.assert_close(SSPCAB(4).error(values, predicted), squares)
    gaps = (values - predicted).abs()
    huber = torch.where(gaps < 1, gaps.square() / 2, gaps - 0.5).mean()
    torch.testing.assert_close(SSMCTB(4).error(values, predicted), huber)


def test_the_block_sits_at_the_coarsest_grid_and_its_loss_counts_a_tenth():
    torch.manual_seed(0)
    detector = PredictiveAutoencoder(size=32, width=4, levels=3)
    seen = []
    detector.network.block.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape))
    images = rand(2, 3, 32, 32).float()
    loss = detector.eval().loss(images)
    assert seen == [(2, 16, 8, 8)]
    restored, error = detector.network.predicted(images)
    torch.testing.assert_close(loss, (restored - images).square().mean() + 0.1 * error)


def test_without_a_block_it_is_a_plain_unet():
    network = PredictiveUNet(4, 3, None).eval()
    images = rand(1, 3, 16, 16).float()
    restored, error = network.predicted(images)
    assert error == 0
    torch.testing.assert_close(network(images), restored)


def test_an_unknown_block_is_refused():
    with pytest.raises(DataError, match="none, sspcab, ssmctb"):
        PredictiveAutoencoder("attention")
