"""What makes each variation of notebook 02 the method it is, against SciPy, scikit-learn and NumPy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import mahalanobis
from sklearn.cluster import KMeans

from adlearn.errors import DataError
from adlearn.methods.gaussian_density import (
    GCPF,
    SOE,
    AlignedPaDiM,
    NPad,
    aligned_distance,
    cluster_gaussians,
    inverse,
    kmeans,
    log_nfa,
    neighbourhood_gaussians,
    register,
    semi_orthogonal,
    thumbnails,
    warp,
)
from adlearn.methods.start_here import PatchGaussian, whitened_distance, whitening


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def distance_to(points: np.ndarray, x: np.ndarray, ddof: int = 1, regularisation: float = 0.01) -> float:
    """SciPy's Mahalanobis distance of `x` (D,) to the regularised Gaussian of `points` (N, D)."""
    sigma = np.cov(points, rowvar=False, ddof=ddof) + regularisation * np.eye(points.shape[1])
    return mahalanobis(x, points.mean(axis=0), np.linalg.inv(sigma))


def test_the_embedding_is_semi_orthogonal_seeded_and_uniform():
    w = semi_orthogonal(30, 7)
    torch.testing.assert_close(w.T @ w, torch.eye(7), rtol=0, atol=1e-5)
    assert torch.equal(w, semi_orthogonal(30, 7)) and not torch.equal(w, semi_orthogonal(30, 7, seed=1))
    # Uniform: no entry has a preferred sign. Householder's QR alone gives the first one always the same.
    first = torch.stack([semi_orthogonal(4, 2, seed)[0, 0] for seed in range(400)])
    assert abs(first.mean().item()) < 0.1 and first.square().mean().item() == pytest.approx(1 / 4, abs=0.05)
    with pytest.raises(DataError, match="num_dimensions"):
        semi_orthogonal(5, 6)


def test_all_mixtures_are_the_gaussian_with_all_dimensions(tiny):
    images = tiny.test.images()
    rotated, plain = SOE(152).fit(tiny.train).predict(images), PatchGaussian().fit(tiny.train).predict(images)
    torch.testing.assert_close(rotated.map, plain.map, rtol=2e-3, atol=1e-3)


def test_soe_is_the_low_rank_mahalanobis_distance(tiny):
    detector = SOE(6, sigma=0.01).fit(tiny.train)
    features = detector.extractor.extract(tiny.train)
    w = detector.projection.double().numpy()
    points = torch.cat(list(same_size(features)), dim=1)[:, :, 3, 4].double().numpy()
    centred = points - points.mean(axis=0)
    full = centred.T @ centred / (len(points) - 1) + 0.01 * np.eye(152)
    x = w.T @ centred[0]
    expected = np.sqrt(x @ np.linalg.solve(w.T @ full @ w, x))
    found = whitened_distance(
        detector.project(features)["projected"].flatten(2).transpose(1, 2), detector.mean, detector.spread
    )
    assert found[0, 3 * 8 + 4].item() == pytest.approx(expected, rel=1e-3)


def same_size(features):
    size = max(f.shape[-1] for f in features.values())
    return (torch.nn.functional.interpolate(f, size=(size, size)) for f in features.values())


def test_kmeans_reaches_what_scikit_learn_reaches_from_the_same_start():
    points = torch.cat([normals(60, 3, seed=i) + 4 * i for i in range(4)])
    ours = kmeans(points, 4, iterations=50)
    theirs = KMeans(4, init=kmeans(points, 4, iterations=0).numpy(), n_init=1, tol=0).fit(points.numpy())
    np.testing.assert_allclose(np.sort(ours, axis=0), np.sort(theirs.cluster_centers_, axis=0), rtol=1e-4)


def test_kmeans_of_equal_points_and_of_fewer_points_than_centres_is_finite():
    assert torch.isfinite(kmeans(torch.ones(5, 2), 3)).all()
    assert len(kmeans(normals(2, 3), 9)) == 2


