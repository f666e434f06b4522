"""Patch SVDD: pairs, losses and maps against loops, the dense encoder against single patches."""

import math

import numpy as np
import pytest
import torch

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import (
    DIRECTIONS,
    SESVDD,
    PatchEncoder,
    PatchNetwork,
    PatchSVDD,
    SemanticNetwork,
    moved_slightly,
    neighbours,
    patch_rows,
    pixel_means,
    position_loss,
    pull_loss,
    small_encoder,
    windows,
)

SMALL = {"patch_size": 8, "width": 8, "dimensions": 16, "strides": (4, 4), "epochs": 2, "batch_size": 4}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_eight_directions_around_the_middle():
    assert len(set(DIRECTIONS)) == 8 and (0, 0) not in DIRECTIONS
    assert {(-row, -column) for row, column in DIRECTIONS} == set(DIRECTIONS)


@pytest.mark.parametrize("size", [8, 16, 32])
def test_neighbours_lie_where_their_label_says(size: int):
    first, second, labels = neighbours(2000, size, (64, 80), CPU)
    shift = second - first
    assert torch.equal(shift.sign(), torch.tensor(DIRECTIONS)[labels])
    moved = shift.abs()[shift != 0]
    assert moved.min() == 3 * size // 4 and moved.max() == size - 1
    assert labels.bincount(minlength=8).min() > 150
    for corners in (first, second):
        assert corners.min() == 0 and (corners <= torch.tensor([64, 80]) - size).all()


@pytest.mark.parametrize(("size", "reach"), [(8, 1), (32, 1), (64, 2)])
def test_jitter_always_moves_and_takes_every_step(size: int, reach: int):
    first, second = moved_slightly(3000, size, (160, 128), CPU)
    steps = {tuple(step) for step in (second - first).tolist()}
    square = {(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)}
    assert steps == square - {(0, 0)}
    for corners in (first, second):
        assert corners.min() >= 0 and (corners <= torch.tensor([160, 128]) - size).all()


def test_images_too_small_for_a_pair_are_refused(tiny: Benchmark):
    with pytest.raises(DataError, match="images need 128 px"):
        neighbours(4, 64, (64, 64), CPU)
    with pytest.raises(DataError, match="images need 128 px"):
        PatchSVDD(**SMALL | {"patch_size": 32}).fit(tiny.train)


def test_windows_are_slices():
    images, corners = torch.rand(5, 3, 20, 24), torch.randint(12, (5, 2))
    found = windows(images, corners, 8)
    for image, (row, column), patch in zip(images, corners.tolist(), found, strict=True):
        assert torch.equal(patch, image[:, row : row + 8, column : column + 8])


def test_losses_are_the_papers():
    first, second, logits = (torch.randn(6, n, dtype=torch.float64) for n in (5, 5, 8))
    labels = torch.tensor([0, 7, 3, 3, 1, 5])
    pull, cross = 0.0, 0.0
    for a, b, row, label in zip(*(x.tolist() for x in (first, second, logits, labels)), strict=True):
        pull += math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b, strict=True))) / 6
        cross -= (row[label] - math.log(sum(math.exp(value) for value in row))) / 6
    assert pull_loss(first, second).item() == pytest.approx(pull, rel=1e-12)
    assert position_loss(logits, labels).item() == pytest.approx(cross, rel=1e-12)


def test_pull_loss_has_a_finite_gradient_at_distance_0():
    same = torch.ones(3, 4, requires_grad=True)
    pull_loss(same, torch.ones(3, 4)).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("size", [8, 16, 32])
def test_small_encoder_makes_one_vector_of_one_patch_and_sees_all_but_its_last_line(size: int):
    patch = torch.rand(1, 3, size, size, requires_grad=True)
    found = small_encoder(size, 4, 6)(patch)
    assert found.shape == (1, 6, 1, 1)
    found.sum().backward()
    seen = patch.grad.abs().sum(dim=(0, 1)) > 0
    assert seen[:-1, :-1].all() and not seen[-1].any() and not seen[:, -1].any()


def test_large_encoder_sees_four_quarters_through_the_small_one():
    encoder = PatchEncoder(8, 4, 6)
    patch = torch.rand(1, 3, 16, 16, requires_grad=True)
    found = encoder(patch)
    quarters = [patch[..., i : i + 8, j : j + 8] for i in (0, 8) for j in (0, 8)]
    grid = torch.stack([encoder.small(q)[0, :, 0, 0] for q in quarters]).T.view(1, 6, 2, 2)
    torch.testing.assert_close(found, encoder.rest(encoder.join(grid)).flatten(1))
    found.sum().backward()
    seen = patch.grad.abs().sum(dim=(0, 1)) > 0
    assert seen[0, 0] and seen[14, 14] and seen[8, 8] and not seen[7].any() and not seen[15].any()


