"""`factory`: drawn products in MVTec-AD layout, seeded, with exact masks, several kinds of defect each.

Textures: woven fabric, oak veneer, brushed steel. Objects: a bolt at any angle, a flange, a chip on a board.
Besides: a kit whose normal state is a rule (`kit_benchmark`), two products with depth (`depth_benchmark`) and
two in a sequence that drifts (`drift_benchmark`). Everything is drawn on first use.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ... import paths
from ...errors import DataError
from ..base import AnomalyDataset, Benchmark, Sample, Size
from ..readers import SaturationRule, mvtec_folder
from ..readers.common import assemble, images_in, labelled, normal
from .depth import DEPTH_KINDS, depth_order
from .drift import DRIFT_PRODUCTS, SEQUENCE, drift_order, read_sequence
from .kit import defects_config, kit_order
from .layout import Order, Task, fulfil, save_png
from .objects import BOLT, CHIP, FLANGE
from .pictures import TOLERANCE, picture
from .product import Product
from .textures import FABRIC, STEEL, WOOD

__all__ = [
    "DEPTH_PRODUCTS",
    "DRIFT_PRODUCTS",
    "PRODUCTS",
    "SEQUENCE",
    "TOLERANCE",
    "Counts",
    "benchmark",
    "depth_benchmark",
    "draw",
    "draw_everything",
    "drift_benchmark",
    "kit_benchmark",
    "kit_saturation",
    "render",
]

_CATALOGUE = {product.name: product for product in (FABRIC, WOOD, STEEL, BOLT, FLANGE, CHIP)}
PRODUCTS: tuple[str, ...] = tuple(_CATALOGUE)
DEPTH_PRODUCTS: tuple[str, ...] = tuple(DEPTH_KINDS)
VERSION = 1  # raise when the same request would give other pictures


@dataclass(frozen=True)
class Counts:
    """How many pictures: of each split of normal ones, and of each kind of defect."""

    train: int = 80
    validation: int = 20
    test: int = 30
    kind: int = 10


def render(
    product: str, kind: str = "good", index: int = 0, seed: int = 0, difficulty: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture without touching the disk: image (H, W, 3) uint8 and mask (H, W) bool.

    It is the picture `test/<kind>/<index>.png` of the dataset drawn with the same seed and difficulty.
    """
    drawn = picture(_product(product), Task("test", kind, index), seed, difficulty)
    return drawn.image, drawn.mask


def draw(
    folder: Path | None = None,
    seed: int = 0,
    difficulty: float = 1.0,
    products: Sequence[str] = PRODUCTS,
    counts: Counts = Counts(),
    workers: int | None = None,
) -> Path:
    """Draw the products that are not yet in `folder` (default: `factory` in the data folder); returns it.

    `difficulty` scales how large and strong defects are: 0.5 is easier, 2 harder; normal pictures stay the
    same. A product drawn with another seed, difficulty or number of pictures is drawn again. Raises
    `DataError` for an unknown product or a difficulty that is not positive, `StorageError` if the folder
    cannot be written.
    """
    place = _place(folder, "factory")
    fulfil([_order(place, name, seed, difficulty, counts) for name in products], workers)
    return place


def draw_everything(seed: int = 0, difficulty: float = 1.0, workers: int | None = None) -> None:
    """Draw all products, the kit, the pictures with depth and the drift sequences into the data folder."""
    factory = _place(None, "factory")
    orders = [_order(factory, name, seed, difficulty, Counts()) for name in PRODUCTS]
    orders.append(kit_order(factory, seed, difficulty, VERSION))
    for name in DEPTH_PRODUCTS:
        orders.append(depth_order(_place(None, "factory_3d"), name, seed, difficulty, VERSION))
    for name in DRIFT_PRODUCTS:
        orders.append(drift_order(_place(None, "factory_drift"), name, seed, difficulty, VERSION))
    fulfil(orders, workers)


def benchmark(
    product: str, size: Size = 224, folder: Path | None = None, seed: int = 0, difficulty: float = 1.0
) -> Benchmark:
    """One product (or "kit") as a benchmark; drawn on first use."""
    if product == "kit":
        return kit_benchmark(size, folder, seed, difficulty)
    _product(product)
    return mvtec_folder(draw(folder, seed, difficulty, (product,)), product, size, f"factory/{product}")


