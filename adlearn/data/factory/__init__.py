"""`factory`: drawn products in MVTec-AD layout, seeded, with exact masks, several kinds of defect each.

Textures: woven fabric, oak veneer, brushed steel. Objects: a bolt (at any angle), a flange, a chip on its board.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ... import paths
from ...errors import DataError
from ..base import Benchmark, Size
from ..readers import mvtec_folder
from .layout import Order, Task, fulfil, save_png
from .objects import BOLT, CHIP, FLANGE
from .product import Product
from .pictures import TOLERANCE, Picture, picture
from .textures import FABRIC, STEEL, WOOD

_CATALOGUE = {product.name: product for product in (FABRIC, WOOD, STEEL, BOLT, FLANGE, CHIP)}
PRODUCTS: tuple[str, ...] = tuple(_CATALOGUE)
VERSION = 1  # raise when the same request would give other pictures


@dataclass(frozen=True)
class Counts:
    """How many pictures: of each split of normal ones, and of each kind of defect."""

    train: int = 80
    validation: int = 20
    test: int = 30
    kind: int = 10


def known_product(name: str) -> Product:
    """The product called `name`; `DataError` with the choices otherwise."""
    if name not in _CATALOGUE:
        raise DataError(f"the factory does not make {name!r}: choose one of {', '.join(PRODUCTS)}")
    return _CATALOGUE[name]


def render(
    product: str, kind: str = "good", index: int = 0, seed: int = 0, difficulty: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture without touching the disk: image (H, W, 3) uint8 and mask (H, W) bool.

    It is the picture `test/<kind>/<index>.png` of the dataset drawn with the same seed and difficulty.
    """
    drawn = picture(known_product(product), Task("test", kind, index), seed, difficulty)
    return drawn.image, drawn.mask


def draw(
    folder: Path | None = None,
    seed: int = 0,
    difficulty: float = 1.0,
    products: Sequence[str] = PRODUCTS,
    counts: Counts = Counts(),  # noqa: B008
    workers: int | None = None,
) -> Path:
    """Draw the products that are not yet in `folder` (default: `factory` in the data folder); returns it.

    `difficulty` scales how large and strong defects are: 0.5 is easier, 2 harder, normal pictures stay the
    same. A product drawn with another seed, difficulty or number of pictures is drawn again. Raises
    `DataError` for an unknown product or a difficulty that is not positive, `StorageError` if the folder
    cannot be written.
    """
    folder = Path(folder) if folder is not None else paths.data_dir() / "factory"
    fulfil([_order(folder, name, seed, difficulty, counts) for name in products], workers)
    return folder


def benchmark(
    product: str, size: Size = 224, folder: Path | None = None, seed: int = 0, difficulty: float = 1.0
) -> Benchmark:
    """One product as a benchmark; drawn on first use."""
    known_product(product)
    return mvtec_folder(draw(folder, seed, difficulty, (product,)), product, size, f"factory/{product}")


def _order(folder: Path, name: str, seed: int, difficulty: float, counts: Counts) -> Order:
    product = known_product(name)
    sizes = {"train": counts.train, "validation": counts.validation, "test": counts.test}
    tasks = [Task(split, "good", i) for split, count in sizes.items() for i in range(count)]
    tasks += [Task("test", kind, i) for kind in product.kinds for i in range(counts.kind)]
    manifest = {"version": VERSION, "product": name, "seed": seed, "difficulty": difficulty, "counts": vars(counts)}
    write = partial(_write, name=name, seed=seed, difficulty=difficulty)
    return Order(folder / name, tasks, write, manifest)


def _write(folder: Path, task: Task, name: str, seed: int, difficulty: float) -> None:
    drawn = picture(_CATALOGUE[name], task, seed, difficulty)
    save_png(folder / task.split / task.kind / f"{task.index:03d}.png", drawn.image)
    if task.kind != "good":
        save_png(folder / "ground_truth" / task.kind / f"{task.index:03d}_mask.png", drawn.mask)
