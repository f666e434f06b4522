"""FastFlow and its variations: exact log-determinants, the score's formula, shapes and refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.normalizing_flow import (
    CBAM,
    CAINNFlow,
    FastFlow,
    Flow,
    FRAnomaly,
    attention_subnet,
    convolutional_flow,
    convolutional_subnet,
    log_likelihood,
    probability_map,
)


def randomised(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Random weights everywhere: as built, a flow is the identity and can fail no test."""
    generator = torch.Generator().manual_seed(1)
    for weights in module.parameters():
        nn.init.normal_(weights, std=scale, generator=generator)
    return module.eval()


def flow_of(channels: int, *subnets) -> Flow:
    torch.manual_seed(0)
    return randomised(convolutional_flow(channels, subnets))


SUBNETS = {
    "1": convolutional_subnet(1),
    "3": convolutional_subnet(3),
    "5, narrow": convolutional_subnet(5, 0.3),
    "attention": attention_subnet(3),
}


@pytest.mark.parametrize("channels", [2, 3, 5, 8])
@pytest.mark.parametrize("name", SUBNETS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_inverse_undoes_forward(channels: int, name: str, dtype: torch.dtype, tolerance: float):
    flow = flow_of(channels, SUBNETS[name], SUBNETS["1"], SUBNETS[name]).to(dtype)
    x = torch.randn(3, channels, 6, 7, dtype=dtype, generator=torch.Generator().manual_seed(2))
    z, _ = flow(x)
    assert not torch.allclose(z, x, atol=0.1)
    torch.testing.assert_close(flow.inverse(z), x, rtol=0, atol=tolerance)


@pytest.mark.parametrize("channels", [2, 3, 5])
@pytest.mark.parametrize("name", SUBNETS)
def test_log_determinant_is_that_of_the_full_jacobian(channels: int, name: str):
    flow = flow_of(channels, SUBNETS[name], SUBNETS["1"], SUBNETS[name]).double()
    x = torch.randn(1, channels, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    jacobian = torch.autograd.functional.jacobian(lambda v: flow(v.view_as(x))[0].flatten(), x.flatten())
    log_det = flow(x)[1]
    assert log_det.shape == (1, 3, 4)
    assert log_det.sum().item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)
    assert abs(log_det.sum().item()) > 0.1


@pytest.mark.parametrize("name", SUBNETS)
def test_a_new_flow_only_normalises(name: str):
    torch.manual_seed(0)
    flow = convolutional_flow(4, [SUBNETS[name]] * 2).train()
    z, _ = flow(torch.randn(8, 4, 5, 5) * 3 + 7)
    rows = z.detach().transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(dim=1), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(rows.std(dim=1, correction=0), torch.ones(4), rtol=0, atol=1e-4)


def test_kernels_of_1_treat_every_position_alone():
    flow = flow_of(6, *[convolutional_subnet(1)] * 4)
    x = torch.randn(2, 6, 3, 4)
    z, log_det = flow(x)
    alone, alone_det = flow(x.permute(0, 2, 3, 1).reshape(-1, 6, 1, 1))
    torch.testing.assert_close(z, alone.view(2, 3, 4, 6).permute(0, 3, 1, 2))
    torch.testing.assert_close(log_det, alone_det.view(2, 3, 4))


def test_likelihood_integrates_to_one():
    # Two channels at one position: a density on the plane.
    flow = flow_of(2, convolutional_subnet(1, 4.0), convolutional_subnet(1, 4.0)).double()
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)[:, :, None, None]
    with torch.no_grad():
        density = log_likelihood(*flow(grid)).exp()
    assert density.sum().item() * (axis[1] - axis[0]).item() ** 2 == pytest.approx(1, abs=1e-3)


def test_map_is_the_reimplementations_formula():
    """In float64 with NumPy, one position of one level: no interpolation."""
    generator = torch.Generator().manual_seed(4)
    latents = [torch.randn(2, c, 4, 4, generator=generator) for c in (3, 7)]
    found = probability_map(latents, (4, 4))
    expected = np.zeros((2, 4, 4))
    for z in (level.numpy().astype(np.float64) for level in latents):
        for image, row, column in np.ndindex(2, 4, 4):
            vector = z[image, :, row, column]
            expected[image, row, column] -= math.exp(-(vector @ vector) / (2 * len(vector))) / 2
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)


def test_map_of_levels_of_different_size():
    fine, coarse = torch.zeros(1, 2, 8, 8), torch.full((1, 3, 4, 4), 100.0)
    found = probability_map([fine, coarse], (16, 16))
    assert found.shape == (1, 16, 16)
    torch.testing.assert_close(found, torch.full((1, 16, 16), -0.5))


