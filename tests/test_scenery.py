import pytest
import torch

from adlearn.data.scenery import scenery
from adlearn.errors import DataError


def test_images_are_plausible_and_differ():
    images = scenery(6, 48)
    assert images.shape == (6, 3, 48, 48) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1
    flat = images.flatten(1)
    assert torch.cdist(flat, flat).fill_diagonal_(torch.inf).min() > 1


def test_the_seed_decides_and_the_count_does_not():
    images = scenery(4, 32, seed=3)
    assert torch.equal(images, scenery(4, 32, seed=3))
    assert torch.equal(images[:2], scenery(2, 32, seed=3))
    assert not torch.equal(images, scenery(4, 32, seed=4))


def test_drawn_images_have_structure_at_every_scale():
    """Power falls with frequency as in natural images (exponent near 2), unlike in white noise (0)."""
    drawn = scenery(40, 64)[1::2].mean(dim=1)
    power = torch.fft.fft2(drawn - drawn.mean(dim=(1, 2), keepdim=True)).abs().square().mean(dim=0)
    frequency = torch.hypot(torch.fft.fftfreq(64)[:, None], torch.fft.fftfreq(64))
    known = (frequency > 0.03) & (frequency < 0.4)
    x, y = frequency[known].log(), power[known].log()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    assert -3 < slope < -1


@pytest.mark.parametrize(("count", "size"), [(0, 32), (2, 0), (-1, 32)])
def test_impossible_requests_are_refused(count, size):
    with pytest.raises(DataError, match="positive"):
        scenery(count, size)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_small_sizes_work(size):
    assert torch.isfinite(scenery(4, size)).all()
