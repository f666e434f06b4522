"""Notebook 03's variations against loops in float64, and what makes each of them that method."""

import itertools

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda_loss
from scipy.spatial.distance import cdist, mahalanobis
from torch import nn

from adlearn.errors import DataError
from adlearn.methods.memory_bank import (
    FAPM,
    LDKNN,
    PNI,
    SOMAD,
    PatchCore,
    ReConPatch,
    SelfSimilarity,
    adaptive_bank,
    allowed_distance,
    cells,
    contextual_similarity,
    coreset_per_group,
    dictionary_words,
    from_cells,
    local_distance,
    neighbourhoods,
    node_gaussians,
    pairwise_similarity,
    position_histogram,
    principal_axes,
    relaxed_contrastive_loss,
    self_organising_map,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Self-similarity


def test_principal_axes_are_numpys_eigenvectors():
    points = random(200, 5) @ random(5, 5, seed=1)
    mean, axes, variances = principal_axes(points)
    values, vectors = np.linalg.eigh(np.cov(points.double().numpy(), rowvar=False, bias=True))
    np.testing.assert_allclose(variances, values[::-1], rtol=1e-4)
    np.testing.assert_allclose(np.abs(axes.T.numpy() @ vectors[:, ::-1]), np.eye(5), atol=1e-3)
    np.testing.assert_allclose(mean, points.numpy().mean(0), atol=1e-6)


def test_words_are_points_one_for_each_cluster():
    centres = 10 * random(6, 4)
    points = centres.repeat_interleave(30, dim=0) + 0.01 * random(180, 4, seed=1)
    words = dictionary_words(points, 6)
    distances = cdist(words.numpy(), points.numpy())
    assert np.allclose(distances.min(1), 0)
    assert sorted(distances.argmin(1) // 30) == list(range(6))


def test_a_dictionary_of_few_distinct_points_repeats_none_of_its_rows():
    points = random(4, 3).repeat(5, 1)
    words = dictionary_words(points, 100)
    assert len(words) <= len(points) and len(words.unique(dim=0)) == 4


def test_self_similarity_is_the_mean_distance_to_the_nearest_words(tiny):
    detector = SelfSimilarity(words=20, num_neighbors=3).fit(tiny.train)
    images = tiny.test.images()[-1:]
    patches = PatchCore.embed(detector, detector.extractor(images))[0].double().numpy()
    patches /= np.abs(patches).sum(1, keepdims=True)
    coordinates = (patches - detector.mean.double().numpy()) @ detector.axes.double().numpy()
    distances = np.sort(cdist(coordinates, detector.memory.double().numpy()), axis=1)[:, :3].mean(1)
    assert detector.predict(images).score.item() == pytest.approx(distances.max(), rel=1e-3)


# FAPM


def test_cells_hold_their_own_positions_and_go_back():
    maps = torch.arange(2 * 3 * 4 * 6.0).view(2, 3, 4, 6)
    grouped = cells(maps, 2)
    assert grouped.shape == (6, 8, 3)
    for cell, (row, column) in enumerate(itertools.product(range(2), range(3))):
        block = maps[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(grouped[cell], block.permute(0, 2, 3, 1).reshape(8, 3))
    assert torch.equal(from_cells(grouped[..., 1], 2, (4, 6), 2), maps[:, 1])


def test_a_grid_without_whole_cells_is_refused():
    with pytest.raises(DataError, match="whole cells"):
        cells(torch.zeros(1, 2, 7, 8), 4)
    with pytest.raises(DataError, match="stride"):
        FAPM(cell=24)


def test_each_groups_coreset_is_the_greedy_one():
    groups = random(3, 40, 4)
    picks, radii = coreset_per_group(groups, 7)
    for points, found, radius in zip(groups.double().numpy(), picks, radii, strict=True):
        chosen = [0]
        for step in range(7):
            least = cdist(points, points[chosen]).min(1)
            assert radius[step].item() == pytest.approx(least.max(), rel=1e-5)
            chosen.append(int(least.argmax()))
        assert found.tolist() == chosen[:7]


def test_only_groups_that_vary_more_get_the_large_bank():
    groups = random(4, 50, 3) * torch.tensor([1.0, 1.0, 1.0, 9.0])[:, None, None]
    bank, enlarged = adaptive_bank(groups, 0.1)
    assert enlarged.tolist() == [False, False, False, True]
    assert [len(b.unique(dim=0)) for b in bank] == [5, 5, 5, 10]


def test_fapm_compares_with_the_own_cell_only(tiny):
    detector = FAPM(coreset_ratio=1, layers=(8,)).fit(tiny.train)
    patches = detector.pooled(detector.extractor.extract(tiny.train))[8]
    probe = detector.pooled(detector.extractor(tiny.test.images()[-1:]))[8][0]
    cell = probe[:, :4, 4:].flatten(1).T.double().numpy()
    bank = patches[:, :, :4, 4:].permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
    queries = cells(probe[None], 4)[1]
    found = torch.cdist(queries, detector.memory_8[1]).amin(1)
    np.testing.assert_allclose(queries.double(), cell)
    np.testing.assert_allclose(found, cdist(cell, bank).min(1), rtol=1e-3)


def test_fapm_refuses_another_size_than_fitted(tiny):
    with pytest.raises(DataError, match="fitted on"):
        FAPM().fit(tiny.train).predict(torch.rand(1, 3, 96, 96))


# LDKNN


def test_local_distance_leaves_the_point_itself_out():
    points = random(60, 4)
    expected = np.sort(cdist(points[:7].double(), points.double()), axis=1)[:, 1:4].mean(1)
    np.testing.assert_allclose(local_distance(points[:7], points, 3), expected, rtol=1e-4)


def test_ldknn_is_patchcores_distance_minus_the_usual_one(tiny):
    detector = LDKNN(coreset_ratio=0.25).fit(tiny.train)
    images = tiny.test.images()[-1:]
    patches = detector.embed(detector.extractor(images))[0].double().numpy()
    distances = cdist(patches, detector.memory.double().numpy())
    excess = distances.min(1) - detector.usual.numpy()[distances.argmin(1)]
    assert detector.predict(images).score.item() == pytest.approx(excess.max(), rel=1e-3)


# PNI


def test_a_neighbourhood_is_all_around_but_not_the_centre():
    maps = random(2, 3, 5, 6)
    found = neighbourhoods(maps, 3).unflatten(2, (3, 8))
    padded = torch.nn.functional.pad(maps, (1, 1, 1, 1))
    for row, column in itertools.product(range(5), range(6)):
        window = padded[:, :, row : row + 3, column : column + 3].flatten(2)
        expected = window[:, :, [0, 1, 2, 3, 5, 6, 7, 8]]
        assert torch.equal(found[:, 6 * row + column], expected)


def test_changing_a_patch_does_not_change_its_own_neighbourhood():
    maps = random(1, 4, 7, 7)
    changed = maps.clone()
    changed[:, :, 3, 3] += 1
    before, after = neighbourhoods(maps, 5)[0], neighbourhoods(changed, 5)[0]
    differs = (before != after).any(dim=1).view(7, 7)
    assert not differs[3, 3] and differs.sum() == 24


def test_the_position_histogram_counts_codewords_in_the_window():
    codes = torch.randint(4, (6, 5, 7), generator=torch.Generator().manual_seed(0))
    found = position_histogram(codes, 4, 3)
    for row, column in itertools.product(range(5), range(7)):
        window = codes[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        expected = torch.bincount(window.flatten(), minlength=4) / window.numel()
        torch.testing.assert_close(found[7 * row + column], expected)


def test_the_least_distance_is_taken_over_allowed_codewords():
    distances = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    allowed = torch.tensor([[True, True, True], [False, True, True], [False, False, False]])
    assert allowed_distance(distances, allowed).tolist() == [1, 2, 3]


def test_pni_never_scores_below_the_nearest_codeword(tiny):
    detector = PNI(codewords=16, epochs=1).fit(tiny.train)
    embedding = detector.embed(detector.extractor(tiny.test.images()))
    floor = torch.cdist(embedding, detector.memory).amin(2).amax(1)
    scores = detector.predict(tiny.test.images()).score
    assert (scores >= 0.999 * floor).all()


def test_pnis_network_learns_what_surroundings_say(tiny):
    detector = PNI(codewords=8, epochs=40).fit(tiny.train)
    features = detector.extractor.extract(tiny.train)
    embedding = detector.embed(features)
    codes = detector.classes[torch.cdist(embedding, detector.memory).argmin(2)]
    with torch.no_grad():
        predicted = detector.predictor(detector.around(embedding, (8, 8)).flatten(0, 1))
    likelihood = predicted.softmax(1).gather(1, codes.flatten()[:, None]).mean()
    assert likelihood > 2 / 8


# ReConPatch


def naive_contextual(z: np.ndarray, k: int) -> np.ndarray:
    n, distances = len(z), cdist(z, z)
    near = [set(np.argsort(row, kind="stable")[:k]) for row in distances]
    close = [set(np.argsort(row, kind="stable")[: max(1, k // 2)]) for row in distances]
    shared, expanded = np.zeros((n, n)), np.zeros((n, n))
    for i, j in itertools.product(range(n), repeat=2):
        if j in near[i]:
            shared[i, j] = len(near[i] & near[j]) / len(near[i])
    for i in range(n):
        mutual = [m for m in close[i] if i in close[m]]
        expanded[i] = np.mean([shared[m] for m in mutual], axis=0)
    return (expanded + expanded.T) / 2


@pytest.mark.parametrize("k", [2, 5, 8])
def test_contextual_similarity_is_the_sets_of_the_paper(k):
    z = random(30, 4)
    np.testing.assert_allclose(
        contextual_similarity(z, k), naive_contextual(z.double().numpy(), k), atol=1e-6
    )


def test_pairwise_similarity_is_a_gaussian_in_the_batchs_unit():
    z = random(20, 3)
    squared = cdist(z.double(), z.double()) ** 2
    np.testing.assert_allclose(
        pairwise_similarity(z, 0.5), np.exp(-squared / (0.5 * squared.mean())), rtol=1e-4
    )


def test_the_relaxed_contrastive_loss_is_the_papers_double_sum():
    z, weights = random(12, 4), torch.rand(12, 12, generator=torch.Generator().manual_seed(1))
    distances, total = cdist(z.double(), z.double()), 0.0
    for i, j in itertools.product(range(12), repeat=2):
        delta, w = distances[i, j] / distances[i].mean(), weights[i, j].item()
        total += w * delta**2 + (1 - w) * max(1.0 - delta, 0) ** 2
    assert relaxed_contrastive_loss(z, weights, 1.0).item() == pytest.approx(total / 12, rel=1e-5)


def test_losses_stay_finite_where_all_patches_are_equal():
    z = torch.ones(6, 3, requires_grad=True)
    weights = 0.5 * pairwise_similarity(z.detach(), 1.0) + 0.5 * contextual_similarity(z.detach(), 3)
    loss = relaxed_contrastive_loss(z, weights, 1.0)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(z.grad).all()


def test_the_teacher_follows_slowly_and_gets_no_gradient():
    detector = ReConPatch(dimensions=4, decay=0.75)
    network, teacher = nn.Linear(5, 4), nn.Linear(5, 4).requires_grad_(False)
    before = teacher.weight.clone()
    detector.loss(network, teacher, random(16, 5)).backward()
    torch.testing.assert_close(teacher.weight, 0.75 * before + 0.25 * network.weight.detach())
    assert network.weight.grad is not None and teacher.weight.grad is None


def test_reconpatch_learns_its_map_and_searches_behind_it(tiny):
    detector = ReConPatch(dimensions=8, epochs=2, coreset_ratio=0.25)
    before = detector.modulation.weight.detach().clone()
    detector.fit(tiny.train)
    assert not torch.equal(detector.modulation.weight, before)
    assert detector.memory.shape[1] == 8 and not detector.memory.requires_grad


# SOMAD


def test_without_neighbours_the_map_is_k_means():
    points, start = random(100, 3), random(2, 3, 3, seed=1)
    found = self_organising_map(points, start, [1e-3] * 4)
    nodes = start.flatten(0, 1).double().numpy()
    for _ in range(4):
        owners = cdist(points.double(), nodes).argmin(1)
        nodes = np.stack(
            [points.numpy()[owners == k].mean(0) if (owners == k).any() else nodes[k] for k in range(6)]
        )
    np.testing.assert_allclose(found.flatten(0, 1), nodes, rtol=1e-4)


def test_a_wide_radius_draws_all_nodes_to_the_mean():
    points = random(50, 3)
    found = self_organising_map(points, random(3, 3, 3, seed=1), [1e4])
    torch.testing.assert_close(found, points.mean(0).expand(3, 3, 3), rtol=1e-3, atol=1e-4)


def test_neighbouring_nodes_become_similar():
    points = torch.rand(2000, 2, generator=torch.Generator().manual_seed(0))
    nodes = self_organising_map(points, torch.rand(6, 6, 2, generator=torch.Generator().manual_seed(1)),
                                torch.linspace(3, 1, 10).tolist())  # fmt: skip
    beside = (nodes[1:] - nodes[:-1]).norm(dim=2).mean()
    assert beside < 0.5 * torch.cdist(nodes.flatten(0, 1), nodes.flatten(0, 1)).mean()


def test_node_gaussians_give_scipys_mahalanobis_distance():
    points, owners = random(90, 4) @ random(4, 4, seed=1), torch.arange(90) % 3
    owners[0] = 3
    means, whitening = node_gaussians(points, owners, 5, 0.01)
    probe = random(4, seed=2)
    for node in range(3):
        own = points[owners == node].double().numpy()
        inverse = np.linalg.inv(np.cov(own, rowvar=False) + 0.01 * np.eye(4))
        found = (whitening[node] @ (probe - means[node])).norm().item()
        assert found == pytest.approx(mahalanobis(probe.double(), own.mean(0), inverse), rel=1e-3)
    torch.testing.assert_close(whitening[3], 10 * torch.eye(4))
    assert torch.isfinite(whitening).all() and torch.isfinite(means).all()


def test_somad_takes_the_least_of_the_nearest_nodes_distances(tiny):
    detector = SOMAD(dimensions=12, epochs=3, num_neighbors=4).fit(tiny.train)
    patches = detector.embed(detector.extractor(tiny.test.images()[-1:]))[0]
    every = torch.einsum("kij,pkj->pki", detector.whitening, patches[:, None] - detector.means).norm(dim=2)
    nearest_nodes = torch.cdist(patches, detector.memory).argsort(dim=1)[:, :4]
    torch.testing.assert_close(
        detector.score_patches(patches), every.gather(1, nearest_nodes).amin(1), rtol=1e-3, atol=1e-3
    )


# On a GPU


def test_losses_make_no_tensor_on_the_wrong_device():
    def pni(module, batch):
        return PNI.loss(module, batch)

    fake_cuda_loss(lambda: PNI(codewords=8).eval(), pni, lambda: (torch.rand(6, 768), torch.arange(6)))
    detector = ReConPatch(dimensions=4)

    def reconpatch(module, batch):
        return detector.loss(module[0], module[1], batch)

    pair = lambda: nn.ModuleList([nn.Linear(5, 4), nn.Linear(5, 4)])  # noqa: E731
    fake_cuda_loss(pair, reconpatch, lambda: random(16, 5))
