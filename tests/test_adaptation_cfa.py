"""CFA: the two forces and the score written out, the memory's rules, what training may change, refusals."""

import math

import numpy as np
import pytest
import torch

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.feature_adaptation import (
    CFA,
    CoordDescriptor,
    averaged_memory,
    certain_distance,
    coupled_forces,
    first_memory,
    joined_patches,
    kmeans_centres,
    with_coordinates,
)

SMALL = {"epochs": 2, "batch_size": 4}


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def forces(squared: np.ndarray, radius: float, near: int, hard: int, margin: float) -> tuple[float, float]:
    """L_att and L_rep of the paper, summed by hand."""
    pull, push = 0.0, 0.0
    for row in squared:
        ordered = np.sort(row)
        pull += sum(max(0.0, d - radius**2) for d in ordered[:near])
        push += sum(max(0.0, radius**2 - d - margin) for d in ordered[near : near + hard])
    return pull / (len(squared) * near), push / (len(squared) * hard)


@pytest.mark.parametrize(
    ("near", "hard", "radius", "margin"), [(3, 3, 1.1, 0.1), (1, 4, 0.7, 0.0), (2, 1, 0.8, 0.2)]
)
def test_forces_are_the_formulas(near: int, hard: int, radius: float, margin: float):
    squared = 4 * rand(30, 8)
    found = coupled_forces(squared, torch.tensor(radius, dtype=torch.float64), near, hard, margin)
    expected = forces(squared.numpy(), radius, near, hard, margin)
    assert [f.item() for f in found] == pytest.approx(expected)
    assert min(expected) > 0, "both forces must be at work, or the test proves nothing"


def test_a_radius_of_nothing_never_repels():
    pull, push = coupled_forces(rand(20, 8), torch.tensor(1e-5))
    assert pull > 0 and push == 0


def test_forces_point_the_right_way():
    squared = torch.tensor([[0.5, 2.0]], requires_grad=True)
    near, far = torch.autograd.grad(sum(coupled_forces(squared, torch.tensor(0.1), 1, 1)), squared)[0][0]
    assert near > 0 and far == 0, "outside of all balls: to the nearest centre, and nothing else"
    near, far = torch.autograd.grad(sum(coupled_forces(squared, torch.tensor(2.0), 1, 1)), squared)[0][0]
    assert near == 0 and far < 0, "inside of both balls: away from the second centre, and nothing else"


def test_the_radius_gets_a_gradient_from_both_forces():
    radius = torch.tensor(1.0, requires_grad=True)
    pull, push = coupled_forces(torch.tensor([[2.0, 3.0]]), radius, 1, 1)
    assert torch.autograd.grad(pull, radius)[0] == -2
    pull, push = coupled_forces(torch.tensor([[0.1, 0.2]]), radius, 1, 1)
    assert torch.autograd.grad(push, radius)[0] == 2


def test_score_is_the_distance_times_its_softmin_weight():
    distances = rand(10, 4).sort(dim=1).values
    for row, found in zip(distances.tolist(), certain_distance(distances).tolist(), strict=True):
        weight = math.exp(-row[0]) / sum(math.exp(-d) for d in row)
        assert found == pytest.approx(weight * row[0])