def test_dense_evaluation_is_one_patch_at_a_time():
    encoder, images = PatchEncoder(8, 4, 6), torch.rand(2, 3, 36, 28)
    for grid, size, stride in zip(encoder.dense(images, (2, 6)), (8, 16), (2, 6), strict=True):
        for row, column in np.ndindex(*grid.shape[-2:]):
            i, j = row * stride, column * stride
            expected = encoder(images[..., i : i + size, j : j + size])
            torch.testing.assert_close(grid[:, :, row, column], expected)
        assert grid.shape[-2:] == ((36 - size) // stride + 1, (28 - size) // stride + 1)


def test_dense_semantic_embedding_is_one_patch_at_a_time():
    network = SemanticNetwork(8, 4, 6, (3, 5))
    tensors = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)]
    for grid, size, stride in zip(network.dense(tensors, (4, 8)), (8, 16), (4, 8), strict=True):
        for row, column in np.ndindex(*grid.shape[-2:]):
            corners = torch.tensor([[row, column]] * 2) * stride
            torch.testing.assert_close(grid[:, :, row, column], network.embed(tensors, corners, size, False))


def test_spread_is_the_mean_over_covering_patches():
    distances = torch.rand(2, 4, 5, dtype=torch.float64)
    total, count = np.zeros((2, 20, 22)), np.zeros((20, 22))
    for i, j in np.ndindex(4, 5):
        area = (slice(i * 3, i * 3 + 8), slice(j * 3, j * 3 + 8))
        total[(slice(None), *area)] += distances[:, i, j].numpy()[:, None, None]
        count[area] += 1
    expected = torch.from_numpy(total / np.maximum(count, 1))
    torch.testing.assert_close(pixel_means(distances, 8, 3, (20, 22)), expected)
    assert count.max() == 9 and count[0, 0] == 1


def test_a_constant_grid_gives_a_constant_map():
    found = pixel_means(torch.full((1, 7, 7), 2.5), 8, 4, (32, 32))
    torch.testing.assert_close(found, torch.full((1, 32, 32), 2.5))


def test_gradients_reach_every_weight_of_both_sizes(tiny: Benchmark):
    detector = PatchSVDD(**SMALL)
    detector.loss(tiny.train.images()[:4]).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.network.parameters())


def test_without_position_prediction_the_classifier_gets_no_gradient(tiny: Benchmark):
    network, images = PatchNetwork(8, 8, 16), tiny.train.images()[:4]
    network.pulled([images], 16).backward()
    assert all(p.grad is None for p in network.sides.parameters())
    assert all(p.grad is not None for p in network.encoder.parameters())


def test_score_is_the_largest_value_of_the_product_of_both_maps(tiny: Benchmark):
    detector, images = PatchSVDD(**SMALL).fit(tiny.train), tiny.test.images()[:2]
    maps = []
    with torch.no_grad():
        grids = detector.network.dense(detector.inputs(images), (4, 4))
    for grid, bank, size in zip(grids, (detector.small_bank, detector.large_bank), (8, 16), strict=True):
        nearest = torch.cdist(patch_rows(grid).double(), bank.double()).amin(dim=1).float()
        maps.append(pixel_means(nearest.view(2, *grid.shape[-2:]), size, 4, (64, 64)))
    found = detector.predict(images)
    torch.testing.assert_close(found.map, maps[0] * maps[1], atol=1e-4, rtol=1e-3)
    assert torch.equal(found.score, found.map.flatten(1).max(dim=1).values)


def test_training_images_in_a_full_bank_have_distance_0(tiny: Benchmark):
    detector = PatchSVDD(**SMALL | {"bank": 10**6}).fit(tiny.train)
    assert detector.predict(tiny.train.images()[:2]).map.max() < 1e-4
    assert len(detector.small_bank) == 8 * 15 * 15 and len(detector.large_bank) == 8 * 13 * 13


def test_the_bank_is_thinned(tiny: Benchmark):
    detector = PatchSVDD(**SMALL | {"bank": 50}).fit(tiny.train)
    assert detector.small_bank.shape == detector.large_bank.shape == (50, 16)


@pytest.mark.parametrize("size", [4, 10, 0])
def test_sizes_that_do_not_fit_the_encoder_are_refused(size: int):
    with pytest.raises(DataError, match="multiple of 4"):
        PatchSVDD(patch_size=size)


def test_semantic_features_are_frozen_and_used(tiny: Benchmark):
    detector = SESVDD(**SMALL)
    before = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    detector.fit(tiny.train)
    assert all(torch.equal(value, before[name]) for name, value in detector.extractor.state_dict().items())
    tensors = [tensor.clone().requires_grad_() for tensor in detector.inputs(tiny.test.images()[:1])]
    sum(grid.sum() for grid in detector.network.dense(tensors, (4, 4))).backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in tensors)
