"""Notebook 03's detectors against SciPy, scikit-learn and float64 loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from adlearn.data.base import AnomalyDataset
from adlearn.errors import DataError
from adlearn.features import pooled
from adlearn.methods.memory_bank import (
    KNN,
    SPADE,
    PatchCore,
    nearest_distance,
    patch_vectors,
    retrieval_vectors,
    reweighted_score,
)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def enlarged(grid: np.ndarray, sigma: float) -> np.ndarray:
    """A grid (8, 8) of distances as a smoothed map of 64 pixels, through SciPy."""
    full = torch.nn.functional.interpolate(
        torch.tensor(grid)[None, None], size=(64, 64), mode="bilinear", align_corners=False
    )
    return gaussian_filter(full[0, 0].numpy(), sigma)


@pytest.fixture(scope="module")
def features(tiny):
    """Features of the training images and of one defective test image."""
    extractor = PatchCore().extractor
    return extractor.extract(tiny.train), extractor(tiny.test.images()[-1:])


# --- nearest neighbours of images ---


@pytest.mark.parametrize(("k", "average"), [(1, True), (3, True), (3, False)])
def test_knn_is_scikit_learns(tiny, k, average):
    detector = KNN(num_neighbors=k, average=average).fit(tiny.train)
    bank = pooled(detector.extractor.extract(tiny.train)).double().numpy()
    probe = pooled(detector.extractor.extract(tiny.test)).double().numpy()
    distances, _ = NearestNeighbors(n_neighbors=k).fit(bank).kneighbors(probe)
    expected = distances.mean(axis=1) if average else distances[:, -1]
    prediction = detector.predict(tiny.test.images())
    np.testing.assert_allclose(prediction.score, expected, rtol=1e-3)
    assert prediction.map is None


def test_knn_uses_all_images_when_there_are_fewer_than_neighbours(tiny):
    few = KNN(num_neighbors=100).fit(tiny.train)
    all_of_them = KNN(num_neighbors=len(tiny.train)).fit(tiny.train)
    images = tiny.test.images()
    assert torch.equal(few.predict(images).score, all_of_them.predict(images).score)


# --- SPADE ---


@pytest.mark.parametrize("kappa", [1, 3])
def test_spade_is_a_loop_over_images_and_patches(tiny, features, kappa):
    train, probe = features
    detector = SPADE(num_images=3, num_neighbors=kappa, sigma=1.0).fit(tiny.train)
    bank, one = (retrieval_vectors(f).double().numpy() for f in (train, probe))
    to_images = [np.linalg.norm(one[0] - image) for image in bank]
    order = np.argsort(to_images)[:3]
    patches, own = (patch_vectors(f).double().numpy() for f in (train, probe))
    gallery = [patch for image in order for patch in patches[image]]
    grid = [np.sort([np.linalg.norm(p - g) for g in gallery])[:kappa].mean() for p in own[0]]
    prediction = detector.predict(tiny.test.images()[-1:])
    assert prediction.score.item() == pytest.approx(np.sort(to_images)[:3].mean(), rel=1e-3)
    expected = enlarged(np.reshape(grid, (8, 8)), 1.0)
    np.testing.assert_allclose(prediction.map[0], expected, rtol=2e-3)


def test_spade_retrieves_by_the_deepest_layer_alone(features):
    train, _ = features
    deepest = list(train)[-1]
    changed = {name: f if name == deepest else f * 7 for name, f in train.items()}
    assert torch.equal(retrieval_vectors(train), retrieval_vectors(changed))
    assert retrieval_vectors(train).shape == (8, train[deepest].shape[1])


# --- PatchCore: patches ---


@pytest.mark.parametrize("patch_size", [3, 5])
def test_a_locally_aware_patch_is_the_mean_of_its_neighbourhood_with_zeros_beyond_the_border(patch_size):
    fine, coarse = random(2, 3, 8, 8), random(2, 4, 4, 4, seed=1)
    found = patch_vectors({"fine": fine, "coarse": coarse}, patch_size).unflatten(1, (8, 8))
    half = patch_size // 2
    for row in range(8):
        for column in range(8):
            window = fine[
                :, :, max(0, row - half) : row + half + 1, max(0, column - half) : column + half + 1
            ]
            expected = window.sum(dim=(2, 3)) / patch_size**2
            torch.testing.assert_close(found[:, row, column, :3], expected)


def test_coarse_layers_are_averaged_before_they_are_enlarged():
    coarse = random(1, 4, 4, 4)
    found = patch_vectors({"fine": torch.zeros(1, 1, 8, 8), "coarse": coarse}, 3)[..., 1:]
    averaged = patch_vectors({"coarse": coarse}, 3).transpose(1, 2).unflatten(2, (4, 4))
    expected = torch.nn.functional.interpolate(averaged, size=8, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected.flatten(2).transpose(1, 2))


# --- PatchCore: score ---


def scored(embedding: torch.Tensor, memory: torch.Tensor, b: int) -> torch.Tensor:
    distances = nearest_distance(embedding.flatten(0, 1), memory).view(embedding.shape[:2])
    return reweighted_score(embedding, distances, memory, b)


def transcribed(patches: np.ndarray, memory: np.ndarray, b: int) -> float:
    """Eqs. (6) and (7) of one image, word by word, in 64 bits (80 where the machine has them)."""
    distances = cdist(patches, memory).astype(np.longdouble)
    worst = distances.min(axis=1).argmax()
    star = distances[worst].argmin()
    s_star = distances[worst, star]
    neighbourhood = cdist(memory[star][None], memory)[0].argsort()[:b]
    return float((1 - np.exp(s_star) / np.exp(distances[worst, neighbourhood]).sum()) * s_star)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("b", [2, 3, 9])
def test_the_score_is_a_transcription_of_equation_7(scale, b):
    memory, embedding = random(40, 6) * scale, random(5, 12, 6, seed=1) * scale
    score = scored(embedding, memory, b)
    expected = [transcribed(image.double().numpy(), memory.double().numpy(), b) for image in embedding]
    np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_distances_beyond_the_range_of_exp_stay_finite():
    memory, embedding = random(20, 6) * 1e4, random(3, 4, 6, seed=1) * 1e4
    score = scored(embedding, memory, 9)
    assert torch.isfinite(score).all() and (score > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 12), st.floats(0.01, 100))
def test_the_weight_lies_between_1_minus_1_over_b_and_1(seed, b, scale):
    memory, embedding = random(30, 4, seed=seed) * scale, random(2, 9, 4, seed=seed + 1) * scale
    weight = scored(embedding, memory, b) / scored(embedding, memory, 1)
    assert (weight >= 1 - 1 / b - 1e-4).all() and (weight <= 1 + 1e-6).all()


@pytest.mark.parametrize(("size", "b"), [(1, 9), (30, 1)])
def test_without_neighbours_the_score_is_equation_6(size, b):
    memory, embedding = random(size, 4), random(2, 9, 4, seed=1)
    expected = torch.cdist(embedding, memory).amin(dim=2).amax(dim=1)
    torch.testing.assert_close(scored(embedding, memory, b), expected)


# --- PatchCore: map ---


def test_the_map_is_the_distance_to_the_whole_bank(tiny, features):
    train, probe = features
    detector = PatchCore(coreset_ratio=1.0, sigma=1.0).fit(tiny.train)
    bank, own = (patch_vectors(f, 3).flatten(0, 1).double().numpy() for f in (train, probe))
    distances = cdist(own, bank)
    prediction = detector.predict(tiny.test.images()[-1:])
    expected = enlarged(distances.min(axis=1).reshape(8, 8), 1.0)
    np.testing.assert_allclose(prediction.map[0], expected, rtol=2e-3)
    assert prediction.score.item() == pytest.approx(transcribed(own, bank, 9), rel=2e-3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_a_bigger_bank_never_increases_a_distance(seed, size, more, dimensions):
    memory, queries = random(size + more, dimensions, seed=seed), random(20, dimensions, seed=seed + 1)
    small, large = nearest_distance(queries, memory[:size]), nearest_distance(queries, memory)
    assert (large <= small + 1e-3).all()


def test_the_bank_is_a_subset_of_the_patches_of_the_size_asked_for(tiny, features):
    detector = PatchCore(coreset_ratio=0.05).fit(tiny.train)
    patches = patch_vectors(features[0], 3).flatten(0, 1)
    assert detector.memory.shape == (round(0.05 * len(patches)), patches.shape[1])
    # Not bit for bit: features read from the cache were computed in other batches.
    apart = (detector.memory[:, None] - patches).abs().amax(dim=2).amin(dim=1)
    assert apart.max() < 1e-4


def test_a_smaller_bank_only_raises_the_map_by_at_most_the_covering_radius(tiny, features):
    whole, thin = (PatchCore(coreset_ratio=ratio, sigma=0.1).fit(tiny.train) for ratio in (1.0, 0.05))
    radius = nearest_distance(whole.memory, thin.memory).max()
    images = tiny.test.images()
    difference = thin.predict(images).map - whole.predict(images).map
    assert difference.min() > -1e-3 and difference.max() <= radius + 1e-3


def test_one_image_with_fewer_patches_than_neighbours_is_enough(tiny):
    one = AnomalyDataset("tiny/one", tiny.train.samples[:1], 64)
    detector = PatchCore(coreset_ratio=0.05, num_neighbors=9).fit(one)
    assert len(detector.memory) == 3
    assert (detector.predict(tiny.test.images()).score > 0).all()


# --- arguments ---


@pytest.mark.parametrize(
    ("build", "word"),
    [
        (lambda: KNN(num_neighbors=0), "num_neighbors"),
        (lambda: SPADE(num_images=0), "num_images"),
        (lambda: SPADE(num_neighbors=0), "num_neighbors"),
        (lambda: PatchCore(num_neighbors=0), "num_neighbors"),
        (lambda: PatchCore(coreset_ratio=0), "coreset_ratio"),
        (lambda: PatchCore(coreset_ratio=1.5), "coreset_ratio"),
        (lambda: PatchCore(patch_size=2), "patch_size"),
    ],
)
def test_impossible_arguments_are_refused_by_name(build, word):
    with pytest.raises(DataError, match=word):
        build()


@pytest.mark.parametrize("build", [KNN, SPADE, PatchCore])
def test_nan_is_refused(tiny, build):
    images = tiny.test.images()
    images[0, 0, 3, 3] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        build().fit(tiny.train).predict(images)