def test_cluster_gaussians_are_those_of_their_members_and_empty_ones_vanish():
    points = torch.cat([normals(50, 3), normals(40, 3, seed=1) * 0.1 + 20])
    centres = torch.tensor([[0.0, 0, 0], [20, 20, 20], [900, 0, 0]])
    mean, matrices = cluster_gaussians(points, centres, 0.01)
    assert mean.shape == (2, 3)
    found = whitened_distance(points[:1, None].expand(-1, 2, -1), mean, matrices)[0]
    parts = points[:50].double().numpy(), points[50:].double().numpy()
    expected = [distance_to(part, points[0].double().numpy()) for part in parts]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_gcpf_knows_no_positions(tiny):
    detector = GCPF(4, sigma=0.01).fit(tiny.train)
    features = detector.extractor(tiny.test.images())
    turned = {name: maps.flip(2, 3) for name, maps in features.items()}
    size = (64, 64)
    there, here = detector.score_features(turned, size).map, detector.score_features(features, size).map
    torch.testing.assert_close(there, here.flip(1, 2), rtol=1e-4, atol=1e-4)


def test_gcpfs_density_adds_the_log_determinant(tiny):
    plain, charged = (GCPF(1, density, sigma=0.01).fit(tiny.train) for density in (False, True))
    spreads = [plain.spread0, plain.spread1]
    log_determinants = [-2 * torch.linalg.slogdet(s.double()).logabsdet.item() for s in spreads]
    fine = {"a": plain.extractor(tiny.test.images()[:1])["blocks.2"]}
    squared = plain.score_features(fine, (8, 8)).map.square()
    found = charged.score_features(fine, (8, 8)).map
    torch.testing.assert_close(found, squared + log_determinants[0], rtol=1e-3, atol=1e-2)


