"""CFLOW-AD and AltUB: invertibility, Jacobians, the condition computed once, the paper's score, bad input."""

import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from adlearn.errors import DataError
from adlearn.methods.normalizing_flow import (
    ActNorm,
    AffineCoupling,
    AltUB,
    CFlow,
    LearnedBase,
    Permutation,
    PositionSubnet,
    Rotation,
    conditional_flow,
    fibre_likelihood,
    position_code,
    summed_probability,
)

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def shaken(module: nn.Module, std: float = 0.3, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The module with random weights everywhere: as built it is nearly the identity, which proves nothing."""
    generator = torch.Generator().manual_seed(0)
    for weights in module.parameters():
        nn.init.normal_(weights, std=std, generator=generator)
    return module.to(dtype).eval()


def rows(count: int, channels: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, channels, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def coded(height: int, width: int, size: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return position_code(torch.empty(1, height, width, 1, dtype=dtype), size)


class TestPositionCode:
    def test_is_the_formula(self):
        height, width, size = 5, 7, 12
        code = coded(height, width, size)
        assert code.shape == (height * width, size)
        for row in range(height):
            for column in range(width):
                expected = []
                for place in (column, row):
                    for k in range(size // 4):
                        angle = place / 10_000 ** (2 * k / (size / 2))
                        expected += [math.sin(angle), math.cos(angle)]
                torch.testing.assert_close(code[row * width + column], torch.tensor(expected).double())

    def test_no_two_positions_are_alike(self):
        code = coded(28, 28, 128, torch.float32)
        assert torch.cdist(code, code).fill_diagonal_(1).min() > 0.1

    @pytest.mark.parametrize("size", [0, 6, 127])
    def test_refuses_a_size_not_divisible_by_4(self, size):
        with pytest.raises(DataError, match="divisible by 4"):
            coded(2, 2, size)


class TestPositionSubnet:
    @pytest.mark.parametrize("images", [1, 3])
    def test_equals_the_code_appended_to_every_fibre(self, images):
        subnet = shaken(PositionSubnet(3, 4, size=8), dtype=torch.float64)
        codes, x1 = coded(2, 5, 8), rows(images * 10, 3)
        appended = torch.cat([x1, codes.repeat(images, 1)], dim=1)
        torch.testing.assert_close(subnet(x1, codes), subnet.last(subnet.first(appended).relu()))

    def test_starts_at_zero(self):
        assert (
            PositionSubnet(3, 4, size=8)(rows(6, 3, torch.float32), coded(2, 3, 8, torch.float32)).eq(0).all()
        )


class TestRotation:
    @pytest.mark.parametrize("channels", [2, 5, 40])
    def test_is_orthogonal(self, channels):
        matrix = Rotation(channels).matrix
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(channels), atol=1e-5, rtol=0)
        assert matrix.is_contiguous()

    def test_changes_no_volume(self):
        rotation = Rotation(5).double()
        x = rows(3, 5)
        z, log_det = rotation(x)
        assert log_det == 0
        torch.testing.assert_close(
            torch.linalg.det(rotation.matrix).abs(), torch.tensor(1.0).double(), atol=1e-6, rtol=0
        )
        torch.testing.assert_close(z.norm(dim=1), x.norm(dim=1), atol=1e-6, rtol=0)

    def test_mixes_every_channel_into_every_other(self):
        assert Rotation(6).matrix.abs().min() > 0


def conditioned_flow(channels: int, mixing: type[nn.Module], dtype: torch.dtype) -> nn.Module:
    """Two couplings with random weights; the rotation is made orthogonal in this precision."""
    torch.manual_seed(0)
    flow = shaken(conditional_flow(channels, steps=2, code_size=8, mixing=mixing), dtype=dtype)
    for layer in flow.modules():
        if isinstance(layer, Rotation):
            layer.matrix.copy_(torch.linalg.qr(layer.matrix)[0])
    return flow


@pytest.mark.parametrize("mixing", [Rotation, Permutation])
@pytest.mark.parametrize("channels", [2, 5, 8])
class TestConditionalFlow:
    @pytest.mark.parametrize("dtype", TOLERANCE)
    def test_inverse_undoes_forward(self, channels, mixing, dtype):
        flow, codes, x = (
            conditioned_flow(channels, mixing, dtype),
            coded(2, 3, 8, dtype),
            rows(12, channels, dtype),
        )
        z, _ = flow(x, codes)
        assert (z - x).abs().max() > 0.1
        assert (flow.inverse(z, codes) - x).abs().max() < TOLERANCE[dtype] * x.abs().max()

    def test_log_determinant_is_that_of_the_jacobian(self, channels, mixing):
        flow, codes, x = conditioned_flow(channels, mixing, torch.float64), coded(1, 2, 8), rows(2, channels)
        for i in range(2):
            matrix = jacobian(lambda row, i=i: flow(row[None], codes[i : i + 1])[0][0], x[i])
            log_det = flow(x[i : i + 1], codes[i : i + 1])[1][0]
            torch.testing.assert_close(log_det, torch.linalg.slogdet(matrix)[1], atol=1e-9, rtol=0)
            torch.testing.assert_close(flow(x, codes)[1][i], log_det)

    def test_the_condition_matters(self, channels, mixing):
        flow, x = conditioned_flow(channels, mixing, torch.float64), rows(6, channels)
        codes = coded(2, 3, 8)
        assert (flow(x, codes)[0] - flow(x, codes.flip(0))[0]).abs().max() > 0.01


def test_clamp_bounds_the_log_scale():
    coupling = AffineCoupling(4, lambda half, out: PositionSubnet(half, out, 8), clamp=1.9)
    shaken(coupling, std=50)
    log_det = coupling(rows(6, 4, torch.float32), coded(2, 3, 8, torch.float32))[1]
    assert log_det.abs().max() <= 2 * 1.9 + 1e-4


def test_fibre_likelihood_is_the_density_per_number():
    flow, codes, fibres = (
        conditioned_flow(5, Rotation, torch.float64),
        coded(2, 3, 8),
        rows(12, 5).view(2, 6, 5),
    )
    found = fibre_likelihood(flow, fibres, codes)
    assert found.shape == (2, 6)
    for image in range(2):
        for place in range(6):
            one = fibres[image, place]
            z = flow(one[None], codes[place : place + 1])[0][0]
            matrix = jacobian(lambda row, place=place: flow(row[None], codes[place : place + 1])[0][0], one)
            normal = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.eye(5).double())
            expected = (normal.log_prob(z) + torch.linalg.slogdet(matrix)[1]) / 5
            torch.testing.assert_close(found[image, place], expected)


def test_map_is_the_sum_of_probabilities_turned_around():
    levels = [rows(2, 16).view(2, 4, 4), rows(2, 4, seed=2).view(2, 2, 2)]
    peaks = torch.tensor([2.5, 1.5]).double()
    found = summed_probability(levels, peaks, (8, 8))
    expected = torch.zeros(2, 8, 8).double()
    for v, peak in zip(levels, peaks, strict=True):
        p = torch.exp(v - peak)
        expected -= nn.functional.interpolate(p[None], size=(8, 8), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(found, expected)


@pytest.fixture(scope="module")
def fitted(tiny):
    torch.manual_seed(0)
    return CFlow(steps=2, share=0.25, epochs=4, batch_size=4).fit(tiny.train)


@pytest.mark.usefixtures("_private_folders")
class TestCFlow:
    def test_peaks_are_the_training_maxima(self, fitted, tiny):
        levels = fitted.levels(fitted.extractor.extract(tiny.train))
        torch.testing.assert_close(fitted.peaks, torch.stack([v.max() for v in levels]))

    def test_score_is_the_maximum_of_the_map(self, fitted, tiny):
        found = fitted.predict_dataset(tiny.test)
        torch.testing.assert_close(found.score, found.map.amax(dim=(1, 2)))
        assert found.score.max() <= 0

    def test_training_raises_the_likelihood(self, fitted):
        assert fitted.history[-1] < fitted.history[0]

    def test_loss_on_all_positions_is_the_official_one(self, fitted, tiny):
        detector = CFlow(steps=2, share=1.0)
        detector.flow.load_state_dict(fitted.flow.state_dict())
        detector.flow.eval()
        batch = detector.inputs(detector.extractor.extract(tiny.train.take(2)))
        expected = 0
        for flow, maps in zip(detector.flow, batch, strict=True):
            values = fibre_likelihood(flow, maps.flatten(1, 2), detector.codes(maps)).double()
            expected = expected - torch.log(1 / (1 + torch.exp(-values))).mean()
        assert detector.loss(batch).item() == pytest.approx(expected.item(), rel=1e-4)

    def test_a_share_draws_that_many_positions(self, fitted, tiny):
        maps = fitted.inputs(fitted.extractor.extract(tiny.train.take(2)))[0]
        assert fitted.sampled(fitted.flow[0], maps).shape == (2, round(0.25 * maps.shape[1] * maps.shape[2]))

    def test_many_images_are_scored_like_few(self, fitted, tiny):
        maps = fitted.extractor.extract(tiny.test)
        many = {name: f[:1].repeat(20, 1, 1, 1) for name, f in maps.items()}
        for level, one in zip(
            fitted.levels(many), fitted.levels({n: f[:1] for n, f in maps.items()}), strict=True
        ):
            torch.testing.assert_close(level, one.expand_as(level), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("share", [0, -0.5, 1.5])
    def test_refuses_an_impossible_share(self, share):
        with pytest.raises(DataError, match="share"):
            CFlow(share=share)

    def test_refuses_a_code_size_not_divisible_by_4(self, tiny):
        with pytest.raises(DataError, match="divisible by 4"):
            CFlow(code_size=10, epochs=1).fit(tiny.train)


class TestLearnedBase:
    @pytest.mark.parametrize("shape", [(4, 5), (2, 5, 3, 3)])
    def test_is_the_normal_density_with_its_mean_and_deviation(self, shape):
        base = shaken(LearnedBase(5), dtype=torch.float64)
        z = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        standard, log_det = base(z)
        view = (-1, *[1] * (len(shape) - 2))
        normal = torch.distributions.Normal(base.mean.view(view), base.log_deviation.exp().view(view))
        unit = torch.distributions.Normal(torch.zeros((), dtype=torch.float64), 1)
        torch.testing.assert_close(
            normal.log_prob(z).sum(dim=1), unit.log_prob(standard).sum(dim=1) + log_det
        )
        torch.testing.assert_close(base.inverse(standard), z)

    def test_is_an_actnorm(self):
        base, norm = shaken(LearnedBase(5)), ActNorm(5).eval()
        with torch.no_grad():
            norm.log_scale.copy_(-base.log_deviation)
            norm.shift.copy_(-base.mean * (-base.log_deviation).exp())
        x = rows(7, 5, torch.float32)
        for mine, other in zip(base(x), norm(x), strict=True):
            torch.testing.assert_close(mine, other)


@pytest.fixture(scope="module")
def alternated(tiny):
    return AltUB(steps=2, epochs=3, interval=2).fit(tiny.train)


@pytest.mark.usefixtures("_private_folders")
class TestAltUB:
    def test_the_base_alone_sees_the_loss_of_both(self, alternated, tiny):
        maps = alternated.inputs(alternated.extractor.extract(tiny.train))
        with torch.no_grad():
            latents = [flow.layers[0](x)[0] for flow, x in zip(alternated.flow, maps, strict=True)]
            volumes = [
                flow.layers[0](x)[1].mean() / x.shape[1]
                for flow, x in zip(alternated.flow, maps, strict=True)
            ]
            expected = alternated.base_loss(tuple(latents)) - sum(volumes)
            torch.testing.assert_close(alternated.loss(maps), expected, rtol=1e-4, atol=1e-4)

    def test_learns_flow_and_base(self, alternated):
        assert len(alternated.history) == 3 and alternated.history[-1] < alternated.history[0]
        assert all(flow.layers[1].log_deviation.abs().max() > 0 for flow in alternated.flow)

    def test_refuses_an_interval_below_one_epoch(self):
        with pytest.raises(DataError, match="interval"):
            AltUB(interval=0)
