"""VAE: KL and ELBO against numerical integrals, sampled gradients, the four scores from their formulas."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from adlearn.data.base import Benchmark
from adlearn.detector import Prediction
from adlearn.errors import DataError
from adlearn.maps import smooth
from adlearn.methods.autoencoders import (
    VAE,
    VAE_SCORES,
    elbo,
    kl_to_standard_normal,
    log_likelihood,
    pixel_gradient,
    reparameterised,
)

SMALL = {"size": 32, "code": 4, "width": 4, "epochs": 1, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def fitted(tiny: Benchmark, **options: object) -> VAE:
    return VAE(**SMALL | options).fit(tiny.train)


def shaken(**options: object) -> VAE:
    """Weights that are no start, in float64."""
    detector = VAE(**SMALL | options).double()
    detector.history = torch.zeros(1)
    with torch.no_grad():
        for parameter in detector.network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return detector.eval()


def test_kl_is_pytorchs():
    mean, log_variance = torch.randn(2, 5, 3, dtype=torch.float64)
    gaussian = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(gaussian, torch.distributions.Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


@pytest.mark.parametrize(("mean", "variance"), [(0.0, 1.0), (1.3, 0.2), (-0.4, 3.0)])
def test_kl_is_an_integral(mean: float, variance: float):
    q = norm(mean, math.sqrt(variance))
    expected = quad(lambda z: q.pdf(z) * (q.logpdf(z) - norm.logpdf(z)), mean - 12, mean + 12)[0]
    found = kl_to_standard_normal(*torch.tensor([mean, math.log(variance)], dtype=torch.float64))
    assert found.item() == pytest.approx(expected, abs=1e-8)


A, S, X = 1.5, 0.5, 1.2


def bound(mean: float, variance: float) -> float:
    """The package's ELBO of one value, E_q[log p(x | z)] as a Gauss-Hermite sum over draws of z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    codes = torch.tensor(mean + math.sqrt(variance) * nodes)
    images = torch.full((20, 1, 1, 1), X, dtype=torch.float64)
    likelihood = log_likelihood(images, A * codes[:, None, None, None], S)
    expected = (likelihood * torch.tensor(weights)).sum() / weights.sum()
    code = torch.tensor([[[mean]], [[math.log(variance)]]], dtype=torch.float64)
    return elbo(expected[None], *code).item()


def test_elbo_is_below_the_evidence_and_reaches_it_at_the_posterior():
    evidence = math.log(quad(lambda z: norm.pdf(z) * norm.pdf(X, A * z, S), -10, 10, limit=200)[0])
    variance = 1 / (1 + A**2 / S**2)
    assert bound(variance * A * X / S**2, variance) == pytest.approx(evidence, abs=1e-9)
    for mean, other in [(0.0, 1.0), (0.7, 0.3), (0.72, 0.09), (-1.0, 0.1)]:
        assert bound(mean, other) < evidence - 1e-6


def test_log_likelihood_is_a_sum_of_gaussians():
    images, restored = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64)
    spread = torch.rand(2, 3, 4, 5, dtype=torch.float64) + 0.1
    for deviation in (0.3, spread):
        expected = norm.logpdf(images, restored, deviation).sum(axis=(1, 2, 3))
        torch.testing.assert_close(log_likelihood(images, restored, deviation), torch.from_numpy(expected))


def test_samples_have_mean_and_variance_and_the_right_gradients():
    mean = torch.full((200_000,), 0.7, dtype=torch.float64, requires_grad=True)
    log_variance = torch.full_like(mean, math.log(0.3)).detach().requires_grad_()
    codes = reparameterised(mean, log_variance)
    assert codes.mean().item() == pytest.approx(0.7, abs=0.01)
    assert codes.var().item() == pytest.approx(0.3, abs=0.01)
    by_mean, by_log = torch.autograd.grad(codes.square().sum(), (mean, log_variance))
    assert by_mean.mean().item() == pytest.approx(1.4, abs=0.02)
    assert by_log.mean().item() == pytest.approx(0.3, abs=0.02)


