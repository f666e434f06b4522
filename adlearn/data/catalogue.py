"""Datasets by name: `load` one, or list which are `available`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .. import paths
from ..errors import DataError
from ..runtime import dry_run
from . import readers
from .base import AnomalyDataset, Benchmark, Size
from .elpv import CELL_TYPES, elpv, package_data
from .readers.common import known


@dataclass(frozen=True)
class Published:
    """A dataset the reader fetches: its categories (none if it is one), its reader, what its folder holds."""

    read: Callable[..., Benchmark]
    categories: tuple[str, ...]
    holds: str


PUBLISHED = {
    "mvtec_ad": Published(
        readers.mvtec_ad, readers.MVTEC_AD, "a folder per category with train, test and ground_truth"
    ),
    "mvtec_loco": Published(
        readers.mvtec_loco,
        readers.MVTEC_LOCO,
        "a folder per category with train, validation, test, ground_truth and defects_config.json",
    ),
    "mvtec_3d": Published(
        readers.mvtec_3d, readers.MVTEC_3D, "a folder per category with train, validation and test"
    ),
    "visa": Published(readers.visa, readers.VISA, "a folder per category and split_csv/1cls.csv"),
    "btad": Published(readers.btad, readers.BTAD, "01, 02 and 03, each with train, test and ground_truth"),
    "mpdd": Published(readers.mpdd, readers.MPDD, "a folder per category with train, test and ground_truth"),
    "magnetic_tile": Published(readers.magnetic_tile, (), "MT_Free, MT_Blowhole, MT_Break and the others"),
    "ksdd2": Published(readers.ksdd2, (), "train and test"),
}


@dataclass(frozen=True)
class Availability:
    """One line of what `adlearn data` shows; `where` is the folder used or looked in."""

    name: str
    present: bool
    where: Path
    categories: tuple[str, ...]


def load(name: str, size: Size = 224) -> Benchmark:
    """Read a benchmark by name.

    `elpv/<mono|poly>`, `factory/<product>`, `implanted/<mono|poly>`, a published dataset such as
    `mvtec_ad/bottle` or `magnetic_tile` in the data folder, or `folder:/path/to/category` in MVTec layout.
    In a dry run every split is cut to a few images. Raises `DataError` for an unknown name (with the choices)
    or a dataset that is not there (with the folder looked in).
    """
    benchmark = _read(name, size)
    return _few_images(benchmark) if dry_run() else benchmark


def available() -> list[Availability]:
    """Every dataset, whether its data are there, and where; missing ones are described in data/README.md."""
    drawn = paths.data_dir() / "factory"
    try:
        cells, installed = package_data(), True
    except DataError:
        cells, installed = Path("elpv_dataset"), False
    built_in = [
        Availability("elpv", installed, cells, CELL_TYPES),
        Availability("factory", True, drawn, _products()),
        Availability("implanted", installed, cells, CELL_TYPES),
    ]
    return built_in + [
        Availability(name, _filled(paths.data_dir() / name), paths.data_dir() / name, entry.categories)
        for name, entry in PUBLISHED.items()
    ]


def _read(name: str, size: Size) -> Benchmark:
    if name.startswith("folder:"):
        folder = Path(name.removeprefix("folder:")).expanduser().absolute()
        return readers.mvtec_folder(folder.parent, folder.name, size)
    dataset, _, category = name.partition("/")
    if dataset == "elpv":
        return elpv(category, size)
    if dataset == "factory":
        from . import factory  # drawing is imported when it is asked for

        return factory.benchmark(category, size)
    if dataset == "implanted":
        from . import implanted

        return implanted.benchmark(category, size)
    return _published(dataset, category, name, size)


def _published(dataset: str, category: str, name: str, size: Size) -> Benchmark:
    entry = PUBLISHED.get(dataset)
    if entry is None or (category and not entry.categories):
        raise DataError(f"no dataset is named {name!r}; choose one of: {', '.join(_names())}")
    if entry.categories:
        known(category, entry.categories, dataset)
    root = paths.data_dir() / dataset
    if not _filled(root):
        raise DataError(
            f"{name}: nothing in {root}, which should hold {entry.holds}. data/README.md says where to get "
            "it; put it there, or point ADLEARN_DATA to the folder that has it"
        )
    return entry.read(root, category, size) if category else entry.read(root, size)


def _names() -> list[str]:
    published = [f"{name}/<category>" if entry.categories else name for name, entry in PUBLISHED.items()]
    cells = "|".join(CELL_TYPES)
    return [
        f"elpv/{cells}",
        "factory/<product>",
        f"implanted/{cells}",
        *published,
        "folder:/path/to/category",
    ]


def _products() -> tuple[str, ...]:
    from . import factory

    return tuple(factory.PRODUCTS)


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _few_images(benchmark: Benchmark) -> Benchmark:
    """What a dry run reads: 32 train, 20 validation, and 8 of each label of the other splits."""
    return Benchmark(
        benchmark.name,
        benchmark.train.take(32),
        benchmark.validation.take(20),
        _few_of_each(benchmark.test),
        {name: _few_of_each(dataset) for name, dataset in benchmark.extra.items()},
    )


def _few_of_each(dataset: AnomalyDataset, count: int = 8) -> AnomalyDataset:
    normal = [i for i, sample in enumerate(dataset.samples) if not sample.label]
    anomalous = [i for i, sample in enumerate(dataset.samples) if sample.label]
    return dataset.select(normal[:count] + anomalous[:count])
