"""Deep SVDD, MOCCA and DSP-SVDD: the losses written out, what stays fixed, what collapses."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import (
    DSPSVDD,
    MOCCA,
    DeepSVDD,
    away_from_zero,
    ball_distances,
    best_radius,
    contrast_normalised,
    embedding_variance,
    lenet,
    mirrored,
    one_class,
    restoration_error,
    soft_boundary,
)

SMALL: dict[str, Any] = {
    "size": 32,
    "widths": (4, 8),
    "code": 8,
    "pretrain_epochs": 2,
    "epochs": 3,
    "batch_size": 4,
}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def prepared(detector: DeepSVDD, tiny: Benchmark) -> tuple[DeepSVDD, torch.Tensor]:
    """The detector as before its first step, and the training inputs."""
    inputs = detector.inputs(tiny.train.images())
    with torch.no_grad():
        detector.eval().prepare(inputs)
    return detector.eval(), inputs


def test_losses_by_loops():
    codes, centres, radii, nu = (
        [normal(6, 3), normal(6, 5, seed=1)],
        normal(8, seed=2),
        np.array([1.2, 2.0]),
        0.3,
    )
    parts = [centres[:3], centres[3:]]
    hard = soft = 0.0
    for code, centre, radius in zip(codes, parts, radii, strict=True):
        squared = [
            sum((a - b) ** 2 for a, b in zip(row, centre.numpy(), strict=True)) for row in code.numpy()
        ]
        hard += sum(squared) / 6
        soft += radius**2 + sum(max(0.0, d - radius**2) for d in squared) / (nu * 6)
    distances = ball_distances(codes, centres)
    assert distances.shape == (6, 2)
    assert one_class(distances).item() == pytest.approx(hard)
    assert soft_boundary(distances, torch.from_numpy(radii), nu).item() == pytest.approx(soft)


@pytest.mark.parametrize("nu", [0.05, 0.1, 0.33, 0.8])
def test_the_quantile_is_the_best_radius(nu: float):
    distances = normal(101, 2).square() * 4
    best = best_radius(distances, nu)
    expected = np.quantile(distances.sqrt().numpy(), 1 - nu, axis=0)
    np.testing.assert_allclose(best.numpy(), expected)
    least = soft_boundary(distances, best, nu)
    for radius in torch.linspace(0, 5, 400, dtype=torch.float64):
        assert least <= soft_boundary(distances, radius.expand(2), nu) + 0.05
    outside = (distances.sqrt() > best).double().mean(dim=0)
    assert (outside - nu).abs().max() <= 1 / 101


def test_away_from_zero():
    centre = torch.tensor([0.0, 0.05, -0.05, 0.1, -3.0])
    torch.testing.assert_close(away_from_zero(centre), torch.tensor([0.1, 0.1, -0.1, 0.1, -3.0]))


def test_embedding_variance():
    codes = normal(20, 3)
    expected = ((codes - codes.mean(dim=0)) ** 2).sum(dim=1).mean()
    torch.testing.assert_close(embedding_variance(codes), expected)
    assert embedding_variance(codes[:1].expand(5, 3)) == 0


def test_contrast_normalisation_takes_brightness_and_contrast_away():
    images = torch.rand(2, 3, 8, 8)
    found = contrast_normalised(images)
    torch.testing.assert_close(contrast_normalised(0.5 * images + 0.2), found, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.abs().mean(dim=(1, 2, 3)), torch.ones(2))
    assert torch.equal(contrast_normalised(torch.full((1, 3, 4, 4), 0.5)), torch.zeros(1, 3, 4, 4))


def test_shapes_of_encoder_and_decoder():
    encoder, decoder = lenet(32, (4, 8), 6), mirrored(32, (4, 8), 6)
    images = torch.rand(2, 3, 32, 32)
    assert encoder(images).shape == (2, 6)
    assert decoder(encoder(images)).shape == images.shape
    assert restoration_error(images + 0.5, images).tolist() == pytest.approx([768, 768])


def test_a_size_the_blocks_cannot_halve_is_refused():
    with pytest.raises(DataError, match="multiple of 8"):
        DeepSVDD(size=36)


@pytest.mark.parametrize("cls", [DeepSVDD, MOCCA, DSPSVDD])
def test_no_layer_has_a_bias(cls):
    detector = cls(**SMALL)
    assert not [name for name, _ in detector.named_parameters() if "bias" in name]
    layers = [m for m in detector.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layers and not any(layer.affine for layer in layers)
    assert [name for name, _ in DeepSVDD(bias=True, **SMALL).named_parameters() if "bias" in name]


@pytest.mark.parametrize("cls", [DeepSVDD, MOCCA, DSPSVDD])
@pytest.mark.parametrize("objective", ["one-class", "soft-boundary"])
def test_the_centre_is_the_first_mean_and_never_moves(cls, objective: str, tiny: Benchmark):
    before, inputs = prepared(cls(objective=objective, **SMALL), tiny)
    with torch.no_grad():
        expected = away_from_zero(torch.cat(before.codes(inputs), dim=1).mean(dim=0))
    torch.testing.assert_close(before.centre, expected)
    after = cls(objective=objective, **SMALL).fit(tiny.train)
    torch.testing.assert_close(after.centre, before.centre)
    pairs = zip(before.network.parameters(), after.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert after.history.shape == (3,)


def test_a_centre_that_may_move_moves(tiny: Benchmark):
    before, _ = prepared(DeepSVDD(**SMALL), tiny)
    after = DeepSVDD(recentre=True, **SMALL).fit(tiny.train)
    assert not torch.allclose(before.centre, after.centre)
    with torch.no_grad():
        codes = after.codes(after.inputs(tiny.train.images()))[0]
    torch.testing.assert_close(after.centre, codes.mean(dim=0), atol=1e-4, rtol=1e-4)


def test_loss_is_the_equation(tiny: Benchmark):
    for objective in ("one-class", "soft-boundary"):
        detector, inputs = prepared(DeepSVDD(objective, nu=0.2, **SMALL), tiny)
        detector.radius = torch.tensor([0.7])
        with torch.no_grad():
            codes, centre = detector.network(inputs).double(), detector.centre.double()
            found = detector.loss(inputs).item()
        squared = ((codes - centre) ** 2).sum(dim=1)
        soft = 0.49 + sum(max(0.0, d - 0.49) for d in squared.tolist()) / (0.2 * len(squared))
        assert found == pytest.approx(squared.mean().item() if objective == "one-class" else soft, rel=1e-4)


def test_the_soft_boundarys_radius_is_the_quantile_of_the_training_distances(tiny: Benchmark):
    detector = DeepSVDD("soft-boundary", nu=0.25, **SMALL).fit(tiny.train)
    with torch.no_grad():
        codes = detector.network(detector.inputs(tiny.train.images()))
    distances = (codes - detector.centre).norm(dim=1).double().numpy()
    assert detector.radius.item() == pytest.approx(np.quantile(distances, 0.75), rel=1e-4)
    scores = detector.predict(tiny.train.images()).score
    torch.testing.assert_close(
        scores.double().numpy(), distances**2 - detector.radius.item() ** 2, rtol=1e-3, atol=1e-4
    )
    assert (scores > 0).sum() == 2


def test_the_radius_waits_and_then_comes_every_few_epochs(tiny: Benchmark):
    detector, inputs = prepared(DeepSVDD("soft-boundary", **(SMALL | {"epochs": 12})), tiny)
    found = []
    for number in range(13):
        detector.radius = torch.zeros(1)
        with torch.no_grad():
            detector.begin_epoch(number, inputs)
        found += [number] if detector.radius.item() else []
    assert found == [5, 10, 12]


def test_one_class_has_no_radius(tiny: Benchmark):
    assert DeepSVDD(**SMALL).fit(tiny.train).radius.tolist() == [0]


def test_pretraining_is_the_autoencoders(tiny: Benchmark):
    errors = []
    for epochs in (0, 30):
        detector = DSPSVDD(**(SMALL | {"pretrain_epochs": epochs, "learning_rate": 1e-2}))
        detector, inputs = prepared(detector, tiny)
        with torch.no_grad():
            errors.append(restoration_error(detector.network(inputs), inputs).mean().item())
    assert errors[1] < 0.95 * errors[0]


def test_a_network_without_biases_cannot_send_a_ray_to_a_point():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(2, 16, bias=False), nn.LeakyReLU(0.1), nn.Linear(16, 2, bias=False)
    ).double()
    points = normal(10, 2)
    torch.testing.assert_close(network(3 * points), 3 * network(points))


def test_a_moving_centre_loses_the_variance():
    variances = {}
    for moving in (False, True):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(2, 16, bias=False), nn.LeakyReLU(0.1), nn.Linear(16, 2, bias=False))
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        points = 0.5 + normal(60, 2).float().abs()
        centre = away_from_zero(network(points).mean(dim=0).detach())
        first = embedding_variance(network(points)).item()
        for _ in range(150):
            codes = network(points)
            optimizer.zero_grad()
            one_class(ball_distances([codes], codes.detach().mean(dim=0) if moving else centre)).backward()
            optimizer.step()
        variances[moving] = embedding_variance(network(points)).item() / first
    assert variances[True] < 1e-2 < variances[False]


@pytest.mark.parametrize(("cls", "objective"), [(DeepSVDD, "deep"), (MOCCA, "hard")])
def test_unknown_objectives_are_refused(cls, objective: str):
    with pytest.raises(DataError, match="one-class"):
        cls(objective=objective)
    with pytest.raises(DataError, match="nu"):
        cls(nu=0)


def test_mocca_has_a_ball_for_each_block(tiny: Benchmark):
    detector, inputs = prepared(MOCCA(**SMALL), tiny)
    with torch.no_grad():
        first = detector.network[0](inputs)
        second = detector.network[1](first)
        codes = detector.codes(inputs)
    expected = [first.mean(dim=(2, 3)), second.mean(dim=(2, 3)), detector.network[2](second)]
    for found, wanted in zip(codes, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert detector.centre.shape == (4 + 8 + 8,) and detector.radius.shape == (3,)


def test_mocca_with_its_last_ball_alone_is_deep_svdd(tiny: Benchmark, monkeypatch):
    monkeypatch.setattr(MOCCA, "codes", DeepSVDD.codes)
    for objective in ("one-class", "soft-boundary"):
        mocca, deep = (cls(objective=objective, **SMALL).fit(tiny.train) for cls in (MOCCA, DeepSVDD))
        assert torch.equal(mocca.history, deep.history) and torch.equal(mocca.radius, deep.radius)
        images = tiny.test.images()
        found = (mocca.predict(images).score + mocca.radius).square() - mocca.radius.square()
        torch.testing.assert_close(found, deep.predict(images).score, rtol=1e-3, atol=1e-4)


def test_moccas_score_is_the_mean_distance_beyond_the_radii(tiny: Benchmark):
    detector, images = MOCCA(**SMALL).fit(tiny.train), tiny.test.images()
    with torch.no_grad():
        codes = detector.codes(detector.inputs(images))
    expected = torch.zeros(len(images))
    for code, centre, radius in zip(codes, detector.centre.split([4, 8, 8]), detector.radius, strict=True):
        expected += ((code - centre).norm(dim=1) - radius) / 3
    torch.testing.assert_close(detector.predict(images).score, expected)


def test_dsp_svdd_without_restoration_has_deep_svdds_loss(tiny: Benchmark):
    detector, inputs = prepared(DSPSVDD(0.0, **SMALL), tiny)
    deep = DeepSVDD(**SMALL)
    deep.network.load_state_dict(detector.network[0].state_dict())
    deep.centre, deep.radius = detector.centre, detector.radius
    with torch.no_grad():
        assert detector.loss(inputs).item() == pytest.approx(deep.eval().loss(inputs).item())
        detector.preserve = 2.0
        error = (detector.network(inputs) - inputs).square().sum() / len(inputs)
        assert detector.loss(inputs).item() == pytest.approx((deep.loss(inputs) + 2 * error).item(), rel=1e-5)


def test_dsp_svdds_score_is_an_images_own_loss(tiny: Benchmark):
    detector, images = DSPSVDD(0.5, **SMALL).fit(tiny.train), tiny.test.images()[:3]
    alone = [detector.loss(detector.inputs(image[None])).item() for image in images]
    assert detector.predict(images).score.tolist() == pytest.approx(alone, rel=1e-4)


def test_gradients_reach_the_decoder_of_dsp_svdd_only_by_restoration(tiny: Benchmark):
    for preserve in (0.0, 1.0):
        detector, inputs = prepared(DSPSVDD(preserve, **SMALL), tiny)
        detector.zero_grad()
        detector.loss(inputs).backward()
        assert all(p.grad.abs().sum() > 0 for p in detector.network[0].parameters())
        grads = [p.grad for p in detector.network[1].parameters()]
        assert all((g.abs().sum() > 0).item() is (preserve > 0) for g in grads)
