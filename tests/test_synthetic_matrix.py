"""The paint matrix: one signature for all paints, masks where pixels changed, the head and its loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter

from adlearn.data.base import AnomalyDataset, Benchmark
from adlearn.errors import DataError
from adlearn.features import aggregate
from adlearn.methods.synthetic_anomalies import PAINTS, PaintedDefects, PaintHead, any_painted, paint_named
from adlearn.training import seeded

SMALL = {"epochs": 2, "hidden": 8, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def images() -> torch.Tensor:
    ramp = torch.linspace(0.2, 0.7, 64)
    return (ramp + 0.2 * torch.rand(4, 3, 64, 64)).clamp(0, 1)


@pytest.mark.parametrize("name", [*PAINTS, "all"])
def test_paint_has_the_signature(name: str, images: torch.Tensor):
    before = images.clone()
    for given in (images, images[:1]):
        changed, masks = paint_named(name)(given)
        assert changed.shape == given.shape
        assert masks.shape == (len(given), 64, 64)
        assert masks.dtype == torch.bool
        assert 0 <= changed.min() <= changed.max() <= 1
        assert torch.equal(masks, (changed != given).any(dim=1))
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", [*PAINTS, "all"])
def test_paint_depends_on_the_seed_alone(name: str, images: torch.Tensor):
    one, same, other = (seeded(s, lambda: paint_named(name)(images)) for s in (1, 1, 2))
    assert torch.equal(one[0], same[0])
    assert not torch.equal(one[0], other[0])


@pytest.mark.parametrize("name", PAINTS)
def test_paint_changes_most_images(name: str, images: torch.Tensor):
    masks = paint_named(name)(images.repeat(5, 1, 1, 1))[1]
    assert masks.any(dim=(1, 2)).float().mean() > 0.7


def test_any_painted_uses_several_paints(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    for number, name in enumerate(PAINTS):
        grey = (number + 1) / 10
        monkeypatch.setitem(PAINTS, name, lambda part, grey=grey: (torch.full_like(part, grey), None))
    changed, _ = any_painted(images.repeat(10, 1, 1, 1))
    values = changed.flatten(1)
    assert torch.equal(values.amin(dim=1), values.amax(dim=1))
    assert len(values[:, 0].unique()) >= len(PAINTS) - 1


def test_unknown_paint_is_refused():
    with pytest.raises(DataError, match="paint='mud'"):
        PaintedDefects("mud")


def test_head_is_two_convolutions_on_the_stacked_layers():
    head = PaintHead((3, 5), 4).double()
    maps = [torch.randn(2, 3, 8, 8).double(), torch.randn(2, 5, 4, 4).double()]
    head(maps)
    head.eval()
    scaled = {str(i): scale(m) for i, (scale, m) in enumerate(zip(head.scales, maps, strict=True))}
    weights = torch.cat([conv.weight for conv in head.first], dim=1)
    hidden = F.relu(F.conv2d(aggregate(scaled), weights, head.first[0].bias))
    torch.testing.assert_close(head(maps), head.last(hidden)[:, 0])


def test_loss_is_the_focal_loss_of_the_cells():
    detector = PaintedDefects(**SMALL)
    detector.network.double().eval()
    shapes = zip(detector.extractor.channels, (8, 4, 2), strict=True)
    maps = [torch.randn(2, c, s, s).double() for c, s in shapes]
    cells = (torch.rand(2, 8, 8) < 0.3).double()
    expected = 0.0
    logits = detector.network(maps).flatten().tolist()
    for logit, painted in zip(logits, cells.flatten().tolist(), strict=True):
        chance = 1 / (1 + math.exp(-logit))
        right = chance if painted else 1 - chance
        expected -= (1 - right) ** 2 * math.log(right)
    assert detector.loss(*maps, cells).item() == pytest.approx(expected / 128, rel=1e-9)


def test_training_gets_every_image_good_and_painted(tiny: Benchmark, monkeypatch: pytest.MonkeyPatch):
    seen = []
    detector = PaintedDefects("confetti", copies=2, **SMALL)
    monkeypatch.setattr(detector, "train_on", lambda *tensors: seen.extend(tensors))
    good = tiny.train.take(3)
    detector.fit(good)
    *maps, cells = seen
    assert {len(m) for m in maps} == {9}
    assert not cells[:3].any()
    assert cells[3:].amax(dim=(1, 2)).tolist() == [1.0] * 6
    for stored, fresh in zip(maps, detector.extractor(good.images()).values(), strict=True):
        torch.testing.assert_close(stored[:3], fresh, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(stored[3:6], stored[:3])
    assert not torch.equal(cells[3:6], cells[6:])


def test_fit_trains_the_head_alone_and_repeats(tiny: Benchmark):
    good: AnomalyDataset = tiny.train.take(4)
    detector = PaintedDefects("cut_paste", copies=1, **SMALL)
    backbone = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    first = [weight.detach().clone() for weight in detector.network.parameters()]
    state = torch.random.get_rng_state()
    detector.fit(good)
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in detector.extractor.state_dict().items():
        assert torch.equal(value, backbone[name]), name
    assert all(not torch.equal(a, b) for a, b in zip(first, detector.network.parameters(), strict=True))
    again = PaintedDefects("cut_paste", copies=1, **SMALL).fit(good)
    assert torch.equal(again.history, detector.history)


def test_score_is_the_largest_value_of_the_smoothed_map(images: torch.Tensor, tiny: Benchmark):
    detector = PaintedDefects("confetti", copies=1, sigma=3.0, **SMALL).fit(tiny.train.take(4))
    found = detector.predict(images)
    expected = [gaussian_filter(m.double().numpy(), 3.0).max() for m in found.map]
    torch.testing.assert_close(found.score, torch.tensor(expected).float(), atol=1e-5, rtol=1e-4)
