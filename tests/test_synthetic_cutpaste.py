"""CutPaste: sizes, places and pixels of what is pasted; labels, density and patch maps against plain code."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from sklearn.covariance import LedoitWolf

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.synthetic_anomalies import (
    CutPaste,
    PatchCutPaste,
    cut_paste,
    cut_paste_scar,
    gaussian_density,
    hills,
    labelled_copies,
    laid_over,
    mahalanobis,
    moved,
    patch_grid,
    random_patches,
    rectangles,
    turned_box,
    two_corners,
)

PAINTS = [cut_paste, cut_paste_scar]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def sliced(images: torch.Tensor, sides: torch.Tensor, corners: tuple) -> torch.Tensor:
    """`images` with rectangles copied by slices."""
    found = images.clone()
    for number, (height, width) in enumerate(sides.long().tolist()):
        (y, x), (to_y, to_x) = (corner[number].long().tolist() for corner in corners)
        piece = images[number, :, y : y + height, x : x + width]
        found[number, :, to_y : to_y + height, to_x : to_x + width] = piece
    return found


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 40), st.integers(8, 40), st.integers(0, 1000))
def test_moving_is_copying_slices(height: int, width: int, number: int):
    torch.manual_seed(number)
    images, upright = torch.rand(4, 3, height, width), torch.zeros(4)
    sides = rectangles(images, (0.02, 0.15))
    corners = two_corners(images, sides, upright)
    piece, inside = moved(images, sides, upright, corners)
    assert inside.sum(dim=(1, 2)).tolist() == sides.prod(dim=1).tolist()
    assert torch.equal(torch.where(inside[:, None], piece, images), sliced(images, sides, corners))


@settings(max_examples=30, deadline=None)
@given(st.integers(32, 300), st.integers(32, 300), st.integers(0, 1000))
def test_rectangles_have_the_papers_sizes(height: int, width: int, number: int):
    torch.manual_seed(number)
    sides = rectangles(torch.empty(100, 3, height, width), (0.02, 0.15))
    assert (sides >= 1).all() and (sides <= torch.tensor([height, width])).all()
    assert torch.equal(sides, sides.round())
    # Whole pixels: each side is up to half a pixel off.
    free = (sides < torch.tensor([height, width])).all(dim=1)
    low, high = (sides - 0.5).prod(dim=1)[free], (sides + 0.5).prod(dim=1)[free]
    assert (high >= 0.02 * height * width).all() and (low <= 0.15 * height * width).all()
    assert ((sides[:, 0] + 0.5) / (sides[:, 1] - 0.5))[free].min() >= 0.3
    assert ((sides[:, 0] - 0.5) / (sides[:, 1] + 0.5))[free].max() <= 1 / 0.3


def test_rectangles_use_the_whole_range():
    sides = rectangles(torch.empty(4000, 3, 256, 256), (0.02, 0.15))
    share, ratio = sides.prod(dim=1) / 256**2, (sides[:, 0] / sides[:, 1]).log() / math.log(1 / 0.3)
    assert share.min() < 0.022 and share.max() > 0.148 and abs(share.mean().item() - 0.085) < 0.003
    assert ratio.min() < -0.97 and ratio.max() > 0.97 and ratio.mean().abs() < 0.05


def test_both_corners_leave_room_and_reach_the_borders():
    images, sides = torch.empty(3000, 3, 20, 30), torch.tensor([[6.0, 4.0]]).repeat(3000, 1)
    for turn in (0.0, math.pi / 4):
        turns = torch.full((3000,), turn)
        source, target = two_corners(images, sides, turns)
        assert source.amin(dim=0).tolist() == [0, 0] and source.amax(dim=0).tolist() == [14, 26]
        room = (torch.tensor([20.0, 30.0]) - turned_box(sides, turns)[0]).floor()
        assert target.amin(dim=0).tolist() == [0, 0] and torch.equal(target.amax(dim=0), room)


def test_the_box_around_a_turned_rectangle():
    sides = torch.tensor([[10.0, 4.0]])
    for degrees in (-45, 0, 30, 45):
        turn = math.radians(degrees)
        corners = np.array([[5, 2], [5, -2], [-5, 2], [-5, -2]])
        matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        expected = np.ptp(corners @ matrix.T, axis=0)
        np.testing.assert_allclose(turned_box(sides, torch.tensor([turn]))[0], expected, rtol=1e-5)


def test_a_turned_rectangle_keeps_its_area_and_its_pixels():
    images = torch.arange(64 * 64.0).view(1, 1, 64, 64).expand(20, 3, -1, -1)
    sides, turn = torch.tensor([[24.0, 10.0]]).repeat(20, 1), torch.linspace(-0.78, 0.78, 20)
    source, target = two_corners(images, sides, turn)
    piece, inside = moved(images, sides, turn, (source, target))
    assert ((inside.sum(dim=(1, 2)) - 240).abs() <= 14).all()
    for number in range(20):
        row, column = source[number].long().tolist()
        allowed = set(images[number, 0, row : row + 24, column : column + 10].flatten().tolist())
        found = set(piece[number, 0][inside[number]].tolist())
        # Nearest pixels: nearly all of the piece arrives, and nothing else.
        assert found <= allowed and len(found) > 0.8 * len(allowed)


def test_turning_goes_the_way_of_the_mask():
    images = torch.zeros(1, 3, 41, 41)
    images[:, :, :21, 15:26] = 1
    sides, turn = torch.tensor([[21.0, 11.0]]), torch.tensor([math.pi / 4])
    corners = (torch.tensor([[10.0, 15.0]]), torch.tensor([[8.0, 8.0]]))
    piece, inside = moved(images, sides, turn, corners)
    # The upper half of the source is white: after the turn the white pixels lie at one end of the piece.
    white, black = ((inside[0] & (piece[0, 0] == value)).nonzero().float().mean(dim=0) for value in (1, 0))
    direction = (white - black) / (white - black).norm()
    assert direction[0] < -0.6 and direction[1].abs() > 0.6


@pytest.mark.parametrize("paint", PAINTS)
@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (5, 3, 48, 80)])
def test_masks_are_where_pixels_changed(paint, shape):
    images = torch.rand(shape)
    before = images.clone()
    changed, masks = paint(images)
    assert changed.shape == images.shape and masks.shape == (shape[0], *shape[2:])
    assert masks.dtype == torch.bool
    assert torch.equal(masks, (changed != images).any(dim=1)) and masks.any(dim=(1, 2)).all()
    assert torch.equal(images, before) and changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("paint", PAINTS)
def test_pasted_pixels_come_from_the_image(paint):
    images = torch.rand(4, 3, 64, 64)
    changed, masks = paint(images, jitter=0.0)
    for image, after, mask in zip(images, changed, masks, strict=True):
        pixels = image.flatten(1).T
        apart = torch.cdist(after[:, mask].T, pixels, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
        assert apart.max() < 1e-5


@pytest.mark.parametrize("paint", PAINTS)
def test_the_same_seed_paints_the_same(paint):
    images, found = torch.rand(3, 3, 64, 64), []
    for number in (1, 1, 2):
        torch.manual_seed(number)
        found.append(paint(images)[0])
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_jitter_moves_colours_by_a_tenth():
    changed, masks = cut_paste(torch.full((200, 3, 32, 32), 0.5))
    moved_by = (changed - 0.5).abs().amax(dim=(1, 2, 3))
    assert moved_by.max() <= 0.5 * (1.1**1 - 1) + 1e-4 and moved_by.max() > 0.045
    # One piece in five keeps its colours: on a flat image nothing changes.
    assert 0.1 < (~masks.any(dim=(1, 2))).float().mean() < 0.3


@pytest.mark.parametrize("side, scale", [(256, 1.0), (128, 1.0), (64, 4.0)])
def test_scars_have_the_papers_sizes(side: int, scale: float):
    unit = side / 256 * scale
    images = torch.rand(60, 3, side, side)
    masks = cut_paste_scar(images, scale)[1]
    longest = [math.dist(m.nonzero().amin(0).tolist(), m.nonzero().amax(0).tolist()) for m in masks]
    assert masks.sum(dim=(1, 2)).max() <= (16 * unit + 1) * (25 * unit + 1) * 1.2
    assert masks.sum(dim=(1, 2)).min() >= 0.5 * (10 * unit - 1) * max(2 * unit - 1, 1)
    assert max(longest) <= math.sqrt(2) * (25 + 16) * unit + 2


@pytest.mark.parametrize("variant, classes", [("cutpaste", 2), ("scar", 2), ("3way", 3)])
def test_labelled_copies(variant: str, classes: int):
    images = torch.rand(5, 3, 64, 64)
    copies, labels = labelled_copies(images, variant)
    assert labels.tolist() == [kind for kind in range(classes) for _ in range(5)]
    assert torch.equal(copies[:5], images)
    areas = (copies != images.repeat(classes, 1, 1, 1)).any(dim=1).float().mean(dim=(1, 2)).view(classes, 5)
    assert (areas[0] == 0).all() and (areas[1:] > 0).all()
    if variant == "3way":
        assert areas[1].mean() > areas[2].mean()


def test_density_is_that_of_scikit_learn_and_scipy():
    points, queries = torch.randn(40, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    points[:, 0] *= 4
    covariance = LedoitWolf().fit(points.numpy()).covariance_ + 1e-6 * np.eye(6)
    inverse, mean = np.linalg.inv(covariance), points.numpy().mean(axis=0)
    expected = [scipy_mahalanobis(query, mean, inverse) for query in queries.numpy()]
    np.testing.assert_allclose(mahalanobis(queries, *gaussian_density(points)), expected, rtol=1e-9)
    many = mahalanobis(queries.expand(2, 3, 5, 6), *gaussian_density(points))
    torch.testing.assert_close(many[1, 2], mahalanobis(queries, *gaussian_density(points)))


def test_random_patches_are_crops_of_their_image():
    images = torch.rand(3, 3, 12, 16)
    crops = random_patches(images, 5, 4)
    assert crops.shape == (12, 3, 5, 5)
    for number, crop in enumerate(crops):
        windows = images[number // 4].unfold(1, 5, 1).unfold(2, 5, 1).permute(1, 2, 0, 3, 4)
        assert (windows == crop).all(dim=-1).all(dim=-1).all(dim=-1).sum() == 1


def test_patch_grid_is_slicing():
    images = torch.rand(2, 3, 20, 28)
    grid = patch_grid(images, 8, 4)
    assert grid.shape == (2, 4, 6, 3, 8, 8)
    assert torch.equal(grid[1, 2, 5], images[1, :, 8:16, 20:28])
    with pytest.raises(DataError, match="patch_size"):
        patch_grid(images, 21, 4)


def test_hills_are_the_weighted_mean_of_patches():
    grid = torch.rand(2, 3, 4, dtype=torch.float64)
    found = hills(grid, (16, 20), side=8, stride=4)
    for y, x in [(0, 0), (7, 9), (15, 19), (3, 12)]:
        total, weights = torch.zeros(2, dtype=torch.float64), 0.0
        for row in range(3):
            for column in range(4):
                away_y, away_x = y - (4 * row + 3.5), x - (4 * column + 3.5)
                if abs(away_y) <= 4 and abs(away_x) <= 4:
                    weight = math.exp(-(away_y**2 + away_x**2) / (2 * 2.0**2))
                    total, weights = total + weight * grid[:, row, column], weights + weight
        torch.testing.assert_close(found[:, y, x], total / weights, rtol=1e-5, atol=1e-6)


def test_hills_keep_a_flat_map_flat():
    flat = torch.full((1, 7, 7), 3.0)
    torch.testing.assert_close(hills(flat, (128, 128), 32, 16), torch.full((1, 128, 128), 3.0))


@pytest.mark.parametrize("cls, more", [(CutPaste, {}), (PatchCutPaste, {"patch_size": 32})])
def test_loss_is_cross_entropy_and_moves_the_tail_only(cls, more):
    detector, images = cls(**more), torch.rand(2, 3, 64, 64)
    torch.manual_seed(3)
    value = detector.loss(images)
    value.backward()
    torch.manual_seed(3)
    crops = images if cls is CutPaste else random_patches(images, 32, 8)
    copies, labels = labelled_copies(crops, "3way", 1.0 if cls is CutPaste else 2.0)
    with torch.no_grad():
        log = detector.network.head(detector.embed(copies)).double().log_softmax(dim=1)
    expected = -sum(log[n, label].item() for n, label in enumerate(labels.tolist())) / len(labels)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_patches_give_the_same_embedding_one_by_one():
    detector, images = PatchCutPaste(patch_size=32, stride=16), torch.rand(2, 3, 64, 80)
    with torch.no_grad():
        points = detector.points(images)
        alone = detector.embed(images[1:, :, 16:48, 32:64])
    assert points.shape[:3] == (2, 3, 4)
    torch.testing.assert_close(points[1, 1, 2], alone[0], rtol=1e-4, atol=1e-4)


def test_patch_score_is_the_farthest_patch(tiny: Benchmark):
    detector = PatchCutPaste(epochs=1).fit(tiny.train)
    found = detector.predict(tiny.test.images())
    with torch.no_grad():
        grid = mahalanobis(detector.points(tiny.test.images()), detector.mean, detector.whitening)
    torch.testing.assert_close(found.score, grid.amax(dim=(1, 2)))
    assert (found.map.amax(dim=(1, 2)) <= found.score * (1 + 1e-5)).all()


def test_a_gaussian_for_each_place(tiny: Benchmark):
    detector = PatchCutPaste(epochs=1, per_position=True).fit(tiny.train)
    images = tiny.test.images()
    with torch.no_grad():
        known, points = detector.points(tiny.train.images()), detector.points(images)
    expected = mahalanobis(points[:, 1, 2], *gaussian_density(known[:, 1, 2]))
    found = mahalanobis(points, detector.mean, detector.whitening)
    torch.testing.assert_close(found[:, 1, 2], expected, rtol=1e-3, atol=1e-3)
    with pytest.raises(DataError, match="one size"):
        detector.predict(images[:, :, :48])


def test_an_unknown_variant_is_refused():
    with pytest.raises(DataError, match="3way"):
        CutPaste(variant="4way")


def test_turned_pieces_stay_where_their_mask_is():
    images = torch.rand(6, 3, 64, 64)
    sides, turn = torch.tensor([[20.0, 6.0]]).repeat(6, 1), torch.full((6,), 0.6)
    changed, masks = laid_over(images, sides, turn, jitter=0.1)
    assert torch.equal(changed[~masks[:, None].expand_as(images)], images[~masks[:, None].expand_as(images)])
    outline = F.max_pool2d(masks.float(), 3, 1, 1).sum(dim=(1, 2))
    assert (outline < 2.2 * 120).all()
