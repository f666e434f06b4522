"""SimpleNet: loss, noise, what is trained, independence of the batch, refusals; the ablation's parts."""

import math

import pytest
import torch
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.feature_adaptation import (
    NOISE_MODELS,
    DissectedSimpleNet,
    SimpleNet,
    along_covariance,
    cross_entropy,
    discriminator,
    per_channel,
    several_scales,
    shell_std,
    truncated_l1,
    xavier,
)
from adlearn.methods.memory_bank import patch_vectors

SMALL = {"hidden": 32, "epochs": 2}


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def patches_of(tiny: Benchmark, count: int = 4) -> torch.Tensor:
    return patch_vectors(FeatureExtractor(layers=(8, 16))(tiny.train.images()[:count]), 3)


@pytest.mark.parametrize("margin", [0.5, 1.25])
def test_truncated_l1_is_the_papers_loss(margin: float):
    good, noisy = normals(40), normals(30, seed=1)
    expected = sum(max(0.0, margin - d) for d in good.tolist()) / 40
    expected += sum(max(0.0, margin + d) for d in noisy.tolist()) / 30
    assert truncated_l1(good, noisy, margin).item() == pytest.approx(expected, rel=1e-12)


def test_truncated_l1_leaves_alone_what_is_right_by_the_margin():
    good = torch.tensor([0.6, 0.4, -3.0], requires_grad=True)
    noisy = torch.tensor([-0.6, -0.4, 3.0], requires_grad=True)
    truncated_l1(good, noisy).backward()
    assert good.grad.tolist() == pytest.approx([0, -1 / 3, -1 / 3])
    assert noisy.grad.tolist() == pytest.approx([0, 1 / 3, 1 / 3])


def test_cross_entropy_is_binary_cross_entropy():
    good, noisy = normals(40), normals(30, seed=1)
    expected = -sum(math.log(1 / (1 + math.exp(-d))) for d in good.tolist()) / 40
    expected -= sum(math.log(1 - 1 / (1 + math.exp(-d))) for d in noisy.tolist()) / 30
    assert cross_entropy(good, noisy).item() == pytest.approx(expected, rel=1e-9)


def test_discriminator_has_the_papers_layers():
    network = discriminator(7, 5)
    assert [type(layer) for layer in network] == [nn.Linear, nn.BatchNorm1d, nn.LeakyReLU, nn.Linear]
    assert network[-1].bias is None and network[2].negative_slope == 0.2
    assert network(torch.randn(3, 7)).shape == (3, 1)


def test_xavier_keeps_the_size_of_features():
    torch.manual_seed(0)
    layer = xavier(nn.Linear(300, 300, bias=False))
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert layer(torch.randn(200, 300)).std().item() == pytest.approx(1, rel=0.03)


def test_shell_is_the_distance_to_other_images_by_loops():
    patches = normals(4, 6, 5)
    first, second = patches[:2].reshape(-1, 5), patches[2:].reshape(-1, 5)
    nearest = [min((a - b).norm().item() for b in first) for a in second]
    expected = torch.tensor(nearest).median().item() / math.sqrt(5)
    assert shell_std(patches).item() == pytest.approx(expected, rel=1e-5)


def test_shell_follows_the_features_scale_and_takes_one_image():
    patches = normals(4, 6, 5)
    torch.testing.assert_close(shell_std(7 * patches), 7 * shell_std(patches))
    assert shell_std(patches[:1]) > 0


def test_noise_has_the_papers_statistics(tiny: Benchmark):
    detector = SimpleNet(noise=0.5, **SMALL)
    patches = patches_of(tiny)
    detector.prepare(patches)
    torch.testing.assert_close(detector.noise_std, 0.5 * shell_std(patches))
    torch.manual_seed(0)
    adapted = torch.full((5000, 152), 3.0)
    noise = detector.perturb(adapted) - adapted
    std = detector.noise_std.item()
    assert noise.mean().item() == pytest.approx(0, abs=0.01 * std)
    assert noise.std().item() == pytest.approx(std, rel=0.01)
    assert noise.norm(dim=1).mean().item() == pytest.approx(std * math.sqrt(152), rel=0.01)
    correlation = torch.corrcoef(noise.T) - torch.eye(152)
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("name", ["isotropic", "per_channel", "along_covariance"])
def test_noise_models_have_variance_one_on_average(name: str):
    torch.manual_seed(0)
    rows = normals(4000, 6) * torch.tensor([1.0, 2, 3, 4, 5, 6])
    assert NOISE_MODELS[name](rows).square().mean().item() == pytest.approx(1, rel=0.1)


def test_per_channel_noise_is_as_wide_as_the_channel():
    torch.manual_seed(0)
    widths = torch.tensor([1.0, 2, 4], dtype=torch.float64)
    noise = per_channel(10 + normals(20_000, 3) * widths)
    torch.testing.assert_close(noise.std(dim=0) / noise[:, 0].std(), widths, rtol=0.05, atol=0)
    assert torch.corrcoef(noise.T).fill_diagonal_(0).abs().max() < 0.05