def test_neighbourhood_gaussians_are_those_of_all_features_in_the_window():
    maps = normals(6, 3, 4, 5) + torch.arange(20.0).view(4, 5)
    mean, matrices = neighbourhood_gaussians(maps, 3, 0.01)
    for y, x in ((0, 0), (2, 3)):
        near = maps[:, :, max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
        points = near.movedim(1, -1).reshape(-1, 3).double().numpy()
        found = whitened_distance(
            maps[:1, :, y, x][:, None], mean[y * 5 + x, None], matrices[y * 5 + x, None]
        )
        expected = distance_to(points, maps[0, :, y, x].double().numpy(), ddof=0)
        assert found.item() == pytest.approx(expected, rel=1e-3)


def test_a_window_of_one_is_the_gaussian_per_position():
    maps = normals(30, 4, 3, 3)
    mean, matrices = neighbourhood_gaussians(maps, 1, 0.0)
    expected = whitening(maps.flatten(2).permute(0, 2, 1), 0.0)
    torch.testing.assert_close(mean, expected[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(matrices, expected[1] * (30 / 29) ** 0.5, rtol=1e-3, atol=1e-3)


def test_aligned_distance_is_the_smallest_of_the_window():
    maps, mean, matrices = normals(2, 3, 4, 5), normals(20, 3, seed=1), normals(20, 3, 3, seed=2)
    found = aligned_distance(maps, mean, matrices, 3)
    for y in range(4):
        for x in range(5):
            near = [
                (i, j) for i in range(y - 1, y + 2) for j in range(x - 1, x + 2) if 0 <= i < 4 and 0 <= j < 5
            ]
            all_of_them = [
                (matrices[i * 5 + j] @ (maps[:, :, y, x] - mean[i * 5 + j]).T).norm(dim=0) for i, j in near
            ]
            torch.testing.assert_close(
                found[:, y, x], torch.stack(all_of_them).amin(dim=0), rtol=1e-4, atol=1e-5
            )


def test_npad_forgives_a_step_of_the_grid_that_its_baseline_does_not():
    # One distinct feature per position, moved by one step.
    maps = normals(1, 4, 6, 6) * 5 + normals(40, 4, 6, 6, seed=1) * 0.1
    new = (maps.mean(dim=0) + 0.05).roll(1, dims=2)[None]
    narrow = aligned_distance(new, *neighbourhood_gaussians(maps, 1, 0.01), 1)[..., 1:]
    wide = aligned_distance(new, *neighbourhood_gaussians(maps, 3, 0.01), 3)[..., 1:]
    assert wide.max() < 0.1 * narrow.min()


def test_npads_window_is_odd_and_its_size_that_of_fit(tiny):
    with pytest.raises(DataError, match="odd"):
        NPad(window=2)
    with pytest.raises(DataError, match="fitted on"):
        NPad(num_centroids=5).fit(tiny.train).predict(torch.rand(1, 3, 96, 96))


def blob_images(motions: torch.Tensor) -> torch.Tensor:
    """A bar with a thick end on black, seen through `motions` (B, 2, 3): (B, 3, 112, 112)."""
    image = torch.zeros(1, 3, 112, 112)
    image[:, :, 50:62, 25:90] = 0.6
    image[:, :, 42:70, 76:90] = 0.9
    return warp(image.expand(len(motions), -1, -1, -1), motions)


def rigid(degrees: list[float], shifts: list[tuple[float, float]]) -> torch.Tensor:
    a = torch.tensor(degrees).deg2rad()
    turn = torch.stack([a.cos(), -a.sin(), a.sin(), a.cos()], dim=1).view(-1, 2, 2)
    return torch.cat([turn, torch.tensor(shifts)[:, :, None]], dim=2)


def test_inverse_undoes_a_motion():
    motions = rigid([30, 200], [(0.1, -0.2), (0.0, 0.3)])
    square = torch.nn.functional.pad(motions, (0, 0, 0, 1))
    square[:, 2, 2] = 1
    expected = torch.linalg.inv(square)[:, :2]
    torch.testing.assert_close(inverse(motions), expected)


def test_registration_finds_turns_and_shifts_and_tells_head_from_tip():
    images = blob_images(rigid([0, 40, 180, 301], [(0, 0), (0.1, 0.05), (-0.1, 0), (0.05, -0.1)]))
    planes = thumbnails(images)
    registered = warp(images, register(planes, planes[0], num_angles=120))
    for one in registered:
        assert (one - images[0]).abs().mean() < 0.15 * images[0].mean()
    assert (images[2] - images[0]).abs().mean() > 0.3 * images[0].mean()


def test_registration_of_a_flat_image_does_nothing():
    motion = register(torch.zeros(1, 56, 56), torch.zeros(56, 56), 12)
    torch.testing.assert_close(motion[0], torch.eye(2, 3))


def test_the_aligned_map_lies_in_the_images_own_frame(tiny):
    detector = AlignedPaDiM(num_angles=4).fit(tiny.train)
    image = tiny.test.images()[-1:]
    there, here = detector.predict(image.rot90(1, (2, 3))), detector.predict(image)
    assert there.score.item() == pytest.approx(here.score.item(), rel=0.05)
    centre = (there.map - here.map.rot90(1, (1, 2)))[:, 8:-8, 8:-8]
    assert centre.abs().mean() < 0.1 * here.map.mean()
    with pytest.raises(DataError, match="square"):
        detector.predict(torch.rand(1, 3, 64, 96))


def test_the_number_of_false_alarms_is_what_it_says_for_gaussian_features():
    train, test = normals(60, 400, 10), normals(200, 400, 10, seed=1)
    distance = whitened_distance(test, *whitening(train, 0.0))
    for level in (0.1, 1.0, 10.0):
        found = (log_nfa(distance, 60, 10) < np.log10(level)).sum(dim=1).double().mean().item()
        # Three standard errors of 200 images, if patches were independent, and a little more.
        assert found == pytest.approx(level, abs=4 * (level / 200) ** 0.5)
    naive = (log_nfa(distance, 60, 10, exact=False) < 0).sum(dim=1).double().mean().item()
    assert naive > 3


def test_log_nfa_grows_rarer_with_distance_and_needs_more_images_than_dimensions():
    values = log_nfa(torch.tensor([[1.0, 3.0, 9.0, 27.0]]), 50, 5)[0]
    assert (values.diff() < 0).all() and values[0] <= np.log10(4)
    with pytest.raises(DataError, match="more than 5"):
        log_nfa(torch.ones(1, 2), 5, 5)
