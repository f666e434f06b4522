"""One picture at a time: the same scene with and without its defect, and the mask between the two."""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_closing, label

from ...errors import DataError
from .canvas import stream
from .layout import Task
from .product import Product, Spec
from .surface import Light, Surface, expose, shade

TOLERANCE = 8  # grey levels: a smaller change of every channel is not part of the defect
SPECK = 6  # pixels: smaller islands of change are not part of the defect
_CROSS = np.ones((3, 3), dtype=bool)


@dataclass(frozen=True)
class Picture:
    """`image` (H, W, 3) uint8, `mask` (H, W) bool, `clean` the same scene without the defect."""

    image: np.ndarray
    mask: np.ndarray
    clean: np.ndarray


def photograph(surface: Surface, light: Light) -> np.ndarray:
    """The picture of `surface`, (H, W, 3) uint8."""
    return expose(shade(surface, light), light)


def changed(image: np.ndarray, clean: np.ndarray, tolerance: int = TOLERANCE) -> np.ndarray:
    """Where two pictures (H, W, C) of one scene differ: a channel by more than `tolerance`; small gaps are
    closed, specks are left out."""
    difference = np.abs(image.astype(np.int16) - clean).max(axis=2) > tolerance
    closed = binary_closing(np.pad(difference, 2), _CROSS, iterations=2)[2:-2, 2:-2] | difference
    islands, _ = label(closed, structure=_CROSS)
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    keep = sizes >= min(SPECK, sizes.max(initial=1))
    return keep[islands] & (sizes[islands] > 0)


def picture(product: Product, task: Task, seed: int, difficulty: float) -> Picture:
    """Draw one picture; its randomness depends on `seed`, the product and the task alone.

    Outside the mask the image is byte for byte the clean one: changes below `TOLERANCE` are taken back.
    """
    if task.kind != "good" and task.kind not in product.kinds:
        raise DataError(f"{product.name} has no defect {task.kind!r}; choose from {', '.join(product.kinds)}")
    if not 0 < difficulty < float("inf"):
        raise DataError(f"difficulty must be a positive number, not {difficulty}; 1 is the default")
    keys = (seed, product.name, task.split, task.kind, task.index)
    spec = product.sample(stream(*keys, "specimen"))
    light = Light.sample(stream(*keys, "light"), shadows=product.shadows)
    faulty = None
    if task.kind != "good":
        faulty = product.kinds[task.kind](spec, stream(*keys, "defect"), 1 / difficulty)
    return compare(product, spec, faulty, light)


def compare(product: Product, spec: Spec, faulty: Spec | None, light: Light) -> Picture:
    """Draw `faulty` (None: nothing is wrong) beside its normal twin `spec` under the same light."""
    surface = product.surface(spec)
    clean = photograph(surface, light)
    if faulty is None:
        return Picture(clean, np.zeros(clean.shape[:2], dtype=bool), clean)
    image = photograph(product.surface(faulty), light)
    mask = changed(image, clean)
    return Picture(np.where(mask[..., None], image, clean), mask, clean)