def test_noise_along_the_covariance_has_it():
    torch.manual_seed(0)
    rows = 5 + normals(20_000, 4) @ normals(4, 4, seed=2)
    noise = along_covariance(rows, count=20_000 // 40)
    kept = rows[::40]
    expected = torch.cov(kept.T, correction=0)
    expected = expected / expected.diagonal().mean()
    torch.testing.assert_close(torch.cov(noise.T), expected, rtol=0, atol=0.1)


def test_noise_along_the_covariance_stays_where_rows_vary():
    torch.manual_seed(0)
    rows = normals(500, 1) * torch.tensor([[3.0, 4.0, 0.0]])
    noise = along_covariance(rows)
    torch.testing.assert_close(noise[:, 0] * 4, noise[:, 1] * 3)
    assert noise[:, 2].abs().max() < 1e-9


def test_several_scales_stay_in_reach():
    torch.manual_seed(0)
    lengths = several_scales(torch.zeros(2000, 400), reach=4.0).norm(dim=1) / 20
    assert 0.2 < lengths.min() < 0.3 and 3.4 < lengths.max() < 4.8
    assert lengths.log().mean().item() == pytest.approx(0, abs=0.1)


def test_noise_of_equal_rows_is_finite():
    rows = torch.ones(8, 3)
    assert all(torch.isfinite(model(rows)).all() for model in NOISE_MODELS.values())


def test_loss_by_hand(tiny: Benchmark):
    patches = patches_of(tiny)
    detector = SimpleNet(**SMALL).eval()
    detector.prepare(patches)
    torch.manual_seed(3)
    with torch.no_grad():
        found = detector.loss(patches).item()
        torch.manual_seed(3)
        rows = detector.network["adaptor"](patches.flatten(0, 1))
        noisy = rows + detector.noise_std * torch.randn(rows.shape)
        good, bad = (detector.network["discriminator"](r).flatten().tolist() for r in (rows, noisy))
    expected = sum(max(0, 0.5 - d) for d in good) / len(good) + sum(max(0, 0.5 + d) for d in bad) / len(bad)
    assert found == pytest.approx(expected, rel=1e-4)


def test_gradients_reach_adaptor_and_discriminator_and_not_the_backbone(tiny: Benchmark):
    patches = patches_of(tiny)
    detector = SimpleNet(**SMALL)
    detector.prepare(patches)
    detector.train()
    detector.loss(patches).backward()
    # A bias in front of batch norm has a gradient of 0.
    weights = [p for name, p in detector.network.named_parameters() if name.endswith("weight")]
    assert len(weights) == 4 and all(p.grad.abs().sum() > 0 for p in weights)
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_training_changes_the_adaptor_and_nothing_of_the_backbone(tiny: Benchmark):
    detector = SimpleNet(**SMALL)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    after = detector.fit(tiny.train).state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before if n.startswith("extractor"))
    assert not torch.equal(before["network.adaptor.weight"], after["network.adaptor.weight"])
    assert not torch.equal(before["network.discriminator.0.weight"], after["network.discriminator.0.weight"])


def test_the_loss_falls(tiny: Benchmark):
    history = SimpleNet(hidden=32, epochs=8).fit(tiny.train).history
    assert history.shape == (8,) and history[-1] < history[0]


def test_scores_are_minus_the_discriminators_smallest_output(tiny: Benchmark):
    detector, images = SimpleNet(**SMALL).fit(tiny.train), tiny.test.images()
    patches = patch_vectors(detector.extractor(images), 3)
    adaptor, judge = detector.network["adaptor"], detector.network["discriminator"]
    with torch.no_grad():
        outputs = torch.stack([judge(adaptor(rows)) for rows in patches])
    torch.testing.assert_close(detector.predict(images).score, -outputs.flatten(1).amin(dim=1))


def test_a_score_does_not_depend_on_the_batch(tiny: Benchmark):
    detector, images = SimpleNet(**SMALL).fit(tiny.train), tiny.test.images()
    assert not any(module.training for module in detector.network.modules())
    torch.testing.assert_close(detector.predict(images[:1]).score, detector.predict(images).score[:1])


def test_more_noise_is_easier_to_tell(tiny: Benchmark):
    faint, loud = (SimpleNet(noise=n, hidden=32, epochs=6).fit(tiny.train) for n in (0.01, 10.0))
    assert loud.history[-1] < 0.8 * faint.history[-1]


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan])
def test_no_noise_is_refused(noise: float):
    with pytest.raises(DataError, match="noise"):
        SimpleNet(noise=noise)


@pytest.mark.parametrize("wrong", [{"noise_model": "perlin"}, {"objective": "hinge"}])
def test_unknown_parts_are_refused(wrong: dict[str, str]):
    with pytest.raises(DataError, match="isotropic"):
        DissectedSimpleNet(**wrong)


def test_without_changes_the_dissected_one_is_simplenet(tiny: Benchmark):
    plain, dissected = SimpleNet(**SMALL).fit(tiny.train), DissectedSimpleNet(**SMALL).fit(tiny.train)
    assert torch.equal(plain.history, dissected.history)
    images = tiny.test.images()
    assert torch.equal(plain.predict(images).score, dissected.predict(images).score)


def test_without_adaptor_patches_stay_as_they_are(tiny: Benchmark):
    detector = DissectedSimpleNet(adapt=False, **SMALL).fit(tiny.train)
    rows = torch.randn(3, 152)
    assert torch.equal(detector.network["adaptor"](rows), rows)
    assert {name.split(".")[0] for name, _ in detector.network.named_parameters()} == {"discriminator"}