def test_gradient_of_a_sample_is_that_of_finite_differences():
    code = tuple(t.requires_grad_() for t in torch.randn(2, 3, 4, dtype=torch.float64))

    def sampled(mean: torch.Tensor, log_variance: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return reparameterised(mean, log_variance)

    assert torch.autograd.gradcheck(sampled, code)


def gradients(detector: VAE, images: torch.Tensor) -> list[torch.Tensor]:
    torch.manual_seed(1)
    return list(torch.autograd.grad(detector.loss(images), list(detector.network.parameters())))


def test_loss_is_the_squared_error_and_a_weighted_kl():
    detector, images = shaken(beta=3.0, deviation=0.2), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    torch.manual_seed(1)
    found = detector.loss(images)
    torch.manual_seed(1)
    mean, log_variance = detector.network.encode(images)
    restored = detector.network.decode(reparameterised(mean, log_variance))
    divergence = kl_to_standard_normal(mean, log_variance).sum() / 2
    expected = (images - restored).square().sum() / 2 + 2 * 3.0 * 0.2**2 * divergence
    constant = 3072 * 2 * 0.2**2 * (math.log(0.2) + math.log(2 * math.pi) / 2)
    torch.testing.assert_close(found, expected + constant)


def test_beta_and_deviation_are_one_knob():
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    one, same, other = shaken(beta=1.0, deviation=0.2), shaken(beta=4.0, deviation=0.1), shaken(beta=4.0)
    for detector in (same, other):
        detector.load_state_dict(one.state_dict())
    of_one, of_same, of_other = (gradients(detector, images) for detector in (one, same, other))
    assert all(map(torch.allclose, of_one, of_same))
    assert not all(map(torch.allclose, of_one, of_other))


def test_gradients_reach_every_weight():
    found = gradients(shaken(), torch.rand(2, 3, 32, 32, dtype=torch.float64))
    assert all(torch.isfinite(g).all() and g.abs().sum() > 0 for g in found)


@pytest.mark.parametrize("kind", ["kl", "elbo"])
def test_scores_in_nats_are_their_formulas(kind: str):
    detector, images = shaken(score=kind, beta=2.0), torch.rand(3, 3, 32, 32, dtype=torch.float64)
    found = detector.predict(images)
    with torch.no_grad():
        mean, log_variance = detector.network.encode(images)
        restored = detector.network.decode(mean)
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (log_variance / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    ).sum(dim=1)
    density = norm.logpdf(images, restored, 0.04).sum(axis=(1, 2, 3))
    expected = divergence if kind == "kl" else 2 * divergence - torch.from_numpy(density)
    torch.testing.assert_close(found.score, expected)


def kl_of(detector: VAE, image: torch.Tensor) -> float:
    with torch.no_grad():
        return kl_to_standard_normal(*detector.network.encode(image[None])).sum().item()


def test_gradient_map_is_a_finite_difference_times_the_error():
    detector, images = shaken(score="gradient"), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    plain = detector.predict(images)
    place, step, slopes = (0, 11, 17), 1e-6, []
    for channel in range(3):
        moved = images[0].clone()
        moved[channel, 11, 17] += step
        slopes.append(abs(kl_of(detector, moved) - kl_of(detector, images[0])) / step)
    pixels = images.clone().requires_grad_()
    slope = pixel_gradient(kl_to_standard_normal(*detector.network.encode(pixels)).sum(dim=1), pixels)
    assert slope[place].item() == pytest.approx(np.mean(slopes), rel=1e-3)
    with torch.no_grad():
        error = (images - detector.restore(images)).square().mean(dim=1)
    torch.testing.assert_close(plain.map, smooth(slope * error, detector.sigma))
    torch.testing.assert_close(plain.score, plain.map.amax(dim=(1, 2)))


@pytest.mark.parametrize("kind", VAE_SCORES)
def test_prediction_is_deterministic_and_leaves_no_gradients(tiny: Benchmark, kind: str):
    detector, images = fitted(tiny, score=kind), tiny.test.images()
    for parameter in detector.network.parameters():
        parameter.grad = None
    with torch.no_grad():
        first, second = detector.predict(images), detector.predict(images)
    assert torch.equal(first.score, second.score) and torch.equal(first.map, second.map)
    assert not first.score.requires_grad and not first.map.requires_grad and not images.requires_grad
    assert first.map.shape == (len(images), 64, 64)
    assert all(parameter.grad is None for parameter in detector.network.parameters())


@pytest.mark.parametrize("kind", VAE_SCORES)
def test_no_score_depends_on_the_batch(tiny: Benchmark, kind: str):
    detector, images = fitted(tiny, score=kind), tiny.test.images()
    together = detector.predict(images)
    alone = Prediction.cat([detector.predict(image[None]) for image in images])
    torch.testing.assert_close(
        alone.score, together.score, rtol=1e-4, atol=1e-4 * together.score.abs().max().item()
    )
    torch.testing.assert_close(alone.map, together.map, rtol=0, atol=1e-4 * together.map.max().item())


def test_decoder_starts_at_the_mean_colour(tiny: Benchmark):
    detector, images = VAE(**SMALL), tiny.train.images()
    with torch.no_grad():
        detector.prepare(images)
    torch.testing.assert_close(detector.network.decoder[-1].bias, images.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("wrong", [{"score": "likelihood"}, {"size": 40}])
def test_unknown_scores_and_sizes_are_refused(wrong: dict):
    with pytest.raises(DataError):
        VAE(**SMALL | wrong)
