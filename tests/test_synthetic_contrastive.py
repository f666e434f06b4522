"""SPD and DS2: blending, views with places, pairs and losses against loops in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adlearn.data.base import Benchmark
from adlearn.methods.start_here import PatchGaussian
from adlearn.methods.synthetic_anomalies import (
    DS2,
    SPD,
    DenseTail,
    cell_diagonal,
    dense_agreement,
    located_view,
    most_alike,
    propagated,
    same_place,
    smooth_blended,
    spot_the_difference,
    weak_view,
)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (4, 3, 48, 80)])
def test_blended_masks_are_where_pixels_changed(shape):
    images = torch.rand(shape)
    before = images.clone()
    changed, masks = smooth_blended(images)
    assert torch.equal(masks, (changed != images).any(dim=1)) and masks.any(dim=(1, 2)).all()
    assert torch.equal(images, before) and changed.min() >= 0 and changed.max() <= 1
    assert not masks.all(dim=1).all(dim=1).any()


def test_a_blended_border_is_soft():
    # Left half black, right half white: with a piece of the other colour, no step is as high as a sharp one.
    images = torch.zeros(40, 3, 128, 128)
    images[..., 64:] = 1
    changed, _ = smooth_blended(images)
    steps = (changed - images).diff(dim=2).abs().amax(dim=(1, 2, 3))
    assert (changed - images).abs().amax(dim=(1, 2, 3)).max() > 0.6
    assert steps.max() < 0.35


def test_blending_without_a_border_is_pasting():
    images = torch.rand(8, 3, 128, 128)
    masks = smooth_blended(images, border=1e-3 / 128)[1]
    assert (masks.sum(dim=(1, 2)) <= 0.011 * 128**2).all() and (masks.sum(dim=(1, 2)) >= 0.004 * 128**2).all()


def test_spd_term_is_the_difference_of_cosines():
    image, weak, blended = torch.randn(3, 5, 7, dtype=torch.float64)
    rows = zip(image.numpy(), weak.numpy(), blended.numpy(), strict=True)
    expected = sum(cosine(i, b) - cosine(i, w) for i, w, b in rows) / 5
    assert spot_the_difference(image, weak, blended).item() == pytest.approx(expected)
    assert spot_the_difference(image, image, -image).item() == pytest.approx(-2)


def test_weak_views_are_weak():
    images = torch.rand(1, 3, 4, 4).repeat(20, 1, 1, 1)
    images = F.interpolate(images, 64, mode="bilinear")
    assert ((weak_view(images) - images).abs().mean(dim=(1, 2, 3)) < 0.12).all()


def test_places_say_where_pixels_come_from():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(96), indexing="ij")
    ramp = torch.stack([(rows + 0.5) / 64, (columns + 0.5) / 96, torch.zeros(64, 96)]).expand(12, -1, -1, -1)
    _, places = located_view(ramp)
    assert places.shape == (12, 2, 64, 96) and places.min() > 0 and places.max() < 1
    # Sampled again at the places, an image gives the crop: the ramp gives the places themselves.
    grid = (2 * places - 1).flip(1).permute(0, 2, 3, 1)
    again = F.grid_sample(ramp[:, :2], grid, mode="bilinear", padding_mode="border", align_corners=False)
    torch.testing.assert_close(again, places, rtol=0, atol=1e-4)
    sizes = (places[:, :, -1, -1] - places[:, :, 0, 0]).abs()
    assert (sizes.prod(dim=1) > 0.07).all() and sizes.prod(dim=1).min() < 0.6


def test_propagation_is_a_sum_over_cells():
    maps = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    found = propagated(maps)
    cells = maps.flatten(2).numpy()
    for image in range(2):
        units = [cells[image, :, p] / np.linalg.norm(cells[image, :, p]) for p in range(6)]
        for p in range(6):
            total = sum(max(units[p] @ units[q], 0) * units[q] for q in range(6))
            np.testing.assert_allclose(found[image, :, p], total / np.linalg.norm(total), rtol=1e-9)


def views(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, 3, 64, 64)
    return tuple(F.adaptive_avg_pool2d(located_view(images, 0.5)[1], (4, 4)) for _ in range(2))


def test_same_place_is_a_loop_over_pairs():
    first, second = views(6)
    found = same_place(first, second, closer=0.4)
    one, two = first.flatten(2).double().numpy(), second.flatten(2).double().numpy()
    for image in range(6):
        diagonals = [abs(p[image, :, -1] - p[image, :, 0]) / 3 for p in (one, two)]
        widest = max(np.linalg.norm(d) for d in diagonals)
        for p in range(16):
            for q in range(16):
                apart = np.linalg.norm(one[image, :, p] - two[image, :, q])
                assert found[image, p, q].item() == (apart < 0.4 * widest)
    assert found.any()


def test_one_view_with_itself_pairs_each_cell_with_itself():
    first, _ = views(3)
    assert torch.equal(same_place(first, first), torch.eye(16, dtype=torch.bool).expand(3, -1, -1))
    mirrored = first.flip(3)
    expected = torch.eye(16, dtype=torch.bool).view(16, 4, 4).flip(2).flatten(1)
    assert torch.equal(same_place(first, mirrored), expected.expand(3, -1, -1))


def test_cell_diagonals():
    grid = torch.stack(torch.meshgrid(torch.arange(4) * 0.1, torch.arange(6) * 0.05, indexing="ij"))[None]
    assert cell_diagonal(grid).item() == pytest.approx(math.hypot(0.1, 0.05))
    assert torch.isfinite(cell_diagonal(grid[..., :1, :1])).all()


def test_the_most_alike_pair():
    first, second = torch.randn(2, 3, 5, 2, 3)
    found = most_alike(first, second)
    assert found.shape == (3, 6, 6) and (found.sum(dim=(1, 2)) == 1).all()
    products = torch.einsum("bcp,bcq->bpq", first.flatten(2), second.flatten(2))
    assert torch.equal(products[found], products.amax(dim=(1, 2)))


def test_dense_agreement_is_the_mean_over_pairs():
    queries, keys = (F.normalize(torch.randn(3, 4, 6, dtype=torch.float64), dim=1) for _ in range(2))
    pairs = torch.rand(3, 6, 6) < 0.2
    pairs[2] = False
    expected = 0.0
    for image in range(3):
        chosen = [tuple(p) for p in pairs[image].nonzero().tolist()]
        values = [(queries[image, :, p] @ keys[image, :, q]).item() for p, q in chosen]
        expected += -2 * sum(values) / max(len(values), 1) / 3
    assert dense_agreement(queries, keys, pairs).item() == pytest.approx(expected)


@pytest.mark.parametrize("detector", [SPD(), SPD(weight=0.0), DS2()], ids=["SPD", "SimCLR", "DS2"])
def test_loss_moves_the_tail_only(detector):
    detector.loss(torch.rand(4, 3, 64, 64)).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_no_gradient_reaches_the_keys():
    queries = torch.randn(1, 4, 6, requires_grad=True)
    keys = torch.randn(1, 4, 6)
    dense_agreement(queries, keys, torch.ones(1, 6, 6, dtype=torch.bool)).backward()
    assert queries.grad.abs().sum() > 0 and keys.grad is None


def test_untuned_scores_are_those_of_the_patch_gaussian(tiny: Benchmark):
    plain = PatchGaussian(layers=(16,)).fit(tiny.train).predict_dataset(tiny.test)
    for detector in (SPD(), DS2()):
        detector.history = torch.zeros(1)
        found = detector.describe(detector.extractor.extract(tiny.train)).predict_dataset(tiny.test)
        torch.testing.assert_close(found.map, plain.map, rtol=1e-3, atol=1e-3)


def test_spd_training_pulls_weak_views_and_pushes_blended_ones(tiny: Benchmark):
    detector, images = SPD(epochs=5, batch_size=4, learning_rate=1e-3), tiny.train.images()

    def term() -> float:
        torch.manual_seed(0)
        views = [images, weak_view(images), smooth_blended(images)[0]]
        with torch.no_grad():
            three = [detector.network.head(detector.network.embed(detector.stem(view))) for view in views]
        return spot_the_difference(*three).item()

    before = term()
    detector.train_on(images)
    assert term() < before - 0.01


def test_the_tail_keeps_its_statistics_and_has_heads():
    tail = DenseTail("tf_efficientnet_lite0", 8, (16, 32), 16).train()
    before = {name: value.clone() for name, value in tail.named_buffers() if "running" in name}
    maps = tail(torch.rand(2, 40, 8, 8))
    assert [head(m).shape[1] for head, m in zip(tail.heads, maps, strict=True)] == [16, 16]
    assert all(torch.equal(value, before[name]) for name, value in tail.named_buffers() if name in before)
