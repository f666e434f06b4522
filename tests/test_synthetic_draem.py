"""DRAEM: Perlin noise and its masks, the painting rule and the losses in float64, what trains what."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_cuda import fake_cuda_loss
from skimage.metrics import structural_similarity

from adlearn.data.scenery import scenery
from adlearn.methods import synthetic_anomalies
from adlearn.methods.feature_adaptation import perlin_noise, region_focal
from adlearn.methods.synthetic_anomalies import (
    DRAEM,
    TEXTURE_CHANGES,
    largest_mean,
    perlin_mask,
    perlin_textured,
    restoration_loss,
    same_crop,
    settle,
    texture_stock,
    varied,
)

SMALL = {"widths": (2, 2), "epochs": 1, "batch_size": 2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_perlin_noise_is_zero_on_its_lattice():
    # 3 px for every 2 cells (and 9 px for every 2): the middle one lies on a lattice point.
    noise = perlin_noise((3 * 4, 9 * 2), (2 * 4, 2 * 2))
    torch.testing.assert_close(noise[1::3, 4::9], torch.zeros(4, 2), atol=1e-5, rtol=0)


def test_perlin_noise_has_mean_zero_and_its_range():
    noise = torch.stack([perlin_noise((64, 64), (8, 4)) for _ in range(60)])
    assert abs(noise.mean().item()) < 0.01
    assert noise.abs().max() <= 1 + 1e-5
    assert 0.15 < noise.std() < 0.4


def test_more_cells_make_finer_noise():
    def roughness(cells: int) -> float:
        noise = torch.stack([perlin_noise((64, 64), (cells, cells)) for _ in range(8)])
        return (noise.diff(dim=2).square().mean() / noise.square().mean()).item()

    found = [roughness(cells) for cells in (1, 2, 4, 8, 16)]
    assert all(2 < finer / coarser < 6 for coarser, finer in pairwise(found))


def test_the_cells_are_powers_of_two_from_1_to_32_on_each_axis(monkeypatch):
    drawn = []

    def watched(size, cells, device):
        drawn.append(cells)
        return perlin_noise(size, cells, device)

    monkeypatch.setattr(synthetic_anomalies, "perlin_noise", watched)
    for _ in range(150):
        perlin_mask((64, 64))
    for axis in (0, 1):
        assert {cells[axis] for cells in drawn} == {1, 2, 4, 8, 16, 32}
    assert any(a != b for a, b in drawn)


def test_the_same_seed_gives_the_same_mask_and_another_one_another():
    masks = []
    for number in (3, 3, 4):
        torch.manual_seed(number)
        masks.append(torch.stack([perlin_mask((40, 56)) for _ in range(4)]))
    assert masks[0].shape == (4, 40, 56) and masks[0].dtype == torch.bool
    assert torch.equal(masks[0], masks[1]) and not torch.equal(masks[0], masks[2])


def test_a_higher_threshold_leaves_less():
    areas = []
    for threshold in (0.2, 0.5, 0.8):
        torch.manual_seed(0)
        areas.append(torch.stack([perlin_mask((64, 64), threshold) for _ in range(50)]).float().mean().item())
    assert areas[0] > 2 * areas[1] > 4 * areas[2]


def test_masks_are_exactly_where_pixels_changed():
    images = torch.rand(12, 3, 32, 48)
    before = images.clone()
    changed, masks = perlin_textured(images)
    assert changed.shape == images.shape and masks.shape == (12, 32, 48) and masks.dtype == torch.bool
    assert torch.equal(images, before)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert changed.min() >= 0 and changed.max() <= 1


def test_half_of_the_images_stay_normal():
    images = torch.rand(200, 3, 16, 16)
    for share in (0.0, 0.5, 1.0):
        painted = perlin_textured(images, torch.rand(3, 3, 16, 16), share=share)[1].flatten(1).any(dim=1)
        # A painted image's mask may be empty, so that there are a few less.
        assert 0.6 * share <= painted.float().mean() <= share + 0.07


def test_one_image_is_enough_and_the_textures_stay():
    textures = torch.rand(2, 3, 20, 30)
    before = textures.clone()
    changed, masks = perlin_textured(torch.rand(1, 3, 20, 24), textures, share=1.0)
    assert changed.shape == (1, 3, 20, 24) and masks.shape == (1, 20, 24)
    assert torch.equal(textures, before)


def test_the_opacity_rule_is_the_papers(monkeypatch):
    texture, image = torch.rand(2, 3, 24, 24, dtype=torch.float64)
    mask = torch.rand(24, 24) < 0.3
    opacities = []
    real_between = synthetic_anomalies.between

    def watched(low, high):
        opacities.append(real_between(low, high))
        return opacities[-1]

    monkeypatch.setattr(synthetic_anomalies, "between", watched)
    monkeypatch.setattr(synthetic_anomalies, "varied", lambda chosen: chosen)
    monkeypatch.setattr(synthetic_anomalies, "perlin_mask", lambda size, device: mask)
    changed, masks = perlin_textured(image[None], texture[None], share=1.0)
    (beta,) = opacities
    assert 0.1 <= beta <= 1
    expected = image.clone()
    for row, column in mask.nonzero().tolist():
        for channel in range(3):
            place = (channel, row, column)
            expected[place] = (1 - beta) * image[place] + beta * texture[place]
    torch.testing.assert_close(changed[0], expected)
    assert torch.equal(masks[0], mask)


def test_full_opacity_shows_the_texture_alone(monkeypatch):
    monkeypatch.setattr(synthetic_anomalies, "varied", lambda texture: texture)
    texture = torch.rand(1, 3, 32, 32)
    changed, masks = perlin_textured(torch.zeros(20, 3, 32, 32), texture, opacity=(1.0, 1.0), share=1.0)
    assert masks.any()
    torch.testing.assert_close(changed, texture * masks[:, None])


def test_every_change_of_a_texture_keeps_shape_and_range():
    texture = scenery(1, 40)[0]
    before = texture.clone()
    for change in TEXTURE_CHANGES:
        found = change(texture)
        assert found.shape == texture.shape and found.dtype == texture.dtype
        assert found.min() >= 0 and found.max() <= 1
    assert torch.equal(texture, before)


def test_three_different_changes_are_made(monkeypatch):
    made = []
    marks = tuple(lambda texture, i=i: (made.append(i), texture)[1] for i in range(10))
    monkeypatch.setattr(synthetic_anomalies, "TEXTURE_CHANGES", marks)
    for _ in range(40):
        made.clear()
        varied(torch.rand(3, 4, 4))
        assert len(made) == 3 == len(set(made))


def test_the_stock_is_scenery_made_once():
    assert texture_stock(16) is texture_stock(16)
    assert torch.equal(texture_stock(16)[:5], scenery(5, 16))


def test_the_restoration_loss_is_the_papers():
    restored, images = torch.rand(2, 2, 3, 20, 26, dtype=torch.float64)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    squared, dissimilar = [], []
    for one, other in zip(restored.flatten(0, 1).numpy(), images.flatten(0, 1).numpy(), strict=True):
        squared.append(np.mean((one - other) ** 2))
        dissimilar.append(np.mean(1 - structural_similarity(one, other, full=True, **options)[1]))
    assert math.isclose(restoration_loss(restored, images).item(), np.mean(squared) + np.mean(dissimilar))
    assert abs(restoration_loss(images, images).item()) < 1e-9


def test_focal_loss_of_one_logit_is_the_two_class_softmaxs():
    logits, targets = torch.randn(2, 5, 6, dtype=torch.float64), torch.rand(5, 6) < 0.4
    expected = 0.0
    for row in range(5):
        for column in range(6):
            normal, anomalous = logits[:, row, column].tolist()
            total = math.exp(normal) + math.exp(anomalous)
            right = (math.exp(anomalous) if targets[row, column] else math.exp(normal)) / total
            expected -= (1 - right) ** 2 * math.log(right) / 30
    found = region_focal(logits[1] - logits[0], targets.double(), gamma=2)
    assert math.isclose(found.item(), expected)


def painted_by(monkeypatch, painted: torch.Tensor, masks: torch.Tensor) -> None:
    monkeypatch.setattr(synthetic_anomalies, "perlin_textured", lambda images: (painted, masks))


def test_the_loss_is_the_sum_of_restoration_and_segmentation(monkeypatch):
    detector = DRAEM(**SMALL)
    images, painted = torch.rand(2, 2, 3, 32, 32)
    masks = torch.rand(2, 32, 32) < 0.2
    painted_by(monkeypatch, painted, masks)
    restored = detector.network["restore"](painted)
    logits = detector.network["compare"](torch.cat([restored, painted], dim=1))
    expected = F.mse_loss(restored, images) + 1 - synthetic_anomalies.ssim(restored, images).mean()
    expected = expected + region_focal(logits[:, 0], masks.float(), gamma=2)
    torch.testing.assert_close(detector.loss(images), expected)


def gradient_norms(detector: DRAEM, value: torch.Tensor) -> dict[str, float]:
    detector.zero_grad()
    value.backward()
    parts = detector.network.items()
    return {
        n: sum(p.grad.norm().item() for p in part.parameters() if p.grad is not None) for n, part in parts
    }


def test_both_networks_learn_and_segmentation_teaches_the_restoring_one():
    detector = DRAEM(**SMALL)
    images = torch.rand(2, 3, 32, 32)
    assert min(gradient_norms(detector, detector.loss(images)).values()) > 0
    logits = detector.compared(images, detector.restored(images))
    norms = gradient_norms(detector, region_focal(logits, torch.ones_like(logits), gamma=2))
    assert norms["restore"] > 0 and norms["compare"] > 0
    norms = gradient_norms(detector, restoration_loss(detector.restored(images), images))
    assert norms["restore"] > 0 and norms["compare"] == 0


def test_training_changes_both_networks(tiny):
    detector = DRAEM(**SMALL)
    before = {name: value.clone() for name, value in detector.network.named_parameters()}
    detector.fit(tiny.train)
    moved = {
        name.split(".")[0]
        for name, value in detector.network.named_parameters()
        if (value != before[name]).any()
    }
    assert moved == {"restore", "compare"}


@pytest.mark.parametrize(("size", "side"), [((32, 32), 7), ((30, 64), 5), ((64, 64), 5)])
def test_the_score_is_the_largest_mean_of_a_window(size, side):
    maps = torch.rand(2, *size, dtype=torch.float64)
    share = side / max(size)
    padded = F.pad(maps, (side // 2,) * 4)
    windows = padded.unfold(1, side, 1).unfold(2, side, 1)
    torch.testing.assert_close(largest_mean(maps, share), windows.mean(dim=(3, 4)).amax(dim=(1, 2)))


def test_the_window_is_the_papers_at_the_papers_size():
    spike = torch.zeros(1, 256, 256)
    spike[0, 100, 100] = 1
    assert math.isclose(largest_mean(spike, 21 / 256).item(), 1 / 21**2, rel_tol=1e-5)


def test_the_map_is_the_probability_and_the_score_its_largest_mean(tiny):
    detector = DRAEM(**SMALL).fit(tiny.train)
    images = tiny.test.images()
    found = detector.predict(images)
    assert found.map.min() >= 0 and found.map.max() <= 1
    torch.testing.assert_close(found.score, largest_mean(found.map, 21 / 256))


def test_one_square_is_cut_from_all_tensors():
    images = torch.arange(2 * 12 * 20).view(2, 1, 12, 20)
    corners = set()
    for _ in range(40):
        first, second = same_crop(8, images, images[:, 0])
        assert first.shape == (2, 1, 8, 8) and torch.equal(first[:, 0], second)
        corners.add(first[0, 0, 0, 0].item())
    assert len(corners) > 15
    assert same_crop(100, images)[0].shape == images.shape


def test_losses_are_made_on_the_device():
    def loss(detector, batch):
        images, painted, masks = batch
        restored = detector.restored(painted)
        found = region_focal(detector.compared(painted, restored), masks, gamma=2)
        return restoration_loss(restored, images) + found

    fake_cuda_loss(
        lambda: DRAEM(**SMALL), loss, lambda: (*torch.rand(2, 2, 3, 32, 32), torch.ones(2, 32, 32))
    )


def test_settled_statistics_are_the_plain_mean_over_all_passes():
    layer = torch.nn.BatchNorm2d(3)
    batches = [torch.randn(4, 3, 5, 5) + i for i in range(3)]
    torch.nn.Sequential(layer).train()(batches[0])
    assert settle(layer, [lambda batch=batch: layer(batch) for batch in batches]) is layer
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in batches]).mean(dim=0)
    spreads = torch.stack([batch.transpose(0, 1).flatten(1).var(dim=1) for batch in batches]).mean(dim=0)
    torch.testing.assert_close(layer.running_mean, means)
    torch.testing.assert_close(layer.running_var, spreads)
    assert layer.momentum == 0.1 and not layer.training


def test_after_training_the_statistics_are_settled_once(tiny, monkeypatch):
    calls = []
    real_settle = settle

    def watched(module, passes):
        listed = list(passes)
        calls.append(len(listed))
        return real_settle(module, listed)

    monkeypatch.setattr(synthetic_anomalies, "settle", watched)
    DRAEM(**SMALL).fit(tiny.train)
    assert calls == [4]
