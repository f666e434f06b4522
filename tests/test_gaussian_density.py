"""Notebook 02's methods against SciPy, scikit-learn and loops in float64."""

import contract
import numpy as np
import pytest
import sklearn.covariance
import torch
from detectors import Case, Small
from fake_cuda import fake_cuda_loss
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import mahalanobis
from scipy.stats import gaussian_kde, multivariate_normal
from sklearn.decomposition import PCA
from sklearn.neighbors import KernelDensity

from adlearn.errors import DataError
from adlearn.features import aggregate, pooled
from adlearn.methods import gaussian_density as gd


def cloud(count: int, dimension: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(dimension, dimension, generator=generator)
    return torch.randn(count, dimension, generator=generator) @ mixture + 2


@pytest.mark.parametrize("keep", [0.5, 0.9, 0.97, 3])
@pytest.mark.parametrize("count", [12, 200])
def test_pca_keeps_the_directions_of_scikit_learn_and_loses_the_same(count, keep):
    train, new = cloud(count, 20), cloud(30, 20, seed=1)
    mean, directions, deviations = gd.pca(train, keep)
    reference = PCA(keep, svd_solver="full").fit(train.double().numpy())
    assert len(directions) == reference.n_components_
    np.testing.assert_allclose(deviations.square(), reference.explained_variance_, rtol=1e-3)
    restored = reference.inverse_transform(reference.transform(new.double().numpy()))
    errors = gd.reconstruction_error(new, mean, directions)
    np.testing.assert_allclose(errors, (new.double().numpy() - restored) ** 2, rtol=1e-2, atol=1e-3)


def test_pca_leaves_out_directions_without_variance_but_keeps_one():
    flat = torch.cat([cloud(40, 3), torch.ones(40, 2)], dim=1)
    assert gd.pca(flat, 5)[1].shape == (3, 5)
    for constant in (torch.ones(6, 4), torch.ones(1, 4)):
        _, directions, deviations = gd.pca(constant, 0.97)
        assert directions.shape == (1, 4) and (deviations > 0).all()


def test_gaussian_nll_is_scipys_logpdf():
    deviations = torch.tensor([3.0, 1.0, 0.2])
    latent = 2 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    density = multivariate_normal(cov=np.diag(deviations.double().numpy() ** 2))
    np.testing.assert_allclose(
        gd.gaussian_nll(latent, deviations), -density.logpdf(latent.numpy()), rtol=1e-4
    )


def test_dfm_nll_is_the_gaussian_of_the_projected_training_images(tiny):
    detector = gd.DFM("nll", keep=3).fit(tiny.train)
    train = gd.flattened(detector.extractor.extract(tiny.train), 4).double().numpy()
    images = tiny.test.images()
    test = gd.flattened(detector.extractor(images), 4).double().numpy()
    reference = PCA(3, svd_solver="full").fit(train)
    latent = reference.transform(train)
    density = multivariate_normal(latent.mean(axis=0), np.cov(latent, rowvar=False))
    np.testing.assert_allclose(
        detector.predict(images).score, -density.logpdf(reference.transform(test)), rtol=2e-3
    )


def test_dfm_fre_is_what_pca_loses(tiny):
    detector = gd.DFM("fre", keep=0.8).fit(tiny.train)
    train = gd.flattened(detector.extractor.extract(tiny.train), 4).double().numpy()
    images = tiny.test.images()
    test = gd.flattened(detector.extractor(images), 4).double().numpy()
    reference = PCA(0.8, svd_solver="full").fit(train)
    lost = test - reference.inverse_transform(reference.transform(test))
    np.testing.assert_allclose(detector.predict(images).score, (lost**2).sum(axis=1), rtol=1e-3)


def test_windows_average_without_overlap():
    maps = torch.arange(2 * 3 * 5 * 5.0).reshape(2, 3, 5, 5)
    (found,) = gd.windows({"a": maps}, 2)
    assert found.shape == (2, 3, 2, 2)
    assert found[1, 2, 0, 1] == maps[1, 2, :2, 2:4].mean()
    assert torch.equal(gd.windows({"a": maps}, 9)[0][..., 0, 0], maps.mean(dim=(2, 3)))


@pytest.mark.parametrize("count", [5, 30, 400])
def test_ledoit_wolf_is_scikit_learns(count):
    values = cloud(count, 12)
    covariance, shrinkage = gd.ledoit_wolf(values)
    expected, expected_shrinkage = sklearn.covariance.ledoit_wolf(values.double().numpy())
    assert shrinkage.item() == pytest.approx(expected_shrinkage, rel=1e-3)
    np.testing.assert_allclose(covariance, expected, rtol=1e-3, atol=1e-3)


def test_ledoit_wolf_of_constant_values_is_zero_and_fully_shrunk():
    covariance, shrinkage = gd.ledoit_wolf(torch.ones(4, 3))
    assert shrinkage == 1 and torch.equal(covariance, torch.zeros(3, 3))


def test_mvg_adds_the_levels_mahalanobis_distances(tiny):
    detector = gd.MVG(layers=(8, 16)).fit(tiny.train)
    train, images = detector.extractor.extract(tiny.train), tiny.test.images()
    test = detector.extractor(images)
    expected = np.zeros(len(images))
    for name in train:
        values, probes = (f[name].mean(dim=(2, 3)).double().numpy() for f in (train, test))
        sigma = sklearn.covariance.ledoit_wolf(values)[0] + 1e-6 * np.eye(values.shape[1])
        expected += [mahalanobis(p, values.mean(axis=0), np.linalg.inv(sigma)) for p in probes]
    np.testing.assert_allclose(detector.predict(images).score, expected, rtol=2e-3)


def test_mvg_scores_the_same_whether_the_extractor_averages_or_not(tiny):
    scores = [
        gd.MVG(layers=(8, 16), pool=p).fit(tiny.train).predict_dataset(tiny.test).score for p in (True, False)
    ]
    torch.testing.assert_close(*scores, rtol=1e-3, atol=1e-3)


def test_padims_map_is_scipys_mahalanobis_on_the_chosen_dimensions(tiny):
    detector = gd.PaDiM(num_dimensions=20, seed=3, sigma=0.5).fit(tiny.train)
    chosen = detector.dimensions
    assert len(chosen.unique()) == 20 and chosen.max() < 152
    points = aggregate(detector.extractor.extract(tiny.train), mode="nearest")[:, chosen].double().numpy()
    image = tiny.test.images()[-1:]
    probe = aggregate(detector.extractor(image), mode="nearest")[0, chosen].double().numpy()
    expected = np.empty((8, 8))
    for row, column in np.ndindex(8, 8):
        values = points[:, :, row, column]
        inverse = np.linalg.inv(np.cov(values, rowvar=False) + 0.01 * np.eye(20))
        expected[row, column] = mahalanobis(probe[:, row, column], values.mean(axis=0), inverse)
    full = torch.nn.functional.interpolate(torch.tensor(expected)[None, None], size=(64, 64), mode="bilinear")
    np.testing.assert_allclose(
        detector.predict(image).map[0], gaussian_filter(full[0, 0].numpy(), 0.5), rtol=2e-3
    )


def test_padim_with_all_dimensions_is_notebook_00s_model(tiny):
    full = gd.PatchGaussian("full").fit(tiny.train).predict(tiny.test.images())
    padim = gd.PaDiM(152).fit(tiny.train).predict(tiny.test.images())
    torch.testing.assert_close(padim.map, full.map)


def test_random_dimensions_follow_the_seed_and_are_refused_beyond_the_channels():
    assert torch.equal(gd.random_dimensions(152, 50, 1), gd.random_dimensions(152, 50, 1))
    assert not torch.equal(gd.random_dimensions(152, 50, 1), gd.random_dimensions(152, 50, 2))
    for count in (0, 153):
        with pytest.raises(DataError, match="between 1 and 152"):
            gd.PaDiM(count)


@pytest.mark.parametrize("dimension", [1, 4, 16])
def test_kde_log_density_is_scipys(dimension):
    points, x = cloud(60, dimension), cloud(25, dimension, seed=2)
    found = gd.kde_log_density(x, points, gd.scott_kernel(points))
    expected = gaussian_kde(points.T.double().numpy(), "scott").logpdf(x.T.double().numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_kde_log_density_is_scikit_learns_for_round_kernels():
    points, x = cloud(60, 3), cloud(25, 3, seed=2)
    found = gd.kde_log_density(x, points, torch.eye(3) / 0.7)
    expected = KernelDensity(bandwidth=0.7).fit(points.numpy()).score_samples(x.numpy())
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_kde_log_density_far_away_is_finite_and_still_ordered():
    points = cloud(60, 8)
    far = points.mean(0) + torch.tensor([[100.0], [200.0], [400.0]])
    found = gd.kde_log_density(far, points, gd.scott_kernel(points))
    assert torch.isfinite(found).all() and (found.diff() < 0).all()
    assert (found.exp() == 0).all()  # where a sum of exponentials sees no difference


def test_dfkde_is_scipys_kde_of_the_scaled_principal_coordinates(tiny):
    detector = gd.DFKDE(num_components=3).fit(tiny.train)
    train, images = pooled(detector.extractor.extract(tiny.train)), tiny.test.images()
    reference = PCA(3, svd_solver="full").fit(train.double().numpy())
    latent = reference.transform(train.double().numpy())
    longest = np.linalg.norm(latent, axis=1).max()
    test = reference.transform(pooled(detector.extractor(images)).double().numpy()) / longest
    expected = -gaussian_kde(latent.T / longest, "scott").logpdf(test.T)
    np.testing.assert_allclose(detector.predict(images).score, expected, rtol=5e-3, atol=1e-2)


def test_anomaly_probability_is_half_at_12_and_falls_with_density():
    found = gd.anomaly_probability(torch.tensor([12.0, 32.0, -8.0]))
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.e), 1 / (1 + np.exp(-1))], rtol=1e-5)


