"""DifferNet and its variation with attention: rotations, the flow on vectors, scores and gradient maps."""

import math

import numpy as np
import pytest
import torch
from detectors import Case, Small
from fake_cuda import fake_cuda_loss
from scipy import ndimage
from tiny import SIDE
from torch import nn
from torch.autograd.functional import jacobian

from adlearn.errors import DataError
from adlearn.features import FeatureStore, pooled
from adlearn.methods.normalizing_flow import (
    AttentDifferNet,
    ChannelGate,
    DifferNet,
    Permutation,
    PerSize,
    PyramidExtractor,
    RotatedExtractor,
    gradient_map,
    log_likelihood,
    mlp_subnet,
    rotated,
    vector_flow,
    view_vectors,
)

SMALL = {"factors": (1, 2), "rotations": 2, "num_blocks": 2, "hidden": 16, "epochs": 4}


@pytest.fixture(scope="module")
def images(tiny):
    return tiny.test.images()[2:6]


@pytest.fixture(scope="module")
def fitted(tiny):
    return Case(DifferNet, Small(SMALL | {"localize": True})).fitted(tiny.train)


def shaken(module, std=0.3):
    """Random numbers in every weight, so that no layer is the identity."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std, generator=generator)
    return module.eval()


# --- rotations


def test_a_quarter_turn_moves_pixels_and_four_bring_them_back(images):
    once = rotated(images, 90)
    assert torch.equal(once, torch.from_numpy(np.rot90(images.numpy(), 1, (2, 3)).copy()))
    assert torch.equal(rotated(rotated(once, 180), 90), images)
    assert rotated(images[:, :, :40], 270).shape == (len(images), 3, SIDE, 40)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
@pytest.mark.parametrize("degrees", [30.0, 45.0, 100.0])
def test_other_angles_equal_scipy(shape, degrees):
    image = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    source = image.rot90(int(degrees // 90), (2, 3)).numpy()
    expected = ndimage.rotate(source, degrees % 90, (3, 2), reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(rotated(image, degrees).numpy(), expected, atol=1e-6)


def test_all_angles_turn_the_same_way():
    """A bright spot right of the centre goes up, by 90 degrees and, half way, by 45."""
    image = torch.zeros(1, 3, 33, 33)
    image[..., 15:18, 27:30] = 1
    rows, columns = (torch.arange(33.0) - 16).view(-1, 1), (torch.arange(33.0) - 16).view(1, -1)
    for degrees in (45, 90):
        weights = rotated(image, degrees)[0, 0]
        up = -(weights * rows).sum() / weights.sum()
        right = (weights * columns).sum() / weights.sum()
        assert math.degrees(math.atan2(up, right)) == pytest.approx(degrees, abs=1)


# --- the extractor


def test_rotated_features_are_those_of_rotated_images(images):
    extractor, plain = RotatedExtractor(factors=(1, 2), rotations=4), PyramidExtractor(factors=(1, 2))
    found = view_vectors(extractor(images))
    assert found.shape == (len(images), 4, 2 * 112)
    for i, degrees in enumerate((0, 90, 180, 270)):
        expected = pooled(plain(rotated(images, degrees)))
        torch.testing.assert_close(found[:, i], expected, rtol=1e-4, atol=1e-4)


def test_features_can_be_differentiated_only_where_asked(images):
    extractor, pixels = RotatedExtractor(factors=(1,), rotations=2), images.clone().requires_grad_()
    assert not view_vectors(extractor(pixels)).requires_grad
    differentiable = view_vectors(extractor.differentiable(pixels))
    torch.testing.assert_close(differentiable.detach(), view_vectors(extractor(images)))
    (gradient,) = torch.autograd.grad(differentiable[1].sum(), pixels)
    assert gradient[1].abs().max() > 0 and gradient[[0, 2, 3]].abs().max() == 0
    assert all(p.grad is None for p in extractor.parameters())


def test_other_rotations_sizes_and_plain_features_have_files_of_their_own(tiny):
    variants = [
        RotatedExtractor(),
        RotatedExtractor(rotations=2),
        RotatedExtractor(factors=(1, 2)),
        PyramidExtractor(pool=True),
    ]
    assert len({FeatureStore(v, tiny.train).folder for v in variants}) == len(variants)


# --- the flow


@pytest.mark.parametrize("channels", [2, 5, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inverse_brings_the_vector_back(channels, dtype):
    flow = shaken(vector_flow(channels, 3, mlp_subnet(16, 2))).to(dtype)
    x = torch.randn(6, channels, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        z, _ = flow(x)
        torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-9)
    assert (z - x).abs().max() > 0.1


@pytest.mark.parametrize("channels", [2, 5, 8])
def test_log_determinant_equals_autograds(channels):
    flow = shaken(vector_flow(channels, 2, mlp_subnet(16, 3))).double()
    x = torch.randn(4, channels, generator=torch.Generator().manual_seed(1)).double()
    _, found = flow(x)
    for row, log_det in zip(x, found, strict=True):
        matrix = jacobian(lambda v: flow(v[None])[0][0], row)
        torch.testing.assert_close(log_det, matrix.slogdet()[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [4, 5])
def test_one_block_changes_both_halves(channels):
    """Glow's coupling: compared with the same block without subnets; of an odd number, one stays."""
    flow = shaken(vector_flow(channels, 1, mlp_subnet(8)).double())
    plain = vector_flow(channels, 1, mlp_subnet(8)).double().eval()
    plain.load_state_dict(flow.state_dict())
    for parameter in [p for layer in plain.layers[2::2] for p in layer.parameters()]:
        nn.init.zeros_(parameter)
    x = torch.randn(1, channels, generator=torch.Generator().manual_seed(2)).double()
    changed = ((flow(x)[0] - plain(x)[0]).abs() > 1e-9).sum()
    assert changed == channels - channels % 2


