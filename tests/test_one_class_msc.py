"""Mean-shifted contrastive learning: losses written out, what the shift changes, views."""

import math

import pytest
import torch
import torch.nn.functional as F

from adlearn.data.base import Benchmark
from adlearn.methods.one_class import (
    MSC,
    angular_loss,
    contrastive_loss,
    random_blur,
    random_colours,
    random_crops,
    random_view,
)

SMALL = {"epochs": 2, "batch_size": 4}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_loops(first: torch.Tensor, second: torch.Tensor, centre: torch.Tensor, temperature: float) -> float:
    """Mean over all 2N views of -log(exp(own partner) / sum over all other views), seen from `centre`."""
    count = len(first)
    views = [(v - centre) / (v - centre).norm() for v in (*first, *second)]
    total = 0.0
    for i, view in enumerate(views):
        partner = views[i + count if i < count else i - count]
        others = sum(math.exp((view @ views[j]).item() / temperature) for j in range(2 * count) if j != i)
        total -= math.log(math.exp((view @ partner).item() / temperature) / others)
    return total / (2 * count)


@pytest.mark.parametrize("temperature", [0.25, 1.0])
def test_contrastive_loss_by_loops(temperature: float):
    first, second, centre = rows(5, 6), rows(5, 6, seed=1), rows(6, seed=2)
    found = contrastive_loss(first - centre, second - centre, temperature)
    assert found.item() == pytest.approx(by_loops(first, second, centre, temperature))


def test_contrastive_loss_sees_angles_only():
    first, second = rows(5, 6), rows(5, 6, seed=1)
    lengths = rows(5, 1, seed=3).abs() + 0.1
    torch.testing.assert_close(
        contrastive_loss(first * lengths, second / lengths), contrastive_loss(first, second)
    )


def test_one_image_has_nothing_to_differ_from():
    assert contrastive_loss(rows(1, 6), rows(1, 6, seed=1)).item() == pytest.approx(0.0)


def test_the_usual_loss_cannot_tell_images_of_a_cap_apart_and_the_shifted_one_can():
    centre = torch.eye(8, dtype=torch.float64)[0]
    points = F.normalize(centre + 0.05 * rows(16, 8), dim=1)
    guess = math.log(2 * 16 - 1)
    usual, shifted = (contrastive_loss(points - origin, points - origin) for origin in (0 * centre, centre))
    assert usual > 0.95 * guess and shifted < 0.5 * guess


def test_the_usual_loss_drives_a_cap_away_from_its_centre():
    centre = torch.eye(8, dtype=torch.float64)[0]
    points = F.normalize(centre + 0.1 * rows(16, 8), dim=1).requires_grad_()
    contrastive_loss(points, points).backward()
    assert (-points.grad @ centre).mean() < 0


def test_angular_loss_is_two_minus_two_cosines():
    points, centre = (F.normalize(v, dim=-1) for v in (rows(5, 6), rows(6, seed=1)))
    torch.testing.assert_close(angular_loss(points, centre), 2 - 2 * (points @ centre).mean())


def test_loss_of_the_detector_is_the_sum_of_its_parts(tiny: Benchmark):
    images, detector = tiny.train.images()[:4], MSC()
    with torch.no_grad():
        detector.prepare(tiny.train.images())
        torch.manual_seed(5)
        views = [detector.embed(detector.stem(random_view(images))).double() for _ in range(2)]
        centre = detector.centre.double()
        torch.manual_seed(5)
        found = detector.loss(images)
    expected = by_loops(*views, centre, 0.25) + sum((v - centre).square().sum(1).mean().item() for v in views)
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_usual_and_shifted_loss_differ_in_the_origin_only(tiny: Benchmark):
    images, found = tiny.train.images()[:4], {}
    for shifted in (False, True):
        detector = MSC(shifted=shifted, angular=False)
        with torch.no_grad():
            detector.prepare(tiny.train.images())
            torch.manual_seed(5)
            views = [detector.embed(detector.stem(random_view(images))).double() for _ in range(2)]
            torch.manual_seed(5)
            found[shifted] = detector.loss(images).item()
            origin = detector.centre.double() * shifted
        assert found[shifted] == pytest.approx(by_loops(*views, origin, 0.25), rel=1e-4)


def test_embeddings_and_centre_have_length_one(tiny: Benchmark):
    detector = MSC(**SMALL).fit(tiny.train)
    torch.testing.assert_close(detector.memory.norm(dim=2), torch.ones(detector.memory.shape[:2]))
    torch.testing.assert_close(detector.centre.norm(), torch.tensor(1.0))


def test_the_score_is_the_cosine_distance_to_two_neighbours(tiny: Benchmark):
    detector, images = MSC(**SMALL).fit(tiny.train), tiny.test.images()
    with torch.no_grad():
        points = detector.embed(detector.stem(images))
    cosine = (points @ detector.memory[0].T).topk(2, dim=1).values
    expected = (1 - cosine).sum(dim=1) / detector.usual[0]
    torch.testing.assert_close(detector.predict(images).score, expected, rtol=1e-3, atol=1e-3)


def test_the_centre_stays_where_it_was_before_training(tiny: Benchmark):
    before = MSC()
    with torch.no_grad():
        before.prepare(tiny.train.images())
    torch.testing.assert_close(MSC(learning_rate=1e-3, **SMALL).fit(tiny.train).centre, before.centre)


def test_only_the_tail_is_trained(tiny: Benchmark):
    detector = MSC()
    images = tiny.train.images()[:4]
    with torch.no_grad():
        detector.prepare(images)
    detector.loss(images).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_crops_of_everything_without_mirror_are_the_image():
    images = torch.rand(3, 3, 16, 16)
    torch.manual_seed(0)
    found = random_crops(images, smallest=1.0, flip=False)
    assert found.shape == images.shape
    # A full area with other proportions than 1:1 is cut at the border in one direction.
    assert (found - images).abs().mean() < (found - images.flip(3)).abs().mean()


def test_mirrored_crops_are_mirrored():
    ramp = torch.linspace(0, 1, 32).expand(64, 3, 32, 32)
    kept, some = random_crops(ramp, flip=False), random_crops(ramp, flip=True)
    assert (kept[..., -1] > kept[..., 0]).all()
    assert 0.2 < (some[:, 0, 0, -1] > some[:, 0, 0, 0]).float().mean() < 0.8


def test_views_stay_in_range_and_flat_images_stay_flat():
    flat = torch.full((8, 3, 16, 16), 0.5)
    blurred = random_blur(flat)
    torch.testing.assert_close(blurred, flat)
    torch.testing.assert_close(random_crops(flat), flat)
    views = random_view(torch.rand(8, 3, 16, 16))
    assert views.shape == (8, 3, 16, 16) and views.min() >= 0 and views.max() <= 1 + 1e-5
    coloured = random_colours(flat)
    torch.testing.assert_close(coloured, coloured.mean(dim=(2, 3), keepdim=True).expand_as(coloured))


def test_grey_images_stay_grey_when_colours_change():
    grey = torch.rand(8, 1, 16, 16).expand(8, 3, 16, 16)
    found = random_colours(grey)
    torch.testing.assert_close(found, found.mean(dim=1, keepdim=True).expand_as(found), atol=5e-3, rtol=0)
