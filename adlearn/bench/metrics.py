"""Metrics on 200 maps of 256 x 256: exact and sorted once, against the usual ways."""

import numpy as np
import scipy.ndimage
from sklearn.metrics import auc, roc_auc_score

from ..metrics import aupro, pixel_auroc
from . import Row, benchmark, seconds

_LIMIT = 0.3


def example_maps(count: int = 200, side: int = 256, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth float32 maps (N, H, W); every second one has masked blobs, which the maps partly find."""
    rng = np.random.default_rng(seed)
    maps = np.empty((count, side, side), np.float32)
    masks = np.zeros((count, side, side), bool)
    for index in range(count):
        maps[index] = _smooth_noise(rng, side, sigma=side / 40)
        if index % 2:
            masks[index] = _smooth_noise(rng, side, sigma=side / 20) > 2
    maps += 1.5 * scipy.ndimage.gaussian_filter(masks.astype(np.float32), sigma=(0, side / 60, side / 60))
    return maps, masks


def _smooth_noise(rng: np.random.Generator, side: int, sigma: float) -> np.ndarray:
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal((side, side), dtype=np.float32), sigma)
    return noise / noise.std()


def sorted_aupro(maps: np.ndarray, masks: np.ndarray) -> float:
    """AUPRO by sorting all pixels with their indices and accumulating what each adds."""
    gain, structure, regions = np.zeros(maps.shape), np.ones((3, 3)), 0
    for index, mask in enumerate(masks):
        labels, count = scipy.ndimage.label(mask, structure)
        regions += count
        for region in range(1, count + 1):
            gain[index][labels == region] = 1 / (labels == region).sum()
    order = np.argsort(-maps, axis=None)
    last = np.append(np.diff(maps.ravel()[order]) != 0, True)
    fpr = np.cumsum(~masks.ravel()[order])[last] / (~masks).sum()
    pro = np.cumsum(gain.ravel()[order])[last] / regions
    fpr, pro = np.append(0, fpr), np.append(0, pro)
    inside = fpr <= _LIMIT
    x, y = np.append(fpr[inside], _LIMIT), np.append(pro[inside], np.interp(_LIMIT, fpr, pro))
    return auc(x, y) / _LIMIT


@benchmark("metrics")
def metrics() -> list[Row]:
    """AUPRO and pixel AUROC; the notes give the difference of the two values."""
    maps, masks = example_maps()
    pairs = [
        ("AUPRO, 200 x 256 x 256", aupro, "argsort of all pixels", sorted_aupro),
        ("pixel AUROC, 200 x 256 x 256", pixel_auroc, "sklearn.metrics.roc_auc_score", _sklearn_pixel_auroc),
    ]
    return [
        Row(
            what,
            seconds(lambda run=ours: run(maps, masks)),
            name,
            seconds(lambda run=reference: run(maps, masks), repeats=1),
            note=f"differ by {abs(ours(maps, masks) - reference(maps, masks)):.0e}",
        )
        for what, ours, name, reference in pairs
    ]


def _sklearn_pixel_auroc(maps: np.ndarray, masks: np.ndarray) -> float:
    return roc_auc_score(masks.ravel(), maps.ravel())