def test_fre_score_and_map_are_what_pca_loses_of_the_whole_layer(tiny):
    detector = gd.FRE(keep=4).fit(tiny.train)
    images = tiny.test.images()
    train = gd.flattened(detector.extractor.extract(tiny.train), 2).double().numpy()
    test = gd.flattened(detector.extractor(images), 2).double().numpy()
    reference = PCA(4, svd_solver="full").fit(train)
    lost = (test - reference.inverse_transform(reference.transform(test))) ** 2
    found = detector.predict(images)
    np.testing.assert_allclose(found.score, lost.sum(axis=1), rtol=2e-3)
    grid = torch.tensor(lost).view(len(images), 112, 2, 2).mean(dim=1, keepdim=True)
    expected = torch.nn.functional.interpolate(grid, size=(64, 64), mode="bilinear")[:, 0]
    np.testing.assert_allclose(found.map, expected, rtol=5e-3, atol=1e-5)


def test_fre_of_two_layers_adds_their_maps(tiny):
    detector = gd.FRE(layers=(8, 16)).fit(tiny.train)
    images = tiny.test.images()
    features = detector.extractor(images)
    values = gd.flattened(features, 2)
    restored = gd.tied(values, detector.weight, detector.encoder_bias, detector.decoder_bias)
    fine, coarse = gd.error_maps((values - restored) ** 2, features, 2)
    assert fine.shape[1:] == (4, 4) and coarse.shape[1:] == (2, 2)
    found = detector.predict(images)
    total = 40 * fine.sum(dim=(1, 2)) + 112 * coarse.sum(dim=(1, 2))
    torch.testing.assert_close(found.score, total)
    size = tuple(images.shape[-2:])
    torch.testing.assert_close(found.map, gd.upsample(fine, size) + gd.upsample(coarse, size))


