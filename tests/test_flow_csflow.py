"""CS-Flow and its image pyramid: exact inverses, Jacobians and a float64 transcription of the score."""

import pytest
import torch
import torch.nn.functional as F

from adlearn.data.base import AnomalyDataset
from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.normalizing_flow import (
    ActNorm,
    CrossConvolutions,
    CrossScaleCoupling,
    CrossScaleFlow,
    CSFlow,
    Flow,
    Parallel,
    Permutation,
    PyramidExtractor,
    cross_scale_flow,
    log_likelihood,
)

# Neither side divides by two: 5, 3, 2 as 14, 7, 4 in the notebook.
SIZES = ((5, 4), (3, 2), (2, 1))
CHANNELS = 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scales(batch: int = 2, channels: int = CHANNELS, seed: int = 0) -> tuple[torch.Tensor, ...]:
    return tuple(random(batch, channels, *size, seed=seed + i) for i, size in enumerate(SIZES))


def woken(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Float64 weights that are not the identity's: a flow that does nothing would pass any test."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    for parameter in module.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def convolutions(channels: int, out: int, kernel: int = 3) -> CrossConvolutions:
    return CrossConvolutions(channels, out, scales=3, hidden=4, kernel=kernel)


def coupling(channels: int = CHANNELS) -> CrossScaleCoupling:
    return CrossScaleCoupling(channels, convolutions)


def parallel(channels: int = CHANNELS) -> Parallel:
    return Parallel(*(Flow(ActNorm(channels), Permutation(channels)) for _ in range(3)))


def whole(channels: int = CHANNELS) -> CrossScaleFlow:
    return cross_scale_flow(channels, scales=3, kernels=(3, 5, 3), hidden=4)


MODULES = [coupling, parallel, whole]


def flat(tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.cat([t.flatten(1) for t in tensors], dim=1)


def unflat(vector: torch.Tensor, like: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    parts = vector.split([t[0].numel() for t in like], dim=1)
    return tuple(part.view(-1, *t.shape[1:]) for part, t in zip(parts, like, strict=True))


# --- the pyramid ---


def test_pyramid_holds_the_features_of_block_means(tiny):
    images = tiny.test.images()
    found = PyramidExtractor(layers=(8, 16), factors=(1, 2))(images)
    plain = FeatureExtractor(layers=(8, 16))
    small = F.avg_pool2d(images, 2)
    expected = [*plain(images).values(), *plain(small).values()]
    assert list(found) == [f"{layer}/{k}" for k in (1, 2) for layer in plain.layers]
    for a, b in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


@pytest.mark.parametrize("pool", [False, True])
def test_pyramid_describes_what_it_returns(tiny, pool):
    extractor = PyramidExtractor(layers=(8, 16), factors=(1, 2, 4), pool=pool)
    found = extractor(tiny.test.images())
    assert tuple(found) == extractor.layers
    assert tuple(f.shape[1] for f in found.values()) == extractor.channels
    sides = [1 if pool else 64 // stride for stride in extractor.strides]
    assert [f.shape[-1] for f in found.values()] == sides


def test_pyramid_of_odd_images_rounds_up():
    found = PyramidExtractor(factors=(1, 2, 4))(torch.rand(1, 3, 70, 33))
    assert [tuple(f.shape[-2:]) for f in found.values()] == [(5, 3), (3, 2), (2, 1)]


def test_pyramid_reads_from_the_cache_what_it_would_compute(tiny, own_cache):
    extractor = PyramidExtractor(factors=(1, 4))
    first, again = extractor.extract(tiny.test), extractor.extract(tiny.test)
    direct = extractor(tiny.test.images())
    for name in extractor.layers:
        torch.testing.assert_close(first[name], direct[name], rtol=0, atol=1e-5)
        assert torch.equal(first[name], again[name])


def test_pyramids_and_plain_features_are_cached_apart():
    extractors = [PyramidExtractor(factors=f) for f in ((1, 2), (1, 2, 4), (12, 4))]
    names = {e.fingerprint() for e in [FeatureExtractor(layers=(16,)), *extractors]}
    assert len(names) == 4


@pytest.mark.parametrize("factors", [(), (0, 1), (1.5,), (-2,)])
def test_impossible_factors_are_refused(factors):
    with pytest.raises(DataError, match="factors"):
        PyramidExtractor(factors=factors)


# --- the subnet ---


@pytest.mark.parametrize("kernel", [3, 5])
def test_cross_convolutions_are_the_papers_sums(kernel):
    net, x = woken(convolutions(3, 4, kernel)), scales(channels=3)
    pad, w = kernel // 2, dict(net.named_parameters())

    def conv(name: str, i: int, y: torch.Tensor, stride: int = 1) -> torch.Tensor:
        return F.conv2d(y, w[f"{name}.{i}.weight"], w[f"{name}.{i}.bias"], stride, pad)

    hidden = [F.leaky_relu(conv("enter", i, x[i]), 0.1) for i in range(3)]
    larger = [F.interpolate(hidden[i + 1], SIZES[i], mode="bilinear") for i in (0, 1)]
    expected = [
        conv("own", 0, hidden[0]) + conv("up", 0, larger[0]),
        conv("own", 1, hidden[1]) + conv("up", 1, larger[1]) + conv("down", 0, hidden[0], 2),
        conv("own", 2, hidden[2]) + conv("down", 1, hidden[1], 2),
    ]
    for found, y in zip(net(x), expected, strict=True):
        torch.testing.assert_close(found, y)


def test_a_scale_reads_its_neighbours_only():
    net, x = woken(convolutions(3, 4)), [t.requires_grad_() for t in scales(channels=3)]
    for i, y in enumerate(net(x)):
        read = [g is not None for g in torch.autograd.grad(y.sum(), x, allow_unused=True, retain_graph=True)]
        assert read == [abs(i - j) < 2 for j in range(3)]


# --- the flow ---


@pytest.mark.parametrize("build", MODULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("channels", [2, 5, 6])
def test_inverse_undoes_forward(build, dtype, tolerance, channels):
    flow, x = woken(build(channels)).to(dtype), tuple(t.to(dtype) for t in scales(channels=channels))
    latent, _ = flow(x)
    assert [z.shape for z in latent] == [t.shape for t in x]
    assert not torch.equal(flat(latent), flat(x))
    torch.testing.assert_close(flat(flow.inverse(latent)), flat(x), rtol=0, atol=tolerance)


@pytest.mark.parametrize("build", MODULES)
def test_log_determinant_is_that_of_the_jacobian(build):
    flow, x = woken(build()), scales()
    log_det = flow(x)[1]
    assert log_det.shape == (2,)
    for i in range(2):
        one = tuple(t[i : i + 1] for t in x)
        jacobian = torch.autograd.functional.jacobian(
            lambda v, one=one: flat(flow(unflat(v, one))[0]), flat(one)
        )
        expected = torch.linalg.slogdet(jacobian[0, :, 0])[1]
        torch.testing.assert_close(log_det[i], expected, rtol=0, atol=1e-9)


def test_a_block_changes_both_halves_and_clamps():
    block = woken(coupling())
    for last in block.subnets[0].own:
        last.weight.data.mul_(1e6)
    x = scales()
    z, log_det = block(x)
    for before, after in zip(x, z, strict=True):
        assert (before != after).all()
    assert log_det.abs().max() <= 3.0 * flat(x).shape[1]


def test_a_new_flow_only_permutes():
    x = scales()
    z, log_det = whole().double().eval()(x)
    assert log_det.abs().max() == 0
    for before, after in zip(x, z, strict=True):
        torch.testing.assert_close(before.sort(dim=1).values, after.sort(dim=1).values)


def test_too_few_channels_are_refused():
    with pytest.raises(DataError, match="channels"):
        CrossScaleCoupling(1, convolutions)


# --- the detector ---


@pytest.fixture(scope="module")
def detector(tiny):
    return CSFlow(hidden=4, kernels=(3, 5), epochs=1).fit(tiny.train)


def test_loss_is_the_mean_negative_log_likelihood_without_its_constant(detector):
    x = tuple(detector.extractor(torch.rand(3, 3, 64, 64)).values())
    latent, log_det = detector.flow(x)
    size = flat(latent).shape[1]
    by_hand = -log_likelihood(flat(latent), log_det) - size / 2 * torch.log(torch.tensor(2 * torch.pi))
    torch.testing.assert_close(detector.loss(x), by_hand.mean() / size)


def test_score_and_map_are_the_papers(detector, tiny):
    images = tiny.test.images()
    found = detector.predict(images)
    features = [f.double() for f in detector.extractor(images).values()]
    double = CSFlow(hidden=4, kernels=(3, 5), epochs=1)
    double.load_state_dict(detector.state_dict())
    with torch.no_grad():
        latent, _ = double.flow.double()(tuple(features))
    for i in range(len(images)):
        numbers = torch.cat([z[i].flatten() for z in latent])
        assert found.score[i].item() == pytest.approx((numbers**2 / 2).mean().item(), rel=1e-4)
    heat = F.interpolate((latent[0] ** 2).mean(1, keepdim=True), (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.map.double(), heat, rtol=1e-3, atol=1e-4)


def test_scales_are_the_factors(tiny):
    detector = CSFlow(factors=(1, 2), hidden=4, kernels=(3,), epochs=1).fit(tiny.train)
    assert len(detector.flow(tuple(detector.extractor(tiny.test.images()).values()))[0]) == 2


@pytest.mark.parametrize("layers", [(8, 16), ()])
def test_more_than_one_layer_is_refused(layers):
    with pytest.raises(DataError, match="layer"):
        CSFlow(layers=layers)


def test_one_thin_image_is_scored(tiny):
    samples = tiny.train.samples
    detector = CSFlow(hidden=4, kernels=(3,), epochs=1).fit(AnomalyDataset("thin", samples, size=(70, 33)))
    found = detector.predict(torch.rand(1, 3, 70, 33))
    assert found.map.shape == (1, 70, 33) and torch.isfinite(found.score).all()
