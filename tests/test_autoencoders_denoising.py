"""MSCDAE, AESc and SSTAE: pyramid, patches and joining; stains; dropout at test time; two regions."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.interpolate import CubicHermiteSpline
from scipy.ndimage import gaussian_filter, label

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.autoencoders import (
    MSCDAE,
    SSTAE,
    AddingAutoencoder,
    AESc,
    cubic_around,
    gaussian_pyramid,
    grid_patches,
    joined_levels,
    salt_and_pepper,
    spread_over_pixels,
    stained,
    two_region_loss,
)

SMALL = {"size": 32, "width": 4, "rates": (0.0, 0.2, 0.4), "passes": 4, "epochs": 2, "batch_size": 4}
PATCHES = {"size": 64, "levels": 2, "width": 4, "draws": 4, "epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_pyramid_halves_what_scipy_smooths():
    images = torch.rand(2, 3, 16, 24, dtype=torch.float64)
    levels = gaussian_pyramid(images, 3)
    assert [tuple(level.shape[-2:]) for level in levels] == [(16, 24), (8, 12), (4, 6)]
    assert levels[0] is images
    for finer, coarser in itertools.pairwise(levels):
        expected = gaussian_filter(finer.numpy(), 1.0, axes=(2, 3))[..., ::2, ::2]
        np.testing.assert_allclose(coarser, expected, rtol=1e-9)


def test_salt_and_pepper():
    images = torch.full((4, 3, 64, 64), 0.5)
    noisy = salt_and_pepper(images, 0.2)
    changed = (noisy != images).all(dim=1)
    assert torch.equal(changed, (noisy != images).any(dim=1))
    assert changed.float().mean().item() == pytest.approx(0.2, abs=0.02)
    assert set(noisy.unique().tolist()) == {0.0, 0.5, 1.0}
    assert (noisy == 1).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_patches_are_slices_row_by_row():
    images = torch.rand(2, 3, 16, 24)
    patches = grid_patches(images, 8)
    assert patches.shape == (2, 3 * 5, 3, 8, 8)
    assert torch.equal(patches[1, 7], images[1, :, 4:12, 8:16])


def test_pixels_get_the_mean_of_their_patches():
    values = torch.rand(1, 15, dtype=torch.float64)
    total, count = np.zeros((16, 24)), np.zeros((16, 24))
    for number, (row, column) in enumerate(np.ndindex(3, 5)):
        place = (slice(4 * row, 4 * row + 8), slice(4 * column, 4 * column + 8))
        total[place] += values[0, number].item()
        count[place] += 1
    np.testing.assert_allclose(spread_over_pixels(values, 8, (16, 24))[0], total / count, rtol=1e-12)


def test_joining_is_and_of_neighbours_then_or_at_every_threshold():
    maps = torch.randn(2, 4, 5, 6)
    for threshold in (-1.0, 0.0, 0.5, 1.0):
        cut = maps > threshold
        expected = (cut[:, :-1] & cut[:, 1:]).any(dim=1)
        assert torch.equal(joined_levels(maps) > threshold, expected)
    assert torch.equal(joined_levels(maps[:, :1]), maps[:, 0])


def test_levels_are_normalised_by_the_training_images(tiny: Benchmark):
    detector = MSCDAE(**PATCHES).fit(tiny.train)
    with torch.no_grad():
        maps = detector.level_maps(tiny.train.images())
    assert maps.shape == (8, 2, 64, 64)
    torch.testing.assert_close(detector.mean, maps.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(detector.deviation, maps.std(dim=(0, 2, 3)))


def test_every_level_learns(tiny: Benchmark):
    detector = MSCDAE(**PATCHES).fit(tiny.train)
    detector.loss(tiny.train.images()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.network.parameters())


@pytest.mark.parametrize(("size", "levels"), [(32, 3), (72, 2), (128, 5)])
def test_levels_without_room_for_patches_are_refused(size: int, levels: int):
    with pytest.raises(DataError, match="multiple"):
        MSCDAE(size=size, levels=levels)


def test_cubic_interpolation_is_scipys_hermite_spline():
    radii, angles = (
        torch.rand(1, 20, dtype=torch.float64),
        torch.linspace(0, 0.999, 101, dtype=torch.float64)[None],
    )
    points = np.append(radii[0], radii[0, 0])
    slopes = [(points[(i + 1) % 20] - points[(i - 1) % 20]) / 2 for i in range(20)]
    spline = CubicHermiteSpline(np.arange(21), points, [*slopes, slopes[0]])
    np.testing.assert_allclose(cubic_around(radii, angles), spline(20 * angles), rtol=1e-9)
    torch.testing.assert_close(cubic_around(radii, torch.arange(20)[None].double() / 20), radii)
    torch.testing.assert_close(cubic_around(radii, angles - 1), cubic_around(radii, angles))


@pytest.mark.parametrize("shape", [(200, 3, 64, 64), (50, 3, 128, 96), (1, 3, 32, 32)])
def test_stains_are_one_region_exactly_where_pixels_changed(shape: tuple[int, ...]):
    images = torch.rand(shape)
    changed, masks = stained(images)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert masks.any(dim=(1, 2)).all() and changed.min() >= 0 and changed.max() <= 1
    assert all(label(mask, np.ones((3, 3)))[1] == 1 for mask in masks.numpy())


def test_stains_keep_their_size():
    _, masks = stained(torch.rand(300, 3, 100, 100))
    largest = math.pi * (0.12 * 100 * 1.1) ** 2
    assert masks.sum(dim=(1, 2)).max() <= 1.1 * largest
    for mask in masks:
        rows, columns = mask.nonzero().T
        assert max(rows.max() - rows.min(), columns.max() - columns.min()) + 1 <= 2 * 0.12 * 100 * 1.25 + 1


def test_stains_are_grey_and_differ():
    changed, masks = stained(torch.zeros(50, 3, 64, 64))
    colours = [image[:, mask].mean(dim=1) for image, mask in zip(changed, masks, strict=True)]
    large = [c for c, mask in zip(colours, masks, strict=True) if mask.sum() > 60]
    assert all(colour.max() - colour.min() < 0.02 for colour in large)
    greys = torch.stack(large).mean(dim=1)
    assert greys.min() > 0.02 and greys.max() < 0.9 and greys.std() > 0.1


def test_stains_come_from_the_global_generator():
    images, found = torch.rand(3, 3, 48, 48), []
    for start in (1, 1, 2):
        torch.manual_seed(start)
        found.append(stained(images)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_aesc_must_remove_the_stain(tiny: Benchmark):
    detector, images = AESc(**SMALL).fit(tiny.train), tiny.train.images()[:2]
    seen = []
    hook = detector.network.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone())
    )
    torch.manual_seed(3)
    loss = detector.loss(images)
    hook.remove()
    reduced = detector.reduced(images)
    torch.manual_seed(3)
    assert torch.equal(seen[0], stained(reduced)[0])
    expected = (detector.network(seen[0]) - reduced).square().sum() / 2
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.network.parameters())


def test_maps_of_the_encoder_are_added():
    """Without the added maps the output would depend on the image only through the coarsest grid."""
    network = AddingAutoencoder(4, (0.0, 0.0, 0.0)).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps = [images]
        for block in network.down:
            maps.append(block(maps[-1]))
        current = network.up[0](F.interpolate(maps[3], scale_factor=2.0)) + maps[2]
        current = network.up[1](F.interpolate(current, scale_factor=2.0)) + maps[1]
        expected = network.last(F.interpolate(current, scale_factor=2.0)).sigmoid()
        torch.testing.assert_close(network(images), expected)


def test_dropout_takes_the_shares_and_keeps_the_mean():
    network, ones = AddingAutoencoder(4, (0.0, 0.2, 0.4)), torch.ones(2, 64, 16, 16)
    generator = torch.Generator().manual_seed(0)
    for level, share in enumerate(network.rates):
        kept = network.dropped(ones, level, generator)
        assert (kept == 0).float().mean().item() == pytest.approx(share, abs=0.02)
        assert kept.mean().item() == pytest.approx(1, abs=0.03)
        assert torch.equal(kept[0], kept[1])
    assert network.dropped(ones, 2, None) is ones


def test_uncertainty_is_reproducible_and_each_image_its_own(tiny: Benchmark):
    detector, images = AESc(uncertainty=True, **SMALL).fit(tiny.train), tiny.test.images()
    together = detector.predict(images)
    torch.manual_seed(99)
    assert torch.equal(detector.predict(images).score, together.score)
    alone = torch.cat([detector.predict(image[None]).score for image in images])
    torch.testing.assert_close(alone, together.score, rtol=1e-4, atol=1e-8)
    assert (together.score > 0).all()


def test_uncertainty_is_the_variance_of_the_passes(tiny: Benchmark):
    detector, images = AESc(**SMALL).fit(tiny.train), torch.rand(2, 3, 32, 32)
    generator = torch.Generator().manual_seed(detector.seed)
    with torch.no_grad():
        drawings = np.stack([detector.network(images, generator).double().numpy() for _ in range(4)])
        found = detector.variance(images)
    np.testing.assert_allclose(found, drawings.var(axis=0).mean(axis=1), rtol=1e-3, atol=1e-9)


def test_score_is_the_root_mean_square_of_the_residual(tiny: Benchmark):
    detector, images = AESc(**SMALL).fit(tiny.train), torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        residual = (images - detector.network(images)).abs().mean(dim=1).double()
    torch.testing.assert_close(
        detector.predict(images).score.double(), residual.square().mean(dim=(1, 2)).sqrt()
    )


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(DataError, match="multiple of 8"):
        AESc(size=36, rates=(0.0, 0.0, 0.1))


def test_two_region_loss_is_the_papers():
    restored, images = torch.rand(2, 4, 3, 5, 6, dtype=torch.float64)
    masks = torch.rand(4, 5, 6) < 0.3
    masks[0], masks[1] = False, True
    expected = 0.0
    for x, y, mask in zip(restored.numpy(), images.numpy(), masks.numpy(), strict=True):
        for region, weight in ((mask, 0.7), (~mask, 0.3)):
            if region.any():
                expected += (
                    weight
                    * sum(((x[:, r, c] - y[:, r, c]) ** 2).sum() for r, c in np.argwhere(region))
                    / region.sum()
                )
    assert two_region_loss(restored, images, masks, 0.7).item() == pytest.approx(expected / 4, rel=1e-9)


def test_sstae_keeps_its_weight_and_reads_squares(tiny: Benchmark):
    detector = SSTAE(weight=0.8, **SMALL).fit(tiny.train)
    assert detector.weight == detector.config["weight"] == 0.8
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = (images - detector.network(images)).square().mean(dim=1)
    torch.testing.assert_close(detector.difference(images, detector.restore(images)).detach(), expected)
    detector.loss(tiny.train.images()).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
