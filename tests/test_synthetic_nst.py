"""Style transfer: Gram matrices against loops, the region alone changes and comes nearer to the style."""

import numpy as np
import pytest
import torch

from adlearn.data.base import Benchmark
from adlearn.methods.synthetic_anomalies import (
    NST,
    blob,
    gram,
    restyled,
    style_distance,
    style_features,
    style_transferred,
)

CPU = torch.device("cpu")
SMALL = {"steps": 2, "epochs": 2, "width": 4, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_gram_is_written_down_in_loops():
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = np.zeros((2, 3, 3))
    for image, i, j in np.ndindex(2, 3, 3):
        for place in np.ndindex(4, 5):
            expected[image, i, j] += features[image, i][place].item() * features[image, j][place].item() / 20
    torch.testing.assert_close(gram(features), torch.from_numpy(expected))


def test_gram_knows_no_places():
    features = torch.randn(2, 5, 4, 6, dtype=torch.float64)
    moved = features.flatten(2)[..., torch.randperm(24)].view_as(features)
    torch.testing.assert_close(gram(moved), gram(features))


def test_style_distance_is_relative_and_summed_over_layers():
    first, second = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    expected = [(((a - b) ** 2).sum() / (b**2).sum()).item() for a, b in zip(first, second, strict=True)]
    found = style_distance({"a": first, "b": second}, {"a": second, "b": second})
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(style_distance({"a": 0 * first}, {"a": second}), torch.ones(3).double())


def test_a_blob_lies_inside_a_disc():
    masks = torch.stack([blob(32, CPU) for _ in range(10)])
    assert masks.any(dim=(1, 2)).all() and masks.float().mean() < 0.4
    assert not masks[:, [0, -1]].any() and not masks[..., [0, -1]].any()


def distance_to(images: torch.Tensor, styles: torch.Tensor) -> torch.Tensor:
    grams = [{n: gram(m) for n, m in style_features(CPU)(x).items()} for x in (images, styles)]
    return style_distance(*grams)


def test_steps_lead_towards_the_style():
    squares, styles = torch.rand(3, 3, 32, 32) * 0.1 + 0.4, torch.rand(3, 3, 32, 32)
    blobs = torch.ones(3, 32, 32, dtype=torch.bool)
    found = restyled(squares, blobs, styles, steps=10, rate=0.06)
    assert (distance_to(found, styles) < 0.7 * distance_to(squares, styles)).all()


def test_only_the_region_changes():
    squares, styles = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    blobs = torch.stack([blob(32, CPU) for _ in range(2)])
    found = restyled(squares, blobs, styles, steps=3, rate=0.1)
    assert torch.equal(found.movedim(1, 3)[~blobs], squares.movedim(1, 3)[~blobs])
    assert (found != squares).any(dim=1)[blobs].float().mean() > 0.9
    assert found.min() >= 0 and found.max() <= 1 and not found.requires_grad


def test_each_square_is_restyled_on_its_own():
    squares, styles = torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)
    blobs = torch.stack([blob(32, CPU) for _ in range(3)])
    together = restyled(squares, blobs, styles, 2, 0.05)
    torch.testing.assert_close(together[1:2], restyled(squares[1:2], blobs[1:2], styles[1:2], 2, 0.05))


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 3, 48, 80)])
def test_masks_are_what_changed(shape: tuple):
    images = torch.rand(shape)
    before = images.clone()
    changed, masks = style_transferred(images, steps=2)
    assert torch.equal(images, before)
    assert torch.equal(masks, (changed != images).any(dim=1)) and masks.any(dim=(1, 2)).all()
    assert changed.min() >= 0 and changed.max() <= 1 and masks.float().mean() < 0.25


def test_given_styles_of_another_size():
    images = torch.full((2, 3, 64, 64), 0.5)
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 20, 30)
    changed, masks = style_transferred(images, red, steps=8)
    inside = changed.movedim(1, 3)[masks].mean(dim=0)
    assert inside[0] > inside[1] and inside[0] > inside[2]


def test_the_backbone_stays_as_it_is():
    before = style_features(CPU).fingerprint()
    style_transferred(torch.rand(1, 3, 64, 64), steps=2)
    assert style_features(CPU).fingerprint() == before
    assert all(p.grad is None for p in style_features(CPU).parameters())


def test_it_works_without_gradients_around():
    with torch.no_grad():
        assert style_transferred(torch.rand(1, 3, 64, 64), steps=2)[1].any()


def test_the_loss_sees_good_and_painted_images(monkeypatch: pytest.MonkeyPatch):
    detector, seen = NST(**SMALL), []
    images, changed = torch.zeros(16, 3, 32, 32), torch.ones(16, 1, 3, 32, 32)
    masks = torch.ones(16, 1, 32, 32, dtype=torch.bool)
    detector.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].mean(dim=(1, 2, 3))))
    assert torch.isfinite(detector.loss(images, changed, masks))
    assert set(seen[0].tolist()) == {0.0, 1.0}


def test_gradients_reach_the_network_and_nothing_else(tiny: Benchmark):
    detector = NST(**SMALL | {"width": 8})
    images = tiny.train.images()[:4]
    changed, masks = style_transferred(images, steps=2)
    detector.network.train()
    detector.loss(images, changed[:, None], masks[:, None]).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.network.parameters())


def test_several_draws(tiny: Benchmark):
    detector = NST(**SMALL | {"draws": 2}).fit(tiny.train)
    found = detector.predict(tiny.test.images())
    torch.testing.assert_close(found.score, found.map.mean(dim=(1, 2)))