def test_loss_is_the_negative_log_likelihood_per_number():
    detector = FastFlow(steps=2)
    randomised(detector.flow, 0.02).double()
    batch = tuple(torch.randn(2, c, 3, 3, dtype=torch.float64) for c in detector.extractor.channels)
    expected = 0.0
    for flow, x in zip(detector.flow, batch, strict=True):
        z, log_det = flow(x)
        normal = torch.distributions.Normal(0.0, 1.0)
        total = normal.log_prob(z).sum(dim=(1, 2, 3)) + log_det.sum(dim=(1, 2))
        expected -= (total / x[0].numel()).mean()
    torch.testing.assert_close(detector.loss(batch), expected)


def test_steps_take_kernels_in_turn():
    detector = FastFlow(steps=5, kernels=(3, 1))
    sizes = [m.kernel_size[0] for m in detector.flow[0].modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [3, 3, 1, 1, 3, 3, 1, 1, 3, 3]


def test_training_lowers_the_loss():
    torch.manual_seed(0)
    detector = FastFlow(steps=2, epochs=4)
    features = {
        name: torch.randn(12, c, side, side).cumsum(dim=1)
        for name, c, side in zip(detector.extractor.layers, detector.extractor.channels, (6, 3), strict=True)
    }
    history = detector.fit_features(features).history
    assert history.shape == (4,) and history[-1] < history[0]


@pytest.mark.parametrize(
    "arguments", [{"steps": 0}, {"kernels": ()}, {"kernels": (2,)}, {"hidden_ratio": 0.0}, {"kernels": (-1,)}]
)
def test_bad_arguments_are_refused(arguments: dict):
    with pytest.raises(DataError):
        FastFlow(**arguments)


def test_attention_is_cbams():
    """Channel and spatial gates, transcribed from the equations of CBAM for one image."""
    torch.manual_seed(0)
    block = randomised(CBAM(6, reduction=2))
    x = torch.randn(1, 6, 4, 5)
    first, second = (m for m in block.channel if isinstance(m, nn.Conv2d))

    def shared(v: torch.Tensor) -> torch.Tensor:
        hidden = (first.weight[:, :, 0, 0] @ v + first.bias).relu()
        return second.weight[:, :, 0, 0] @ hidden + second.bias

    gate = (shared(x[0].mean(dim=(1, 2))) + shared(x[0].amax(dim=(1, 2)))).sigmoid()
    gated = x * gate[None, :, None, None]
    stacked = torch.stack([gated[0].mean(dim=0), gated[0].amax(dim=0)])[None]
    expected = gated * block.spatial(stacked).sigmoid()
    torch.testing.assert_close(block(x), expected)


def test_attention_sees_the_whole_map():
    x = torch.randn(1, 16, 15, 15, generator=torch.Generator().manual_seed(5))
    corner = x.clone()
    corner[:, :, :2, :2] += 5
    for subnet, whole in ((convolutional_subnet(3), False), (attention_subnet(3), True)):
        flow = flow_of(16, subnet)
        middle, changed = (flow(maps)[0][0, :, 7, 7] for maps in (x, corner))
        assert torch.allclose(middle, changed) != whole


def test_every_subnet_of_cainnflow_has_attention():
    detector = CAINNFlow(steps=3)
    for flow, channels in zip(detector.flow, detector.extractor.channels, strict=True):
        blocks = [m for m in flow.modules() if isinstance(m, CBAM)]
        assert len(blocks) == 3 and blocks[0].channel[0].in_channels == channels // 2
        kernels = {m[0].kernel_size for m in flow.modules() if isinstance(m, nn.Sequential) and len(m) == 4}
        assert kernels == {(3, 3)}


def test_franomaly_stacks_stages_of_one_stride():
    detector = FRAnomaly(steps=1, hidden_ratio=0.1)
    features = detector.extractor(torch.rand(2, 3, 64, 64))
    assert list(features) == ["blocks.3", "blocks.4"]
    assert {f.shape[-2:] for f in features.values()} == {(4, 4)}
    (stacked,) = detector.inputs(features)
    torch.testing.assert_close(stacked, torch.cat(list(features.values()), dim=1))
    assert detector.extractor.channels == (80, 112) and len(detector.flow) == 1


def test_a_stage_is_what_the_backbone_gives():
    images = torch.rand(2, 3, 64, 64)
    extractor = FRAnomaly(steps=1).extractor
    expected = FeatureExtractor(layers=(16,))
    torch.testing.assert_close(extractor(images)["blocks.4"], expected(images)["blocks.4"])
    assert extractor.fingerprint() != expected.fingerprint()


@pytest.mark.parametrize("stages", [(), ("blocks.9",), ("blocks.3", "nothing")])
def test_unknown_stages_are_refused(stages: tuple):
    with pytest.raises(DataError, match="stages"):
        FRAnomaly(stages=stages)