def test_the_trained_autoencoder_loses_nearly_as_little_as_pca():
    values = cloud(300, 10)
    mean, directions, _ = gd.pca(values, 3)
    best = gd.reconstruction_error(values, mean, directions).sum(dim=1).mean()
    model = gd.TiedAutoencoder(10, 3)
    adam = torch.optim.Adam(model.parameters(), lr=0.03)
    batches = gd.tensor_batches(values, batch_size=50)
    gd.train(model, lambda b: gd.F.mse_loss(model(b[0]), b[0]), batches, epochs=120, optimizer=adam)
    reached = (values - model(values)).square().sum(dim=1).mean()
    assert best <= reached < 1.1 * best
    assert torch.equal(gd.TiedAutoencoder(5, 2, seed=1).weight, gd.TiedAutoencoder(5, 2, seed=1).weight)


def test_the_autoencoders_loss_runs_as_on_cuda():
    fake_cuda_loss(
        lambda: gd.TiedAutoencoder(10, 3), lambda m, x: gd.F.mse_loss(m(x), x), lambda: torch.zeros(4, 10)
    )


OTHER_MODES = [
    ("DFM", {"score": "nll"}),
    ("FRE", {"kind": "autoencoder", "pooling_kernel_size": 1, "latent_dim": 4}),
    ("MVG", {"pool": False}),
]


@pytest.mark.parametrize(("name", "arguments"), OTHER_MODES, ids=[name for name, _ in OTHER_MODES])
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_other_modes_keep_every_promise(name, arguments, check, tiny, tmp_path):
    check(contract.Subject(Case(getattr(gd, name), Small(arguments)), tiny, tmp_path))


@pytest.mark.parametrize("build", [gd.DFM, gd.FRE, gd.PaDiM])
def test_another_image_size_than_fitted_is_refused(tiny, build):
    with pytest.raises(DataError, match="fitted on"):
        build().fit(tiny.train).predict(torch.rand(1, 3, 128, 128))


def test_unknown_choices_are_refused():
    with pytest.raises(DataError, match="nll"):
        gd.DFM("mse")
    with pytest.raises(DataError, match="autoencoder"):
        gd.FRE("linear")
