"""SuperSimpleNet: Perlin noise and losses written out, where noise may go, gradients, labels and refusals."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adlearn.data.base import AnomalyDataset, Benchmark
from adlearn.errors import DataError
from adlearn.methods import feature_adaptation
from adlearn.methods.feature_adaptation import (
    SuperSimpleNet,
    TwoHeads,
    balanced_rows,
    enlarged,
    grid_masks,
    noise_places,
    perlin_noise,
    perlin_regions,
    region_focal,
    region_l1,
)

SMALL = {"epochs": 2, "batch_size": 4}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def features_of(detector: SuperSimpleNet, dataset: AnomalyDataset) -> torch.Tensor:
    return enlarged(detector.extractor.extract(dataset))


def perlin_by_hand(angles: np.ndarray, x: float, y: float) -> float:
    """Perlin noise at one point (in lattice units) from the directions' angles at the lattice's corners."""
    total, column, row = 0.0, int(x), int(y)
    for down in (0, 1):
        for right in (0, 1):
            u, v, angle = x - column - right, y - row - down, angles[row + down, column + right]
            weight = math.prod(1 - (6 * t**5 - 15 * t**4 + 10 * t**3) for t in (abs(u), abs(v)))
            total += weight * (math.cos(angle) * u + math.sin(angle) * v)
    return math.sqrt(2) * total


@pytest.mark.parametrize(("grid", "cells"), [((8, 8), (2, 2)), ((6, 10), (1, 4)), ((5, 7), (2, 3))])
def test_perlin_noise_is_blended_from_four_corners(grid: tuple[int, int], cells: tuple[int, int]):
    torch.manual_seed(3)
    found = perlin_noise(grid, cells)
    torch.manual_seed(3)
    angles = 2 * math.pi * torch.rand(cells[0] + 1, cells[1] + 1).numpy()
    expected = [
        [
            perlin_by_hand(angles, (j + 0.5) * cells[1] / grid[1], (i + 0.5) * cells[0] / grid[0])
            for j in range(grid[1])
        ]
        for i in range(grid[0])
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_perlin_noise_is_smooth_and_random():
    first, second = (perlin_noise((64, 64), (2, 2)) for _ in range(2))
    assert not torch.allclose(first, second)
    assert first.abs().max() <= math.sqrt(2) and first.std() > 0.05
    steps = max(first.diff(dim=0).abs().max(), first.diff(dim=1).abs().max())
    assert steps < 0.2 * (first.max() - first.min())


def test_regions_are_binary_half_of_them_empty_and_smaller_at_a_higher_threshold():
    torch.manual_seed(0)
    masks = perlin_regions(300, (16, 16), 0.2)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    filled = masks.flatten(1).any(dim=1).float().mean().item()
    assert 0.35 < filled < 0.55
    assert not masks.flatten(1).all(dim=1).any(), "a region has normal positions around it"
    torch.manual_seed(0)
    assert 0 < perlin_regions(300, (16, 16), 0.6).mean() < masks.mean() / 2


def test_regions_come_from_the_global_generator():
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(perlin_regions(6, (8, 8)))
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_losses_are_the_formulas():
    scores, masks = 4 * rand(3, 4, 5) - 2, (rand(3, 4, 5, seed=1) > 0.7).double()
    pairs = list(zip(scores.flatten().tolist(), masks.flatten().tolist(), strict=True))
    normal = [max(0.0, 0.5 + s) for s, m in pairs if m == 0]
    anomalous = [max(0.0, 0.5 - s) for s, m in pairs if m == 1]
    expected = sum(normal) / len(normal) + sum(anomalous) / len(anomalous)
    assert region_l1(scores, masks).item() == pytest.approx(expected)
    focal = 0.0
    for s, m in pairs:
        p = 1 / (1 + math.exp(-s))
        truth = p if m == 1 else 1 - p
        focal -= (1 - truth) ** 4 * math.log(truth)
    assert region_focal(scores, masks).item() == pytest.approx(focal / len(pairs))


def test_losses_of_one_kind_only_and_of_extreme_scores_are_finite():
    scores = torch.tensor([-200.0, 200.0], requires_grad=True)
    for targets in (torch.zeros(2), torch.ones(2)):
        loss = region_l1(scores, targets) + region_focal(scores, targets)
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, scores)[0]).all()
    assert region_l1(torch.full((3,), -0.5), torch.zeros(3)) == 0
    assert region_l1(torch.full((3,), 0.5), torch.ones(3)) == 0


def test_features_are_enlarged_twice_then_averaged():
    fine, coarse = rand(2, 3, 4, 6), rand(2, 5, 2, 3, seed=1)
    found = enlarged({"fine": fine, "coarse": coarse})
    assert found.shape == (2, 8, 8, 12)
    whole = torch.cat([F.interpolate(m, (8, 12), mode="bilinear") for m in (fine, coarse)], dim=1)
    torch.testing.assert_close(found[:, :, 3, 5], whole[:, :, 2:5, 4:7].mean(dim=(2, 3)))


def test_masks_on_the_grid():
    masks = torch.zeros(2, 8, 8, dtype=torch.bool)
    masks[0, 2:6, 4:8] = True
    expected = torch.zeros(2, 4, 4)
    expected[0, 1:3, 2:4] = 1
    assert torch.equal(grid_masks(masks, (4, 4)), expected)
    assert grid_masks(torch.zeros(3, 1, 1), (5, 6)).shape == (3, 5, 6)


def test_rows_are_balanced():
    rows = balanced_rows(torch.tensor([0, 1, 0, 0, 1, 0, 0]))
    assert rows.tolist() == [0, 2, 3, 5, 6, 1, 4, 1, 4, 1]
    assert balanced_rows(torch.tensor([1, 1, 1, 0])).tolist() == [3, 0, 1, 2]
    for labels in (torch.zeros(3), torch.ones(3)):
        with pytest.raises(DataError, match="normal and anomalous"):
            balanced_rows(labels)


@pytest.mark.parametrize("cut", [True, False])
def test_the_score_reaches_the_map_only_with_labels(cut: bool):
    torch.manual_seed(0)
    heads, adapted = TwoHeads(6, 5, 4, 3, cut=cut), torch.randn(2, 5, 8, 8)
    heads(adapted)[1].sum().backward()
    assert all((p.grad is None) == cut for p in heads.segment.parameters())
    assert all(p.grad.abs().sum() > 0 for p in heads.classify.parameters())


def test_segmentation_looks_at_one_position_and_classification_at_all():
    torch.manual_seed(0)
    heads, adapted = TwoHeads(6, 5, 4, 3, cut=True).eval(), torch.randn(1, 5, 8, 8)
    changed = adapted.clone()
    changed[0, :, 2, 3] += 5
    with torch.no_grad():
        (map_before, before), (map_after, after) = heads(adapted), heads(changed)
    assert (map_before != map_after).nonzero().tolist() == [[0, 2, 3]]
    assert before != after


def test_gradients_reach_every_weight_of_the_network_only(tiny: Benchmark):
    detector = SuperSimpleNet(**SMALL).fit(tiny.train)
    detector.network.zero_grad(set_to_none=True)
    torch.manual_seed(0)
    detector.loss(features_of(detector, tiny.train), torch.zeros(8, 1, 1), torch.zeros(8)).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_noise_leaves_the_map_alone_where_there_is_none(tiny: Benchmark, monkeypatch: pytest.MonkeyPatch):
    detector = SuperSimpleNet(**SMALL).fit(tiny.train)
    features, seen = features_of(detector, tiny.train), {}
    region = torch.zeros(8, 16, 16)
    region[3, 4:9, 5:7] = 1
    monkeypatch.setattr(feature_adaptation, "noise_places", lambda *_: region)
    detector.network.register_forward_pre_hook(lambda _, inputs: seen.update(noisy=inputs[0].detach()))
    with torch.no_grad():
        detector.loss(features, torch.zeros(8, 1, 1), torch.zeros(8))
        clean = detector.network.adaptor(features)
    moved = (seen["noisy"] - clean).abs().amax(dim=1) > 0
    assert torch.equal(moved, region.bool())
    std = (seen["noisy"] - clean).transpose(0, 1)[:, region.bool()].std()
    assert std.item() == pytest.approx(detector.noise_std.item(), rel=0.15)


def test_no_noise_on_real_defects(tiny: Benchmark, monkeypatch: pytest.MonkeyPatch):
    detector, seen = SuperSimpleNet(supervised=True, **SMALL).fit(tiny.test), {}
    features = features_of(detector, tiny.test)
    monkeypatch.setattr(feature_adaptation, "noise_places", lambda like, *_: torch.ones_like(like))
    detector.network.register_forward_pre_hook(lambda _, inputs: seen.update(noisy=inputs[0].detach()))
    with torch.no_grad():
        detector.loss(features, tiny.test.masks(), tiny.test.labels.float())
        clean = detector.network.adaptor(features)
    still = (seen["noisy"] - clean).abs().amax(dim=1) == 0
    assert torch.equal(still.float(), grid_masks(tiny.test.masks(), (16, 16))) and still.any()


def test_noise_everywhere_fills_whole_images():
    torch.manual_seed(0)
    shares = noise_places(torch.zeros(200, 4, 4), 0.2, regions=False).mean(dim=(1, 2))
    assert set(shares.tolist()) == {0.0, 1.0} and 0.3 < shares.mean() < 0.7


def test_supervised_training_needs_defects_and_their_masks(tiny: Benchmark):
    detector = SuperSimpleNet(supervised=True, **SMALL)
    with pytest.raises(DataError, match="normal and anomalous"):
        detector.fit(tiny.train)
    blind = AnomalyDataset("blind", tiny.test.samples, tiny.test.size, has_masks=False)
    bare = [replace(sample, masks=()) for sample in tiny.test.samples]
    for dataset in (blind, AnomalyDataset("bare", bare, tiny.test.size, has_masks=True)):
        with pytest.raises(DataError, match="masks"):
            detector.fit(dataset)


def test_unsupervised_training_looks_at_no_label(tiny: Benchmark):
    samples = [replace(sample, label=1, kind="odd") for sample in tiny.train.samples]
    mislabelled = AnomalyDataset("odd", samples, tiny.train.size, has_masks=True)
    plain, odd = (SuperSimpleNet(**SMALL).fit(d) for d in (tiny.train, mislabelled))
    assert torch.equal(plain.history, odd.history)


def test_labels_teach_where_the_defect_is(tiny: Benchmark):
    found = (
        SuperSimpleNet(supervised=True, epochs=20, batch_size=4).fit(tiny.test).predict(tiny.test.images())
    )
    labels, masks = tiny.test.labels.bool(), tiny.test.masks()
    assert found.score[labels].min() > found.score[~labels].max()
    assert found.map[masks].mean() > 0 > found.map[~masks].mean()


def test_the_score_is_not_the_largest_value_of_the_map(tiny: Benchmark):
    found = SuperSimpleNet(**SMALL).fit(tiny.train).predict(tiny.test.images())
    assert not torch.allclose(found.score, found.map.amax(dim=(1, 2)))
