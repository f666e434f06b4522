"""VAE variations: projection goes down its energy, attention by hand, the unregularised score's parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.autoencoders import (
    VAE,
    AttentionVAE,
    ProjectedVAE,
    UnregularisedVAE,
    attention_map,
    attention_weights,
    descended,
    energy,
    kl_to_standard_normal,
)

SMALL = {"size": 32, "code": 4, "width": 4, "epochs": 1, "batch_size": 4}
CLASSES = [ProjectedVAE, AttentionVAE, UnregularisedVAE]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def flat(images: torch.Tensor) -> torch.Tensor:
    """An autoencoder that draws every image as its mean colour."""
    return images.mean(dim=(2, 3), keepdim=True).expand_as(images)


def defective(count: int = 3) -> torch.Tensor:
    images = torch.full((count, 3, 16, 16), 0.5, dtype=torch.float64)
    images += 0.01 * torch.randn_like(images)
    images[:, :, 4:7, 4:7] = 0.9
    return images


def test_energy_is_the_papers():
    images, restored, first = torch.rand(3, 2, 3, 4, 5, dtype=torch.float64)
    rows = zip(images, restored, first, strict=True)
    expected = [((x - r) ** 2).sum() + 0.3 * (x - f).abs().sum() for x, r, f in rows]
    torch.testing.assert_close(energy(images, restored, first, 0.3), torch.stack(expected))


def test_one_step_is_the_papers():
    first, rate, weight = defective(), 0.5, 0.05
    pixels = first.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(energy(pixels, flat(pixels), first, weight).sum(), pixels)
    expected = first - rate * gradient * (first - flat(first)) ** 2
    torch.testing.assert_close(descended(flat, first, 1, rate, weight), expected)


@pytest.mark.parametrize("rate", [1.0, 4.0, 1000.0])
def test_energy_never_rises(rate: float):
    first = defective()
    moved = [descended(flat, first, steps, rate, 0.02) for steps in (0, 1, 2, 4, 8, 12, 16)]
    energies = torch.stack([energy(m, flat(m), first, 0.02) for m in moved])
    assert (energies.diff(dim=0) <= 1e-12).all() and (energies[-1] < energies[0]).all()
    assert moved[-1].min() >= 0 and moved[-1].max() <= 1


def test_only_what_is_drawn_badly_moves():
    first = defective()
    change = (descended(flat, first, 10, 4.0, 0.02) - first).abs().amax(dim=1)
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[4:7, 4:7] = True
    assert change[:, inside].min() > 0.2 and change[:, ~inside].max() < 0.01


def test_nothing_moves_where_image_and_drawing_agree_or_without_steps():
    agreed = torch.full((2, 3, 8, 8), 0.4)
    torch.testing.assert_close(descended(flat, agreed, 5, 4.0, 0.02), agreed)
    first = defective()
    assert torch.equal(descended(flat, first, 0, 4.0, 0.02), first)


def test_each_image_has_its_own_steps():
    first = torch.cat([defective(1), torch.rand(2, 3, 16, 16, dtype=torch.float64)])
    together = descended(flat, first, 6, 30.0, 0.02)
    alone = torch.cat([descended(flat, image[None], 6, 30.0, 0.02) for image in first])
    torch.testing.assert_close(alone, together)


def test_projected_map_is_the_way_the_image_went(tiny: Benchmark):
    detector, images = ProjectedVAE(**SMALL, steps=2, sigma=1e-3).fit(tiny.train), tiny.test.images()
    reduced = F.interpolate(images, (32, 32), mode="bilinear", antialias=True)
    moved = descended(lambda x: VAE.restore(detector, x), reduced, 2, detector.rate, detector.weight)
    found = detector.predict(images)
    torch.testing.assert_close(found.score, (reduced - moved).square().mean(dim=1).amax(dim=(1, 2)))


def test_attention_of_a_linear_encoder_by_hand():
    matrix = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64).requires_grad_()
    signals = torch.einsum("dchw,bchw->bd", matrix, features)
    weights = attention_weights(signals, features)
    by_hand = torch.stack([matrix[d].sum(dim=(1, 2)) / 20 for d in range(2)])
    torch.testing.assert_close(weights, by_hand[:, None].expand(2, 2, 3))
    expected = torch.zeros(2, 4, 5, dtype=torch.float64)
    for b in range(2):
        for d in range(2):
            combined = sum(by_hand[d, k] * features[b, k].detach() for k in range(3))
            expected[b] += combined.clamp_min(0) / 2
    torch.testing.assert_close(attention_map(weights, features.detach()), expected)


def test_attention_weights_are_those_of_the_whole_encoder(tiny: Benchmark):
    detector = AttentionVAE(**SMALL, layer=3).fit(tiny.train)
    images, encoder = torch.rand(2, 3, 32, 32), detector.network.encoder
    kept: list[torch.Tensor] = []
    handle = encoder[5].register_forward_hook(lambda module, inputs, output: kept.append(output))
    mean, _ = detector.network.encode(images)
    handle.remove()
    gradient = [torch.autograd.grad(mean[:, i].sum(), kept[0], retain_graph=True)[0] for i in range(4)]
    maps = [torch.relu((g.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1)) for g in gradient]
    expected = F.interpolate(torch.stack(maps).mean(dim=0)[:, None], (32, 32), mode="bilinear")[:, 0]
    found = detector.predict(images)
    detector.sigma = 1e-3
    torch.testing.assert_close(detector.predict(images).map, expected, rtol=1e-4, atol=1e-7)
    assert found.map.shape == (2, 32, 32)


def test_difference_is_a_sample_of_the_difference_of_two_gaussians(tiny: Benchmark):
    detector = AttentionVAE(**SMALL, signal="difference").fit(tiny.train)
    mean, log_variance = torch.randn(2, 5, 4)
    deviation = (detector.good_variance + log_variance.exp()).sqrt()
    standard = (detector.signals(mean, log_variance) - (detector.good_mean - mean)) / deviation
    torch.testing.assert_close(standard, detector.noise.expand(5, 4))
    with torch.no_grad():
        codes = detector.network.encode(detector.reduced(tiny.train.images()))
    torch.testing.assert_close(detector.good_mean, codes[0].mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(detector.good_variance, codes[1].exp().mean(dim=0), rtol=1e-4, atol=1e-5)


def test_unregularised_score_is_the_bound_without_kl_and_deviations(tiny: Benchmark):
    detector, images = UnregularisedVAE(**SMALL, sigma=1e-3).fit(tiny.train), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        code = detector.network.encode(images)
        drawn = detector.network.decode(code[0])
        mean, deviation = detector.split(drawn)
    gaussian = torch.distributions.Normal(mean, deviation)
    rest = kl_to_standard_normal(*code).sum(dim=1)
    rest += (deviation.log() + gaussian.entropy() - 0.5 - deviation.log()).flatten(1).sum(dim=1)
    whole = kl_to_standard_normal(*code).sum(dim=1) - gaussian.log_prob(images).flatten(1).sum(dim=1)
    found = detector.predict(images).score * images[0].numel() / 2
    torch.testing.assert_close(found, whole - rest, rtol=1e-4, atol=1e-2)
    detector.score = "elbo"
    torch.testing.assert_close(detector.predict(images).score, whole, rtol=1e-4, atol=1e-2)


def test_variances_start_at_the_deviation_and_are_bounded():
    detector = UnregularisedVAE(**SMALL, deviation=0.2)
    low = torch.full((1, 6, 4, 4), -100.0)
    assert detector.split(low)[1].min().item() == pytest.approx(0.02)
    assert detector.split(torch.zeros(1, 6, 4, 4))[1].mean().item() == pytest.approx(0.2)


def test_gradients_reach_variances(tiny: Benchmark):
    detector = UnregularisedVAE(**SMALL)
    detector.loss(tiny.train.images()[:4]).backward()
    last = detector.network.decoder[-1]
    assert (
        isinstance(last, nn.ConvTranspose2d) and (last.weight.grad.flatten(2).abs().sum(dim=(0, 2)) > 0).all()
    )


@pytest.mark.parametrize("cls", CLASSES)
def test_prediction_leaves_no_gradients(tiny: Benchmark, cls: type[VAE]):
    detector, images = cls(**SMALL).fit(tiny.train), tiny.test.images()
    for parameter in detector.network.parameters():
        parameter.grad = None
    with torch.no_grad():
        found = detector.predict(images)
    assert not found.score.requires_grad and not found.map.requires_grad
    assert all(parameter.grad is None for parameter in detector.network.parameters())


def test_unknown_signals_are_refused():
    with pytest.raises(DataError, match="difference"):
        AttentionVAE(**SMALL, signal="variance")