def test_coordinates_run_from_minus_one_to_one():
    maps = torch.zeros(2, 3, 4, 5)
    found = with_coordinates(maps)
    assert found.shape == (2, 5, 4, 5) and torch.equal(found[:, :3], maps)
    torch.testing.assert_close(found[1, 3, :, 2], torch.tensor([-1.0, -1 / 3, 1 / 3, 1.0]))
    torch.testing.assert_close(found[0, 4, 3], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    assert torch.isfinite(with_coordinates(torch.zeros(1, 1, 1, 1))).all()


def test_only_coordinates_tell_equal_features_apart():
    maps = torch.ones(1, 6, 4, 4)
    with_places, without = CoordDescriptor(6, 3)(maps), CoordDescriptor(6, 3, coordinates=False)(maps)
    assert with_places.shape == (1, 16, 3) and with_places.std(dim=1).min() > 0.01
    assert without.std(dim=1).max() < 1e-6


def test_memory_moves_each_row_towards_its_nearest_patch():
    memory, images = rand(3, 2), rand(4, 6, 2, seed=1)
    expected = memory.numpy().copy()
    for image in images.numpy():
        for i, row in enumerate(expected.copy()):
            closest = image[((image - row) ** 2).sum(axis=1).argmin()]
            expected[i] = 0.75 * row + 0.25 * closest
    torch.testing.assert_close(averaged_memory(memory, images, 0.25), torch.from_numpy(expected))
    assert torch.equal(averaged_memory(memory, images[:0]), memory)


def test_kmeans_finds_separate_groups_and_leaves_few_vectors_alone():
    groups = torch.tensor([[0.0, 0.0], [5.0, 5.0], [9.0, 0.0]])
    points = groups.repeat_interleave(10, dim=0) + 0.01 * rand(30, 2).float()
    found = kmeans_centres(points, 3)
    assert torch.cdist(groups, found).amin(dim=1).max() < 0.05
    assert torch.equal(kmeans_centres(points, 30), points)


def test_first_memory_starts_with_the_first_image_or_the_mean():
    images = rand(3, 12, 4).float()
    assert torch.equal(first_memory(images[:1], "nearest", 1, 6), images[0])
    torch.testing.assert_close(first_memory(images, "mean", 1, 6), images.mean(dim=0))
    assert first_memory(images, "nearest", 2, 4).shape == (6, 4)
    assert first_memory(images, "mean", 100, 6).shape == (6, 4), "never fewer than the loss needs"
    with pytest.raises(DataError, match="too few"):
        first_memory(images[:, :5], "mean", 1, 6)


def test_unknown_banks_are_refused():
    with pytest.raises(DataError, match="mean"):
        CFA(bank="median")


def test_training_moves_descriptor_and_radius_and_neither_memory_nor_backbone(tiny: Benchmark):
    still = CFA(learning_rate=0.0, epochs=1).fit(tiny.train)
    moved = CFA(**SMALL).fit(tiny.train)
    assert torch.equal(still.memory, moved.memory)
    before, after = still.state_dict(), moved.state_dict()
    changed = {name for name in before if name != "history" and not torch.equal(before[name], after[name])}
    assert changed == {"network.layer.weight", "network.layer.bias", "network.radius"}


def test_scaled_divides_each_layer_by_its_number_of_channels():
    layers = {"fine": rand(2, 4, 6, 6).float(), "coarse": rand(2, 8, 3, 3).float()}
    plain, scaled = joined_patches(layers), joined_patches(layers, scaled=True)
    torch.testing.assert_close(scaled[:, :4], plain[:, :4] / 4)
    torch.testing.assert_close(scaled[:, 4:], plain[:, 4:] / 8)
    alone = torch.nn.functional.avg_pool2d(layers["fine"], 3, 1, 1)
    torch.testing.assert_close(plain[:, :4], alone)


def test_training_brings_good_patches_nearer_to_their_three_rows(tiny: Benchmark):
    def distance(detector: CFA) -> float:
        with torch.no_grad():
            vectors = detector.network(joined_patches(detector.extractor.extract(tiny.train))).flatten(0, 1)
        return torch.cdist(vectors, detector.memory).topk(3, largest=False).values.square().mean().item()

    still = CFA(learning_rate=0.0, epochs=1).fit(tiny.train)
    assert distance(CFA(epochs=10).fit(tiny.train)) < 0.9 * distance(still)


def test_loss_is_the_formula_on_described_patches(tiny: Benchmark):
    detector = CFA(**SMALL).fit(tiny.train)
    detector.network.radius.data.fill_(0.3)
    joined = joined_patches(detector.extractor.extract(tiny.test))
    with torch.no_grad():
        found, vectors = detector.loss(joined).item(), detector.network(joined).flatten(0, 1).double().numpy()
    memory = detector.memory.double().numpy()
    squared = ((vectors[:, None] - memory[None]) ** 2).sum(axis=2)
    assert found == pytest.approx(1000 * sum(forces(squared, 0.3, 3, 3, 0.1)), rel=1e-3)


def test_score_is_the_largest_value_of_the_map(tiny: Benchmark):
    found = CFA(gamma_c=4, gamma_d=2, bank="mean", **SMALL).fit(tiny.train).predict(tiny.test.images())
    assert torch.equal(found.score, found.map.flatten(1).max(dim=1).values)


def test_sizes_of_memory_and_descriptor(tiny: Benchmark):
    detector = CFA(gamma_c=4, gamma_d=2, **SMALL).fit(tiny.train)
    assert detector.memory.shape == (64 // 4, sum(detector.extractor.channels) // 2)
