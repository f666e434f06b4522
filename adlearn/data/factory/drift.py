"""Drift: a production line over weeks. The lamp yellows and fades, the camera sags, tools leave more marks.

The three grow from 0 at the first step to 1 at the last; train and validation are the product's own.
"""

import csv
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ..base import Sample
from .canvas import SIZE, stream
from .defects import Scuffs, any_seed
from .layout import Order, Task, save_png
from .objects import FLANGE
from .pictures import Picture, compare
from .product import Product, Spec
from .surface import Light
from .textures import STEEL, Sheet

DRIFT_PRODUCTS = {"steel": STEEL, "flange": FLANGE}
STEPS = 100
SEQUENCE = "drift.csv"
COLUMNS = ("step", "file", "kind", "lighting", "shift", "wear", "label")
_DEFECT_SHARE = 0.25


@dataclass(frozen=True)
class Levels:
    """How far things have drifted, each in [0, 1]: the lamp, the camera, the tools."""

    lighting: float
    shift: float
    wear: float


def levels(step: int) -> Levels:
    """The lamp ages steadily; the camera sags from a third of the way; wear accelerates from half."""
    t = step / (STEPS - 1)
    return Levels(round(t, 4), round(max(0.0, 1.5 * t - 0.5), 4), round(max(0.0, 2 * t - 1) ** 2, 4))


def kind_at(product: Product, step: int, seed: int) -> str:
    """Which kind of picture a step shows: one in four, at random, is defective."""
    rng = stream(seed, "drift", product.name, step, "kind")
    kinds = tuple(product.kinds)
    return kinds[int(rng.integers(len(kinds)))] if rng.random() < _DEFECT_SHARE else "good"


def drift_picture(
    product: str, step: int, seed: int, difficulty: float, drift: Levels | None = None
) -> Picture:
    """Draw one step; `drift` overrides the levels of that step (`Levels(0, 0, 0)` shows it undrifted)."""
    if product not in DRIFT_PRODUCTS:
        raise DataError(f"no drift sequence for {product!r}: choose one of {', '.join(DRIFT_PRODUCTS)}")
    made, drift = DRIFT_PRODUCTS[product], drift or levels(step)
    kind = kind_at(made, step, seed)
    keys = (seed, "drift", product, step)
    spec = made.sample(stream(*keys, "specimen"))
    spec = _worn(_moved(spec, 14 * drift.shift), stream(*keys, "wear"), drift.wear)
    light = _aged(Light.sample(stream(*keys, "light"), shadows=made.shadows), drift)
    faulty = None if kind == "good" else made.kinds[kind](spec, stream(*keys, "defect"), 1 / difficulty)
    return compare(made, spec, faulty, light)


def _aged(light: Light, drift: Levels) -> Light:
    """A fading, yellowing lamp; a camera that also loses focus."""
    fade = np.array(light.tint) * np.array([1.0, 1 - 0.05 * drift.lighting, 1 - 0.22 * drift.lighting])
    slope = light.slope[0] - 0.22 * drift.lighting, light.slope[1]
    strength = light.strength * (1 - 0.35 * drift.lighting)
    blur = light.blur * (1 + 0.7 * drift.shift)
    return replace(light, tint=tuple(fade.tolist()), slope=slope, strength=strength, blur=blur)


def _moved(spec: Any, pixels: float) -> Any:
    """The camera sags: parts move down and right in the picture, a sheet's reflection moves along."""
    if isinstance(spec, Sheet):
        return replace(spec, band=spec.band + 4 * pixels, tilt=spec.tilt + 0.004 * pixels)
    return replace(spec, pose=replace(spec.pose, x=spec.pose.x + 0.6 * pixels, y=spec.pose.y + pixels))


def _worn(spec: Spec, rng: np.random.Generator, wear: float) -> Spec:
    """Worn rollers and grippers: more and more scuffs, all of them benign."""
    centres = rng.uniform(40, SIZE - 40, (6, 2)).tolist()
    count = round(6 * wear)
    marks = [Scuffs((x, y), 24, 6, 0.22, (228, 228, 230), any_seed(rng)) for x, y in centres]
    return spec.marked(*marks[:count])


def drift_order(folder: Path, product: str, seed: int, difficulty: float, version: int) -> Order:
    """How to draw one sequence: `test/<kind>/step_NNNN.png`, masks, and `drift.csv` in the order of time."""
    made = DRIFT_PRODUCTS[product]
    tasks = [Task("test", kind_at(made, step, seed), step) for step in range(STEPS)]
    manifest = {"version": version, "product": product, "drift": True, "seed": seed, "difficulty": difficulty}
    write = partial(_write, product=product, seed=seed, difficulty=difficulty)
    return Order(folder / product, tasks, write, manifest, partial(_write_table, tasks=tasks))


def read_sequence(folder: Path) -> list[Sample]:
    """The samples of a sequence in the order of time."""
    with open(folder / SEQUENCE, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [_sample(folder, Path(row["file"]), row["kind"]) for row in rows]


def _sample(folder: Path, file: Path, kind: str) -> Sample:
    if kind == "good":
        return Sample(folder / file, 0)
    return Sample(folder / file, 1, kind, (folder / "ground_truth" / kind / f"{file.stem}_mask.png",))


def _write(folder: Path, task: Task, product: str, seed: int, difficulty: float) -> None:
    drawn, stem = drift_picture(product, task.index, seed, difficulty), f"step_{task.index:04d}"
    save_png(folder / "test" / task.kind / f"{stem}.png", drawn.image)
    if task.kind != "good":
        save_png(folder / "ground_truth" / task.kind / f"{stem}_mask.png", drawn.mask)


def _write_table(folder: Path, tasks: list[Task]) -> None:
    with open(folder / SEQUENCE, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for task in tasks:
            at, path = levels(task.index), f"test/{task.kind}/step_{task.index:04d}.png"
            label = int(task.kind != "good")
            table.writerow([task.index, path, task.kind, at.lighting, at.shift, at.wear, label])
