"""EfficientAD: loss and maps against transcriptions, what is trained, what a position sees, quantiles."""

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.errors import DataError
from adlearn.methods.student_teacher import (
    PDN,
    AutoEncoder,
    EfficientAD,
    ThreeNetworks,
    descriptions,
    distil,
    hard_feature_loss,
    jittered,
    map_quantiles,
    quantile_normalised,
    set_aside,
    sometimes_grey,
    standardised,
    trained_teacher,
    whitened,
)

CHANNELS, FEW = (4, 6, 8, 10), {"count": 4, "epochs": 1}


def networks() -> ThreeNetworks:
    torch.manual_seed(0)
    return ThreeNetworks(64, CHANNELS, (2, 4)).eval()


def small() -> EfficientAD:
    return EfficientAD(size=64, channels=CHANNELS, decoder=(2,), epochs=1, distillation=FEW)


def images(count: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("p_hard", [0.0, 0.5, 0.9, 0.99, 0.999])
def test_hard_loss_is_numpys_quantile(p_hard: float):
    squared = torch.randn(3, 5, 8, 9, dtype=torch.float64).square()
    expected = [row[row >= np.quantile(row, p_hard)].mean() for row in squared.flatten(1).numpy()]
    assert hard_feature_loss(squared, p_hard).item() == pytest.approx(np.mean(expected), rel=1e-12)


def test_hard_loss_without_mining_is_the_mean_square():
    squared = torch.rand(2, 3, 4, 5)
    torch.testing.assert_close(hard_feature_loss(squared, 0.0), squared.mean())


def test_hard_loss_of_equal_errors_is_finite():
    assert hard_feature_loss(torch.zeros(2, 3, 4, 4)).item() == 0


def test_only_hard_elements_get_a_gradient():
    squared = torch.rand(2, 3, 10, 10, dtype=torch.float64, requires_grad=True)
    hard_feature_loss(squared, 0.9).backward()
    for values, gradient in zip(squared.detach(), squared.grad, strict=True):
        hard = values >= np.quantile(values.numpy(), 0.9)
        assert hard.sum() == 30
        torch.testing.assert_close(gradient, hard.double() / (2 * 30))


@pytest.mark.parametrize(("size", "grid"), [(64, 8), (128, 24), (256, 56)])
def test_grid(size: int, grid: int):
    x = torch.rand(1, 3, size, size)
    with torch.no_grad():
        assert PDN((2, 2, 2, 5))(x).shape == (1, 5, grid, grid)
        assert PDN((2, 2, 2, 5), padding=True)(x).shape == (1, 5, grid + 8, grid + 8)


def test_a_position_sees_33_pixels():
    x = torch.rand(1, 3, 96, 96, requires_grad=True)
    PDN(CHANNELS)(x)[0, :, 3, 5].abs().sum().backward()
    rows, columns = (x.grad.abs().sum(dim=(0, 1, axis)).nonzero().flatten() for axis in (3, 2))
    # 33 wide from pixel 4 i on; closed ReLUs may take a pixel off the rim.
    assert rows.min() >= 12 and rows.max() <= 12 + 32 and rows.max() - rows.min() >= 30
    assert columns.min() >= 20 and columns.max() <= 20 + 32 and columns.max() - columns.min() >= 30


def test_a_position_sees_exactly_33_pixels_without_relu():
    network = nn.Sequential(*(layer for layer in PDN(CHANNELS) if not isinstance(layer, nn.ReLU)))
    x = torch.rand(1, 3, 96, 96, requires_grad=True)
    network(x)[0, :, 3, 5].sum().backward()
    rows = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    assert rows.tolist() == list(range(12, 45))


def test_padding_changes_nothing_inside():
    x = torch.rand(1, 3, 64, 64)
    padded, plain = PDN(CHANNELS, padding=True), PDN(CHANNELS)
    plain.load_state_dict(padded.state_dict())
    assert list(plain.state_dict()) == list(padded.state_dict())
    assert plain(x).shape[-1] + 8 == padded(x).shape[-1]


def test_whitened_components_are_uncorrelated():
    mixing = torch.randn(6, 6, dtype=torch.float64)
    maps = torch.einsum("nchw,cd->ndhw", torch.randn(5, 6, 7, 8, dtype=torch.float64), mixing)
    rows = whitened(maps, 4).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(rows.T.cov(correction=0), torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-2)
    torch.testing.assert_close(rows.mean(dim=0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_losses_are_the_papers(monkeypatch: pytest.MonkeyPatch):
    """Every term written out with loops in float64; the change of colours is replaced by a fixed one."""
    monkeypatch.setattr("adlearn.methods.student_teacher.jittered", lambda batch: 0.9 * batch)
    trio = networks().double()
    trio.mean.normal_()
    trio.std.uniform_(0.5, 2)
    plain, strangers = images(2).double(), images(3, 2).double()
    with torch.no_grad():
        found = {name: value.item() for name, value in trio.losses(plain, strangers, 0.9).items()}
        inputs, changed, other = (standardised(x) for x in (plain, 0.9 * plain, strangers))
        normal, recoloured = (((trio.teacher(x) - trio.mean) / trio.std).numpy() for x in (inputs, changed))
        answers = [trio.student(x).numpy() for x in (inputs, changed, other)]
        rebuilt = trio.autoencoder(changed).numpy()
    hard, imitation, reconstruction = [], [], []
    for i in range(2):
        squared = np.array([(normal[i, c] - answers[0][i, c]) ** 2 for c in range(10)]).ravel()
        hard.append(squared[squared >= np.quantile(squared, 0.9)].mean())
        reconstruction.append(sum(((recoloured[i, c] - rebuilt[i, c]) ** 2).sum() for c in range(10)) / 640)
        imitation.append(sum(((rebuilt[i, c] - answers[1][i, 10 + c]) ** 2).sum() for c in range(10)) / 640)
    silence = [sum((answers[2][i, c] ** 2).sum() for c in range(10)) / 640 for i in range(3)]
    assert found["hard"] == pytest.approx(np.mean(hard), rel=1e-9)
    assert found["penalty"] == pytest.approx(np.mean(silence), rel=1e-9)
    assert found["autoencoder"] == pytest.approx(np.mean(reconstruction), rel=1e-9)
    assert found["student of autoencoder"] == pytest.approx(np.mean(imitation), rel=1e-9)


def test_no_penalty_without_strangers():
    assert networks().losses(images(2), images(0))["penalty"].item() == 0


def gradients(term: str) -> dict[str, bool]:
    """Which parts get a gradient from one term: student's first half, its second half, the others."""
    trio = networks()
    trio.losses(images(2), images(2, 2))[term].backward()
    last = trio.student[-1].weight.grad
    halves = (None, None) if last is None else last.abs().sum(dim=(1, 2, 3)).split(10)
    names = ("plain", "predicting")
    found = {n: h is not None and bool((h > 0).any()) for n, h in zip(names, halves, strict=True)}
    autoencoder = [w.grad for w in trio.autoencoder.parameters()]
    found["autoencoder"] = any(g is not None and bool((g != 0).any()) for g in autoencoder)
    assert all(w.grad is None for w in trio.teacher.parameters())
    return found


@pytest.mark.parametrize(
    ("term", "expected"),
    [
        ("hard", (True, False, False)),
        ("penalty", (True, False, False)),
        ("autoencoder", (False, False, True)),
        ("student of autoencoder", (False, True, True)),
    ],
)
def test_where_each_term_leads(term: str, expected: tuple[bool, ...]):
    found = gradients(term)
    assert (found["plain"], found["predicting"], found["autoencoder"]) == expected


def test_maps_are_mean_squares():
    trio, x = networks(), images(2)
    found = trio.maps(x)
    with torch.no_grad():
        answer, rebuilt = trio.student(standardised(x)), trio.autoencoder(standardised(x))
        teacher = trio.described(standardised(x))
    torch.testing.assert_close(found[0], (answer[:, :10] - teacher).square().mean(dim=1))
    torch.testing.assert_close(found[1], (answer[:, 10:] - rebuilt).square().mean(dim=1))


def test_quantiles_land_on_0_and_a_tenth():
    maps = torch.randn(2, 6, 8, 8).exp() * torch.tensor([1.0, 1000.0]).view(2, 1, 1, 1)
    quantiles = map_quantiles(maps)
    for branch in range(2):
        expected = np.quantile(maps[branch].double().numpy(), (0.9, 0.995))
        np.testing.assert_allclose(quantiles[branch].numpy(), expected, rtol=1e-5)
    ends = quantiles.view(2, 1, 1, 2)
    moved = quantile_normalised(ends, quantiles).view(2, 2)
    assert (moved[:, 0] == 0).all()
    torch.testing.assert_close(moved[:, 1], torch.full((2,), 0.1), rtol=1e-7, atol=0)


def test_jitter_is_one_of_three_within_a_fifth():
    torch.manual_seed(0)
    image = images(1)[0] * 0.5 + 0.25
    grey = (image * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=0)
    pivots = [torch.zeros(3, 64, 64), grey.mean().expand(3, 64, 64), grey.expand(3, 64, 64)]
    seen = set()
    for changed in jittered(image.expand(40, 3, 64, 64)):
        for number, pivot in enumerate(pivots):
            factor = ((changed - pivot) * (image - pivot)).sum() / (image - pivot).square().sum()
            if torch.allclose(changed, pivot + factor * (image - pivot), atol=1e-5):
                assert 0.8 - 1e-5 <= factor <= 1.2 + 1e-5
                seen.add(number)
                break
        else:
            raise AssertionError("none of the three")
    assert seen == {0, 1, 2}


def test_three_in_ten_turn_grey():
    torch.manual_seed(0)
    changed = sometimes_grey(torch.rand(1000, 3, 2, 2))
    assert (changed.std(dim=1) < 1e-6).all(dim=(1, 2)).float().mean().item() == pytest.approx(0.3, abs=0.05)


def test_autoencoder_passes_64_numbers():
    network = AutoEncoder(128, 7, 24).eval()
    shapes = []
    for layer in network:
        layer.register_forward_hook(lambda _layer, _inputs, output: shapes.append(tuple(output.shape)))
    assert network(torch.rand(2, 3, 128, 128)).shape == (2, 7, 24, 24)
    assert (2, 64, 1, 1) in shapes


@pytest.mark.parametrize(("count", "held"), [(1, 1), (2, 1), (9, 1), (30, 3)])
def test_set_aside(count: int, held: int):
    rest, tenth = set_aside(torch.arange(count), seed=0)
    assert len(tenth) == held and len(rest) == max(1, count - held)
    assert count == 1 or set(rest.tolist()).isdisjoint(tenth.tolist())
    assert torch.equal(set_aside(torch.arange(count), seed=0)[1], tenth)


def test_teacher_is_frozen_and_shared(tiny):
    first = distil(CHANNELS, 64, device="cpu", **FEW)
    assert distil(CHANNELS, 64, device="cpu", **FEW) is first
    before = {name: weights.clone() for name, weights in first.items()}
    detector = small().fit(tiny.train)
    for name, weights in detector.networks.teacher.state_dict().items():
        assert torch.equal(weights, before[name]) and torch.equal(first[name], before[name])
    assert not any(w.requires_grad for w in detector.networks.teacher.parameters())


def test_teacher_is_normalised_on_the_training_images(tiny):
    detector = small().fit(tiny.train)
    used, _ = set_aside(tiny.train.images(), 0)
    described = detector.networks.described(standardised(used))
    torch.testing.assert_close(described.mean(dim=(0, 2, 3)), torch.zeros(10), rtol=0, atol=1e-3)
    torch.testing.assert_close(described.std(dim=(0, 2, 3)), torch.ones(10), rtol=0, atol=1e-2)


def test_distillation_lowers_the_error():
    torch.manual_seed(0)
    pictures = torch.rand(6, 3, 128, 128).cumsum(dim=3) / 64 % 1
    targets = descriptions(pictures, 10)
    half = nn.functional.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
    errors = []
    for epochs in (1, 15):
        network = trained_teacher(pictures, CHANNELS, epochs=epochs, batch_size=2)
        with torch.no_grad():
            errors.append((network(standardised(half)) - targets).square().mean().item())
    assert errors[1] < errors[0]


def test_too_many_channels_are_refused():
    with pytest.raises(DataError, match="152"):
        trained_teacher(torch.rand(2, 3, 64, 64), (4, 4, 4, 200), epochs=1)


@pytest.mark.parametrize("arguments", [{"size": 100}, {"size": 32}, {"p_hard": 1.0}, {"p_hard": -0.1}])
def test_bad_arguments_are_refused(arguments: dict):
    with pytest.raises(DataError):
        EfficientAD(**arguments)


def test_other_sizes_are_resized(tiny):
    detector = small().fit(tiny.train)
    assert detector.predict(torch.rand(2, 3, 80, 96)).map.shape == (2, 80, 96)
