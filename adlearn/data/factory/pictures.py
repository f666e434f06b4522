"""One picture at a time: the same scene with and without its defect, and the mask between the two."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import binary_closing, find_objects, label

from ...errors import DataError
from .canvas import stream
from .layout import Task
from .product import Product, Spec
from .surface import Light, Surface, expose, shade

TOLERANCE = 8  # grey levels: a smaller change of every channel is not part of the defect
SPECK = 6  # pixels: smaller islands of change are not part of the defect
_SQUARE = np.ones((3, 3), dtype=bool)


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
    if not difference.any():
        return difference
    near = find_objects(difference.astype(np.uint8))[0]  # the rest of the picture is the same: skip it
    closed = binary_closing(np.pad(difference[near], 2), _SQUARE, iterations=2)[2:-2, 2:-2]
    islands, _ = label(closed | difference[near], structure=_SQUARE)
    sizes = np.bincount(islands.ravel())
    sizes[0] = 0
    mask = np.zeros_like(difference)
    mask[near] = (sizes >= min(SPECK, sizes.max()))[islands]
    return mask


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
    if replace(faulty, marks=spec.marks) == spec:  # the same specimen, more marks on it
        for mark in faulty.marks[len(spec.marks) :]:
            mark(surface)
    else:
        surface = product.surface(faulty)
    image = photograph(surface, light)
    mask = changed(image, clean)
    return Picture(np.where(mask[..., None], image, clean), mask, clean)
