"""Colour and height together: two products under a dome light and a depth sensor, in MVTec 3D-AD layout.

A dome lights from all sides, so a shallow dent casts no shade: it is in the points only. A stain is in the
colour only. Points are (x, y, z) in millimetres, 0.1 mm per pixel, z growing towards the sensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import tifffile

from ...errors import DataError
from .canvas import SIZE, Array, X, Y, stream
from .defects import Dent, sized, somewhere
from .layout import Order, Task, save_png
from .objects import FLANGE, Flange, flange_chipped, flange_stained, on_face
from .pictures import changed, photograph
from .product import Edit, Product
from .surface import Light
from .textures import STEEL, Sheet, steel_oil, steel_spatter

MM_PER_PIXEL = 0.1
Z_NOISE = 0.004  # mm, deviation of the sensor
Z_STEP = 0.002  # mm, its resolution
Z_TOLERANCE = 0.03  # mm: a smaller change of height is not part of the defect
_COUNTS = {("train", "good"): 40, ("validation", "good"): 10, ("test", "good"): 15}
_PER_KIND = 8


def _sheet_dent(spec: Sheet, rng: np.random.Generator, ease: float) -> Sheet:
    depth = sized(ease, rng.uniform(1.2, 2.2)) * (1 if rng.random() < 0.7 else -1)
    return spec.marked(
        Dent(somewhere(rng, 50), rng.uniform(18, 30), depth, rng.uniform(1, 1.5), rng.uniform(0, 3))
    )


def _flange_dent(spec: Flange, rng: np.random.Generator, ease: float) -> Flange:
    depth = sized(ease, rng.uniform(1.0, 1.8)) * (1 if rng.random() < 0.7 else -1)
    return spec.marked(Dent(on_face(spec, rng), rng.uniform(13, 20), depth))


DEPTH_KINDS: Mapping[str, tuple[Product, Mapping[str, Edit]]] = {
    "steel": (STEEL, {"dent": _sheet_dent, "oil": steel_oil, "spatter": steel_spatter}),
    "flange": (FLANGE, {"dent": _flange_dent, "stain": flange_stained, "chipped_rim": flange_chipped}),
}


@dataclass(frozen=True)
class DepthPicture:
    """`image` (H, W, 3) uint8, `points` (H, W, 3) float32 in mm, `mask` (H, W) bool, and the clean twins."""

    image: np.ndarray
    points: Array
    mask: np.ndarray
    clean_image: np.ndarray
    clean_points: Array


def depth_picture(product: str, task: Task, seed: int, difficulty: float) -> DepthPicture:
    """Draw one picture with its points. The mask is where colour or height changed by the defect; outside it
    both are those of the clean twin."""
    if product not in DEPTH_KINDS:
        raise DataError(f"no depth for {product!r}: choose one of {', '.join(DEPTH_KINDS)}")
    made, kinds = DEPTH_KINDS[product]
    keys = (seed, "depth", product, task.split, task.kind, task.index)
    spec = made.sample(stream(*keys, "specimen"))
    light = replace(Light.sample(stream(*keys, "light"), shadows=False), dome=True)
    surface = made.surface(spec)
    image, points = photograph(surface, light), _measured(surface.height, light.seed)
    if task.kind == "good":
        return DepthPicture(image, points, np.zeros((SIZE, SIZE), dtype=bool), image, points)
    if task.kind not in kinds:
        raise DataError(f"{product} with depth has no defect {task.kind!r}: choose from {', '.join(kinds)}")
    faulty = made.surface(kinds[task.kind](spec, stream(*keys, "defect"), 1 / difficulty))
    new_image, new_points = photograph(faulty, light), _measured(faulty.height, light.seed)
    mask = changed(new_image, image) | (np.abs(new_points - points)[..., 2] > Z_TOLERANCE)
    inside = mask[..., None]
    return DepthPicture(
        np.where(inside, new_image, image), np.where(inside, new_points, points), mask, image, points
    )


def _measured(height: Array, seed: int) -> Array:
    """What the sensor returns for a height in pixels: noise, and steps of its resolution."""
    noise = np.random.default_rng((seed, 1)).standard_normal((SIZE, SIZE), dtype=np.float32)
    z = np.round((height * MM_PER_PIXEL + Z_NOISE * noise) / Z_STEP) * Z_STEP
    return np.stack([X * MM_PER_PIXEL, Y * MM_PER_PIXEL, 10 + z], axis=-1).astype(np.float32)


def depth_order(folder: Path, product: str, seed: int, difficulty: float, version: int) -> Order:
    """How to draw one product with depth: train 40, validation 10, test 15 good and 3 kinds of 8."""
    tasks = [Task(split, kind, i) for (split, kind), count in _COUNTS.items() for i in range(count)]
    tasks += [Task("test", kind, i) for kind in DEPTH_KINDS[product][1] for i in range(_PER_KIND)]
    manifest = {"version": version, "product": product, "depth": True, "seed": seed, "difficulty": difficulty}
    write = partial(_write, product=product, seed=seed, difficulty=difficulty)
    return Order(folder / product, tasks, write, manifest)


def _write(folder: Path, task: Task, product: str, seed: int, difficulty: float) -> None:
    drawn, stem = depth_picture(product, task, seed, difficulty), f"{task.index:03d}"
    place = folder / task.split / task.kind
    save_png(place / "rgb" / f"{stem}.png", drawn.image)
    (place / "xyz").mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(place / "xyz" / f"{stem}.tiff", drawn.points, photometric="minisblack", metadata=None)
    if task.split == "test":
        save_png(place / "gt" / f"{stem}.png", drawn.mask)
