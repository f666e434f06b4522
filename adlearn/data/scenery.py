"""Images of nothing in particular: a small stand-in for ImageNet where nothing may be downloaded.

Some methods need a network that knows more of the world than one product: a teacher to be distilled, or
images that are not the product, to be told apart from it. Half of the images are crops of the two photographs
that scikit-learn carries; half are drawn as dead leaves (Ruderman, 1997): shapes of all sizes and textures,
each covering what lies below it, which has the edges and the power spectrum of natural images.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_images

from ..errors import DataError

Array = np.ndarray
_LEAVES, _TEXTURES = 80, 48
_SMALLEST_CROP, _SMALLEST_LEAF = 0.15, 0.04


def scenery(count: int, size: int, seed: int = 0) -> torch.Tensor:
    """`count` images (count, 3, size, size) in [0, 1], photographs' crops and dead leaves by turns.

    The same arguments give the same images, and the first ones do not depend on `count`. Raises `DataError`
    unless both numbers are positive.
    """
    if count < 1 or size < 1:
        raise DataError(f"scenery needs a positive count and size, got {count} and {size}")
    draw = [photograph, dead_leaves]
    return torch.stack([draw[i % 2](size, np.random.default_rng([seed, i])) for i in range(count)])


def photograph(size: int, rng: np.random.Generator) -> torch.Tensor:
    """A random square of a photograph, turned, mirrored and in other colours: (3, size, size)."""
    photographs = _photographs()
    photo = photographs[rng.integers(len(photographs))]
    side = int(min(photo.shape[:2]) * rng.uniform(_SMALLEST_CROP, 1))
    top, left = (rng.integers(extent - side + 1) for extent in photo.shape[:2])
    crop = np.rot90(photo[top : top + side, left : left + side], rng.integers(4))
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return _resized(_recoloured(crop, rng), size)


def dead_leaves(size: int, rng: np.random.Generator) -> torch.Tensor:
    """Discs and boxes of all sizes, each in a texture of its own, one over the other: (3, size, size)."""
    image = _texture(size, (size, size), rng)
    for _ in range(_LEAVES):
        _lay_leaf(image, rng)
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32))


def _lay_leaf(image: Array, rng: np.random.Generator) -> None:
    """Draw a disc or a box, turned and stretched, over `image` (size, size, 3)."""
    size = len(image)
    # Radii fall off with the third power, so that the picture looks alike at every scale.
    radius = _SMALLEST_LEAF / np.sqrt(rng.uniform((2 * _SMALLEST_LEAF) ** 2, 1))
    reach, centre = radius * np.sqrt(2), rng.uniform(-0.1, 1.1, size=2)
    # Only pixels the leaf can reach are computed: most leaves are small.
    low, high = ((end * size).round().clip(0, size).astype(int) for end in (centre - reach, centre + reach))
    y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
    y, x = y / size - centre[0], x / size - centre[1]
    turn = rng.uniform(0, np.pi)
    u = np.abs(np.cos(turn) * x + np.sin(turn) * y)
    v = np.abs(np.cos(turn) * y - np.sin(turn) * x) / rng.uniform(0.3, 1)
    inside = (np.hypot(u, v) if rng.random() < 0.5 else np.maximum(u, v)) < radius
    below = image[low[0] : high[0], low[1] : high[1]]
    below[inside] = _texture(size, inside.shape, rng)[inside]


def _texture(size: int, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """A piece of `shape` of one of the stock of textures, in other colours: (*shape, 3)."""
    stock = _stock(size)
    texture = stock[rng.integers(len(stock))]
    top, left = (rng.integers(size - extent + 1) for extent in shape)
    return _recoloured(texture[top : top + shape[0], left : left + shape[1]], rng)


@cache
def _stock(size: int) -> tuple[Array, ...]:
    """Noise of several spectra, stripes, checks and plain areas, (size, size, 3) each."""
    rng = np.random.default_rng(0)
    kinds = [_noise, _noise, _stripes, _plain]
    return tuple(kinds[i % len(kinds)](size, rng) for i in range(_TEXTURES))


def _noise(size: int, rng: np.random.Generator) -> Array:
    """Noise whose amplitude falls with a random power of the frequency."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)) + 1 / size
    spectrum = np.fft.fft2(rng.normal(size=(size, size))) / frequency ** rng.uniform(0, 2)
    return _shaded(np.fft.ifft2(spectrum).real, rng)


def _stripes(size: int, rng: np.random.Generator) -> Array:
    """Waves along one direction, or crossed."""
    waves = rng.integers(-size // 8, size // 8, size=(2, 2)) * 2 * np.pi / size
    rows, columns = np.mgrid[0:size, 0:size]
    first, second = (np.sin(a * rows + b * columns) for a, b in waves)
    return _shaded(first if rng.random() < 0.5 else np.sign(first) * np.sign(second), rng)


def _plain(size: int, rng: np.random.Generator) -> Array:
    return np.full((size, size, 3), rng.uniform(size=3))


def _shaded(pattern: Array, rng: np.random.Generator) -> Array:
    """`pattern` (size, size) as a mixture of two random colours."""
    share = np.clip(0.5 + pattern / (4 * pattern.std() + 1e-9), 0, 1)[..., None]
    return share * rng.uniform(size=3) + (1 - share) * rng.uniform(size=3)


def _recoloured(image: Array, rng: np.random.Generator) -> Array:
    """Channels exchanged, contrast and brightness changed, a third of the images made grey."""
    changed = image[..., rng.permutation(3)]
    if rng.random() < 0.3:
        changed = np.repeat(changed.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.clip((changed - 0.5) * rng.uniform(0.5, 1.3) + 0.5 + rng.uniform(-0.2, 0.2), 0, 1)


def _resized(image: Array, size: int) -> torch.Tensor:
    batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32))[None]
    return F.interpolate(batch, size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


@cache
def _photographs() -> tuple[Array, ...]:
    """Two photographs, (H, W, 3) in [0, 1]: a temple and a flower."""
    return tuple(photo / 255.0 for photo in load_sample_images().images)