def test_a_permutation_takes_the_order_given():
    x = torch.arange(5.0).view(1, 5)
    layer = Permutation(5, torch.arange(5).roll(2))
    assert layer(x)[0].tolist() == [[3, 4, 0, 1, 2]] and torch.equal(layer.inverse(layer(x)[0]), x)


def test_the_flow_starts_as_a_standardised_permutation():
    flow = vector_flow(6, 3, mlp_subnet(16, 2)).train()
    x = 5 + 3 * torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    z, log_det = flow(x)
    standardised = (x - x.mean(dim=0)) / x.std(dim=0, correction=0)
    torch.testing.assert_close(z.sort(dim=1).values, standardised.sort(dim=1).values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(log_det, -x.std(dim=0, correction=0).log().sum().expand(400))


# --- the detector


def test_score_and_loss_equal_the_papers_equations(fitted, images):
    """Eqs. (4) and (5) transcribed, in float64."""
    vectors = view_vectors(fitted.extractor(images)).double()
    flow = shaken(vector_flow(vectors.shape[2], 2, mlp_subnet(16))).double()
    flow.load_state_dict(fitted.flow.state_dict())
    z, log_det = flow(vectors.flatten(0, 1))
    z, log_det, d = z.view_as(vectors), log_det.view(vectors.shape[:2]), vectors.shape[2]
    score = [sum(float(v @ v) for v in views) / (len(views) * d) for views in z.detach()]
    np.testing.assert_allclose(fitted.predict(images).score, score, rtol=1e-4)
    nll = 0.5 * z.square().sum(dim=2) - log_det + 0.5 * d * math.log(2 * math.pi)
    found = fitted.surprise(vectors.flatten(0, 1).float()).view(nll.shape)
    torch.testing.assert_close(found.double(), nll / d, rtol=1e-4, atol=1e-4)


def test_the_gradient_map_equals_finite_differences(images):
    """Of one rotation, without smoothing, at a few pixels, in float64."""
    detector = Case(DifferNet, Small(SMALL | {"rotations": 1, "localize": True})).build().double()
    shaken(detector.flow, 0.1)
    image = images[:1].double()
    pixels = image.clone().requires_grad_()
    found = gradient_map(detector.surprise_at(pixels, 90).sum(), pixels, sigma=1e-3)[0]
    for y, x in ((20, 20), (40, 33)):
        expected = 0.0
        for channel in range(3):
            step = torch.zeros_like(image)
            step[0, channel, y, x] = 1e-6
            change = detector.surprise_at(image + step, 90) - detector.surprise_at(image - step, 90)
            expected += abs(change.item()) / 2e-6
        assert found[y, x].item() == pytest.approx(expected, rel=1e-3)


def test_maps_are_the_mean_over_rotations_turned_back(fitted, images):
    parts = []
    for degrees in fitted.extractor.angles:
        turned = rotated(images, degrees).requires_grad_()
        loss = fitted.surprise_at(turned, 0).sum()
        parts.append(rotated(gradient_map(loss, turned)[:, None], 360 - degrees)[:, 0])
    found = fitted.predict(images).map
    torch.testing.assert_close(
        found, torch.stack(parts).mean(dim=0), rtol=1e-3, atol=1e-4 * found.max().item()
    )
    assert not found.requires_grad


def test_scores_with_and_without_maps_are_the_same(fitted, tiny):
    plain = DifferNet(**SMALL).eval()
    plain.load_state_dict(fitted.state_dict())
    without, mapped = plain.predict_dataset(tiny.test), fitted.predict_dataset(tiny.test)
    torch.testing.assert_close(without.score, mapped.score, rtol=1e-4, atol=1e-4)
    assert without.map is None and mapped.map.shape == (len(tiny.test), SIDE, SIDE)


def test_maps_work_where_gradients_are_off_and_leave_none_behind(fitted, images):
    fitted.zero_grad(set_to_none=True)
    with torch.no_grad():
        assert torch.isfinite(fitted.predict(images).map).all()
    assert all(p.grad is None for p in fitted.parameters()) and not images.requires_grad


def test_noise_is_in_units_of_each_numbers_spread(tiny):
    detector = DifferNet(**SMALL, noise=0.7)
    detector.fit(tiny.train)
    rows = view_vectors(detector.extractor.extract(tiny.train)).flatten(0, 1)
    torch.testing.assert_close(detector.spread, rows.std(dim=0, correction=0))
    detector.flow = nn.Identity()
    seen = []
    detector.surprise = lambda noisy: seen.append(noisy) or noisy.mean(dim=1)
    for seed in range(40):
        torch.manual_seed(seed)
        detector.loss((rows,))
    noise = (torch.stack(seen) - rows).flatten(0, 1).std(dim=0)
    torch.testing.assert_close(noise, 0.7 * detector.spread, rtol=0.25, atol=1e-6)


def test_training_raises_the_likelihood(tiny):
    history = DifferNet(**SMALL | {"epochs": 20, "noise": 0.0}).fit(tiny.train).history
    assert history[-1] < history[0] - 0.1


def test_several_layers_and_a_single_vector(tiny):
    detector = DifferNet(**SMALL | {"layers": (8, 16), "rotations": 1}).fit(tiny.train.take(1))
    found = detector.predict(tiny.test.images())
    assert detector.flow.layers[0].shift.shape == (2 * (40 + 112),) and torch.isfinite(found.score).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rotations": 0}, "rotations"), ({"factors": (1, 0)}, "factors"), ({"layers": (5,)}, "no layer")],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        DifferNet(**SMALL | arguments)


def test_the_loss_makes_no_tensor_on_the_wrong_device(tiny):
    def module():
        return Case(DifferNet, Small(SMALL)).fitted(tiny.train)

    fake_cuda_loss(module, lambda detector, batch: detector.loss(batch), lambda: (torch.rand(4, 224),))


# --- attention


@pytest.mark.parametrize("channels", [5, 16, 40])
def test_a_gates_determinant_equals_autograds(channels):
    torch.manual_seed(0)
    gate = ChannelGate(channels, reduction=4).double()
    x = torch.randn(6, channels, generator=torch.Generator().manual_seed(1)).double()
    z, found = gate(x)
    for row, log_det in zip(x, found, strict=True):
        matrix = jacobian(lambda v: gate(v[None])[0][0], row)
        torch.testing.assert_close(log_det, matrix.slogdet()[1], rtol=1e-9, atol=1e-9)
    hidden = (x @ gate.squeeze.weight.T + gate.squeeze.bias).clamp(min=0)
    weights = 1 / (1 + (-(hidden @ gate.excite.weight.T + gate.excite.bias)).exp())
    torch.testing.assert_close(z, x * weights)


def test_gating_averages_is_averaging_gated_maps():
    gate, maps = ChannelGate(6, reduction=2), torch.rand(2, 6, 4, 4)
    averages = maps.mean(dim=(2, 3))
    weights = gate(averages)[0] / averages
    torch.testing.assert_close(gate(averages)[0], (weights[..., None, None] * maps).mean(dim=(2, 3)))


def test_a_gate_that_is_not_counted_has_log_determinant_zero():
    x = torch.rand(3, 8)
    gate = ChannelGate(8, counted=False)
    assert torch.equal(gate(x)[1], torch.zeros(3)) and (gate(x)[0] < x).all()


def test_each_size_has_a_gate_of_its_own():
    gates = PerSize(ChannelGate(4), ChannelGate(4)).double()
    x = torch.rand(3, 8).double()
    z, log_det = gates(x)
    torch.testing.assert_close(
        z, torch.cat([gates.layers[0](x[:, :4])[0], gates.layers[1](x[:, 4:])[0]], dim=1)
    )
    matrix = jacobian(lambda v: gates(v[None])[0][0], x[0])
    torch.testing.assert_close(log_det[0], matrix.slogdet()[1])


def test_attention_counts_in_the_detectors_likelihood(tiny):
    detector = Case(AttentDifferNet, Small(SMALL)).fitted(tiny.train).double()
    small = torch.rand(1, 224, generator=torch.Generator().manual_seed(0)).double()
    z, log_det = detector.flow(small)
    matrix = jacobian(lambda v: detector.flow(v[None])[0][0], small[0])
    torch.testing.assert_close(log_det[0], matrix.slogdet()[1], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(detector.surprise(small), -log_likelihood(z, log_det) / 224)


def test_attention_and_its_argument_survive_saving(tiny, tmp_path):
    detector = Case(AttentDifferNet, Small(SMALL | {"counted": False})).fitted(tiny.train)
    detector.save(tmp_path / "a.pt")
    loaded = AttentDifferNet.load(tmp_path / "a.pt")
    assert loaded.counted is False and not loaded.flow.layers[0].layers[0].counted
    images = tiny.test.images()
    assert torch.equal(loaded.predict(images).score, detector.predict(images).score)
