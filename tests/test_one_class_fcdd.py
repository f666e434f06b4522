"""FCDD: losses and upsampling against loops in float64, the receptive field measured, confetti's masks."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.data.base import AnomalyDataset, Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import (
    FCDD,
    anomaly_term,
    artificial_anomalies,
    confetti,
    confetti_squares,
    conv_head,
    exposed_images,
    gaussians,
    hypersphere_loss,
    pixel_loss,
    pseudo_huber,
    receptive_field,
    receptive_upsample,
)

SMALL = {"epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def huber(value: float) -> float:
    return math.sqrt(value**2 + 1) - 1


def test_pseudo_huber_is_the_papers():
    outputs = torch.linspace(-5, 5, 41, dtype=torch.float64)
    expected = [huber(value) for value in outputs.tolist()]
    torch.testing.assert_close(pseudo_huber(outputs), torch.tensor(expected, dtype=torch.float64))


def test_pseudo_huber_keeps_small_values_in_float32():
    small = torch.tensor([1e-5])
    torch.testing.assert_close(pseudo_huber(small), small.square() / 2, rtol=1e-4, atol=0.0)


def test_hypersphere_loss_is_the_papers():
    normal, anomalous = torch.rand(2, 3, 4, 5, dtype=torch.float64) * 2
    expected = sum(m.mean() for m in normal.numpy())
    expected -= sum(math.log(1 - math.exp(-m.mean())) for m in anomalous.numpy())
    assert hypersphere_loss(normal, anomalous).item() == pytest.approx(expected / 6, rel=1e-5)


def test_pixel_loss_is_the_papers():
    maps, masks = torch.rand(3, 4, 5, dtype=torch.float64) * 2, torch.rand(3, 4, 5) < 0.4
    masks[1] = False
    expected = 0.0
    for image, mask in zip(maps.numpy(), masks.numpy(), strict=True):
        pixels = list(np.ndindex(4, 5))
        expected += sum(image[p] for p in pixels if not mask[p]) / 20
        if mask.any():
            expected -= math.log(1 - math.exp(-sum(image[p] for p in pixels if mask[p]) / 20))
    assert pixel_loss(maps, masks).item() == pytest.approx(expected / 3, rel=1e-5)


def test_pixel_loss_of_whole_images_is_the_hypersphere_loss():
    normal, anomalous = torch.rand(2, 3, 4, 5)
    masks = torch.cat([torch.zeros(3, 4, 5), torch.ones(3, 4, 5)]).bool()
    torch.testing.assert_close(
        pixel_loss(torch.cat([normal, anomalous]), masks), hypersphere_loss(normal, anomalous)
    )


def test_losses_and_gradients_are_finite_at_outputs_of_0_and_far_away():
    for start in (0.0, 1e4):
        outputs = torch.full((4, 3, 3), start, requires_grad=True)
        maps = pseudo_huber(outputs)
        masks = torch.zeros(4, 3, 3, dtype=torch.bool)
        masks[2:, 1] = True
        loss = hypersphere_loss(*maps.chunk(2)) + pixel_loss(maps, masks)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(outputs.grad).all()


def test_anomaly_term_falls_to_0():
    values = anomaly_term(torch.tensor([0.0, 0.1, 1.0, 20.0]))
    assert (values.diff() < 0).all() and values[-1].abs() < 2e-6


def measured_field(network: nn.Module, side: int) -> tuple[int, int, list[float]]:
    """Size of the field of a cell in the middle, distance and middles of those of it and its neighbour."""
    image = torch.rand(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    found = network(image)
    cell, middles, sizes = found.shape[-1] // 2, [], []
    for column in (cell, cell + 1):
        image.grad = None
        found[0, :, cell, column].sum().backward(retain_graph=True)
        seen = image.grad.abs().sum(dim=(0, 1, 2)).nonzero().flatten().tolist()
        middles.append((seen[0] + seen[-1]) / 2)
        sizes.append(seen[-1] - seen[0] + 1)
    return sizes[0], cell, middles


class Linear(nn.Module):
    """Backbone and head with the activations removed, so that no gradient is 0 by chance."""

    def __init__(self, detector: FCDD):
        super().__init__()
        self.trunk, self.network = detector.extractor.trunk, detector.network
        for module in self.modules():
            for name, child in module.named_children():
                if isinstance(child, (nn.ReLU, nn.ReLU6)):
                    setattr(module, name, nn.Identity())
                elif getattr(child, "act", None) is not None and isinstance(child, nn.BatchNorm2d):
                    child.act = nn.Identity()
        self.double().eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.trunk(images)[0])


def test_receptive_field_is_what_the_gradient_says():
    detector = FCDD()
    layers = [*detector.extractor.trunk.modules(), *detector.network.modules()]
    size, stride, centre = receptive_field(layers)
    assert detector.field == (size, stride, 3.5)
    found, cell, (middle, following) = measured_field(Linear(detector), 256)
    assert (size, stride) == (found, following - middle)
    assert middle == centre + cell * stride


def test_receptive_field_of_plain_convolutions():
    layers = [nn.Conv2d(1, 1, 3, 2, 1), nn.ReLU(), nn.Conv2d(1, 1, 5, 1, 2), nn.Conv2d(1, 1, 3, 2, 1)]
    assert receptive_field(layers) == (1 + 2 + 8 + 4, 4, 0.0)
    assert receptive_field([nn.Conv2d(1, 1, 4, 4)]) == (4, 4, 1.5)


def test_upsampling_is_a_sum_of_gaussians():
    grid, field, sigma = torch.rand(1, 3, 4, dtype=torch.float64), (17, 8, 4.5), 3.0
    expected = np.zeros((24, 32))
    for row, column in np.ndindex(24, 32):
        for i, j in np.ndindex(3, 4):
            y, x = row - (4.5 + 8 * i), column - (4.5 + 8 * j)
            if max(abs(y), abs(x)) <= 8.5:
                bell = math.exp(-(y * y + x * x) / (2 * sigma**2)) / (2 * math.pi * sigma**2)
                expected[row, column] += grid[0, i, j].item() * bell * 64
    found = receptive_upsample(grid, (24, 32), field, sigma)
    torch.testing.assert_close(found[0], torch.from_numpy(expected), rtol=1e-5, atol=1e-6)


def test_a_flat_map_stays_flat_away_from_the_border():
    found = receptive_upsample(torch.full((1, 16, 16), 3.0), (128, 128), (99, 8, 3.0), 7.0)
    torch.testing.assert_close(found[:, 40:88, 40:88], torch.full((1, 48, 48), 3.0), rtol=1e-3, atol=0.0)


def test_one_cell_peaks_at_its_centre():
    assert gaussians(4, 32, (21, 8, 3.0), 4.0).argmax(dim=0).tolist() == [3, 11, 19, 27]


def test_confetti_masks_are_what_changed():
    images = torch.rand(20, 3, 48, 48)
    changed, masks = confetti(images)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert masks.any(dim=(1, 2)).all() and not masks.all(dim=(1, 2)).any()
    assert changed.min() >= 0 and changed.max() <= 1


def test_confetti_brightens_what_is_dark_and_darkens_what_is_white():
    for value, sign in ((0.0, 1), (1.0, -1)):
        images = torch.full((5, 3, 32, 32), value)
        changed, _ = confetti(images)
        assert ((changed - images).sum(dim=(1, 2, 3)) * sign > 0).all()


def test_squares_are_squares_of_one_colour():
    noise = confetti_squares(torch.Size((200, 3, 64, 64)), torch.device("cpu"), count=1)
    areas = (noise > 0).any(dim=1).float().mean(dim=(1, 2))
    assert (areas > 0).all() and areas.max() <= 1.2 / 16
    colours = [image.flatten(1).unique(dim=1).shape[1] for image in noise]
    assert max(colours) == 2


@pytest.mark.parametrize("exposure", ["confetti", "scenery", "both"])
def test_artificial_anomalies_and_their_masks(exposure: str):
    images = torch.rand(4, 3, 32, 32)
    found, masks = artificial_anomalies(images, exposure)
    assert found.shape == images.shape and masks.shape == (4, 32, 32)
    assert torch.equal(found[~masks[:, None].expand_as(found)], images[~masks[:, None].expand_as(images)])
    whole = masks.all(dim=(1, 2)).tolist()
    assert whole == {"confetti": [False] * 4, "scenery": [True] * 4, "both": [True, False] * 2}[exposure]


def mixed(tiny: Benchmark) -> AnomalyDataset:
    samples = [*tiny.train.samples[:4], *(s for s in tiny.test.samples if s.label)][:6]
    return AnomalyDataset("tiny/mixed", samples, tiny.train.size, has_masks=True)


def test_labelled_defects_take_the_place_of_artificial_ones(tiny: Benchmark):
    dataset = mixed(tiny)
    images, masks = exposed_images(dataset, "confetti", draws=3)
    real = dataset.images()[4:]
    assert len(images) == len(masks) == 12
    assert all(any(torch.equal(image, defect) for defect in real) for image in images)
    assert masks.any(dim=(1, 2)).all()


def test_defects_are_never_taken_for_normal(tiny: Benchmark, monkeypatch: pytest.MonkeyPatch):
    seen = {}
    monkeypatch.setattr(FCDD, "train_on", lambda self, *tensors: seen.update(tensors=tensors) or self)
    detector = FCDD(draws=3)
    detector.fit(mixed(tiny))
    normal, features, masks = seen["tensors"]
    assert normal.shape[0] == features.shape[0] == masks.shape[0] == 4 and features.shape[1] == 3
    expected = next(iter(detector.extractor.extract(mixed(tiny).take(4)).values()))
    torch.testing.assert_close(normal, expected)


def test_only_the_head_is_trained(tiny: Benchmark):
    detector = FCDD(**SMALL)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.fit(tiny.train)
    after = detector.state_dict().items()
    changed = {n for n, v in after if n != "history" and not torch.equal(v, before[n])}
    assert changed and all(name.startswith("network") for name in changed)


@pytest.mark.parametrize("pixel_labels", [False, True])
def test_gradients_reach_every_weight_of_the_head(pixel_labels: bool):
    detector = FCDD(pixel_labels=pixel_labels)
    masks = torch.rand(4, 2, 64, 64) < 0.2
    detector.network.train()
    detector.loss(torch.randn(4, 40, 8, 8), torch.randn(4, 2, 40, 8, 8), masks).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.network.parameters())
    assert detector.network[-1].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_without_exposure_the_map_falls_towards_0(tiny: Benchmark):
    alone = FCDD(exposure="none", epochs=40, batch_size=4, learning_rate=1e-2).fit(tiny.train)
    assert alone.history[-1] < alone.history[0] / 10


def test_score_is_the_mean_of_the_heat_map(tiny: Benchmark):
    detector, images = FCDD(**SMALL).fit(tiny.train), tiny.test.images()
    with torch.no_grad():
        outputs = detector.network(next(iter(detector.extractor(images).values())))[:, 0]
    expected = [np.mean([huber(v) for v in image.flatten().tolist()]) for image in outputs]
    torch.testing.assert_close(detector.predict(images).score, torch.tensor(expected).float())


def test_head_keeps_the_grid():
    assert conv_head(5, 4)(torch.rand(2, 5, 6, 7)).shape == (2, 1, 6, 7)


@pytest.mark.parametrize("wrong", [{"exposure": "noise"}, {"layers": (8, 16)}])
def test_unknown_exposures_and_several_layers_are_refused(wrong: dict):
    with pytest.raises(DataError, match="confetti"):
        FCDD(**wrong)