def kit_benchmark(
    size: Size = 224, folder: Path | None = None, seed: int = 0, difficulty: float = 1.0
) -> Benchmark:
    """The logical kit, as MVTec LOCO: `test` holds both kinds of anomaly, `extra["logical"]` and
    `extra["structural"]` one each, with the normal test images. Every defect has a mask file of its own,
    whose pixel value keys `kit_saturation`. Drawn on first use."""
    order = kit_order(_place(folder, "factory"), seed, difficulty, VERSION)
    fulfil([order])
    truth = order.folder / "ground_truth"

    def anomalous(kind: str) -> list[Sample]:
        images = images_in(order.folder / "test" / kind)
        return labelled(images, kind, lambda image: tuple(images_in(truth / kind / image.stem)))

    good, logical = _good(order.folder, "test"), anomalous("logical_anomalies")
    structural = anomalous("structural_anomalies")
    return assemble(
        "factory/kit",
        _good(order.folder, "train"),
        _good(order.folder, "validation"),
        good + logical + structural,
        size,
        has_masks=True,
        logical=good + logical,
        structural=good + structural,
    )


def kit_saturation() -> dict[int, SaturationRule]:
    """When a defect of the kit counts as found, by the pixel value of its mask (as `loco_saturation`)."""
    return {
        int(entry["pixel_value"]): SaturationRule(
            float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
        )
        for entry in defects_config()
    }


def depth_benchmark(
    product: str, size: Size = 224, folder: Path | None = None, seed: int = 0, difficulty: float = 1.0
) -> Benchmark:
    """One product with depth, in MVTec 3D-AD layout: samples are the colour images, `readers.xyz_path` gives
    the points (mm) of each. Some kinds of defect are in the colour only, some in the points only. Drawn on
    first use."""
    if product not in DEPTH_PRODUCTS:
        raise DataError(f"no depth for {product!r}: choose one of {', '.join(DEPTH_PRODUCTS)}")
    order = depth_order(_place(folder, "factory_3d"), product, seed, difficulty, VERSION)
    fulfil([order])
    test = _good(order.folder, "test", "rgb")
    for kind in sorted(DEPTH_KINDS[product][1]):
        masks = order.folder / "test" / kind / "gt"
        test += labelled(images_in(masks.with_name("rgb")), kind, lambda image, m=masks: (m / image.name,))
    train, validation = _good(order.folder, "train", "rgb"), _good(order.folder, "validation", "rgb")
    return assemble(f"factory_3d/{product}", train, validation, test, size, has_masks=True)


def drift_benchmark(
    product: str, size: Size = 224, folder: Path | None = None, seed: int = 0, difficulty: float = 1.0
) -> Benchmark:
    """A sequence in the order of time: `test[i]` is step i, drifting in lighting, camera and wear, one in
    four defective; `drift.csv` beside it gives the levels. Train and validation are the product's own,
    before any drift. Drawn on first use."""
    if product not in DRIFT_PRODUCTS:
        raise DataError(f"no drift sequence for {product!r}: choose one of {', '.join(DRIFT_PRODUCTS)}")
    order = drift_order(_place(folder, "factory_drift"), product, seed, difficulty, VERSION)
    fulfil([order])
    start = benchmark(product, size, folder and Path(folder) / "before", seed, difficulty)
    name = f"factory_drift/{product}"
    test = AnomalyDataset(f"{name}/test", read_sequence(order.folder), size, has_masks=True)
    return Benchmark(name, start.train, start.validation, test)


def _product(name: str) -> Product:
    if name not in _CATALOGUE:
        raise DataError(f"the factory does not make {name!r}: choose one of {', '.join(PRODUCTS)}, kit")
    return _CATALOGUE[name]


def _place(folder: Path | None, default: str) -> Path:
    return Path(folder) if folder is not None else paths.data_dir() / default


def _good(folder: Path, split: str, inner: str = "") -> list[Sample]:
    return normal(images_in(folder / split / "good" / inner))


def _order(folder: Path, name: str, seed: int, difficulty: float, counts: Counts) -> Order:
    product = _product(name)
    if not 0 < difficulty < float("inf"):
        raise DataError(f"difficulty must be a positive number, not {difficulty}; 1 is the default")
    sizes = {"train": counts.train, "validation": counts.validation, "test": counts.test}
    tasks = [Task(split, "good", i) for split, count in sizes.items() for i in range(count)]
    tasks += [Task("test", kind, i) for kind in product.kinds for i in range(counts.kind)]
    manifest = {
        "version": VERSION,
        "product": name,
        "seed": seed,
        "difficulty": difficulty,
        "counts": vars(counts),
    }
    write = partial(_write, name=name, seed=seed, difficulty=difficulty)
    return Order(folder / name, tasks, write, manifest)


def _write(folder: Path, task: Task, name: str, seed: int, difficulty: float) -> None:
    drawn = picture(_CATALOGUE[name], task, seed, difficulty)
    save_png(folder / task.split / task.kind / f"{task.index:03d}.png", drawn.image)
    if task.kind != "good":
        save_png(folder / "ground_truth" / task.kind / f"{task.index:03d}_mask.png", drawn.mask)
