"""What all readers do: list files in a stable order, hold out validation images, assemble a benchmark."""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from ...errors import DataError
from ..base import AnomalyDataset, Benchmark, Sample, Size

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
VALIDATION_SHARE = 0.15


def folder_in(parent: Path, *names: str) -> Path:
    """`parent`/names as a folder that exists; `DataError` otherwise."""
    folder = Path(parent, *names)
    if not folder.is_dir():
        raise DataError(f"{folder} is missing: check the path, or unpack the dataset again (data/README.md)")
    return folder


def images_in(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """The image files of a folder, sorted by name, hidden files left out. `DataError` if there are none."""
    names = sorted(p for p in folder_in(folder).iterdir() if not p.name.startswith("."))
    images = [p for p in names if p.suffix.lower() in suffixes]
    if not images:
        raise DataError(f"{folder} holds no images: put files there that end in {', '.join(suffixes)}")
    return images


def kinds_in(folder: Path) -> list[str]:
    """The names of the sub-folders of `folder`, sorted: one per kind of image."""
    return sorted(p.name for p in folder_in(folder).iterdir() if p.is_dir() and not p.name.startswith("."))


def known(category: str, categories: Sequence[str], dataset: str) -> str:
    """`category` if the dataset has it, else `DataError` with the choices."""
    if category not in categories:
        raise DataError(f"{dataset} has no category {category!r}: choose one of {', '.join(categories)}")
    return category


def first_mask(image: Path, candidates: Sequence[Path]) -> tuple[Path, ...]:
    """The first candidate that exists; `DataError` naming the expected path if none does."""
    for path in candidates:
        if path.is_file():
            return (path,)
    raise DataError(
        f"mask {candidates[0]} of {image} is missing: add it, or remove the whole ground_truth folder to "
        "work with image labels only"
    )


def name_hash(path: Path) -> bytes:
    """A number from the file's name: a random order that is the same on every machine and version."""
    return blake2b(path.name.encode(), digest_size=8).digest()


def shuffled(samples: Sequence[Sample]) -> list[Sample]:
    """The samples in the order of `name_hash`, so that the first ones are a fair choice of all."""
    return sorted(samples, key=lambda sample: name_hash(sample.path))


def hold_out(normals: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """Split normal images into train and validation where the dataset brings no validation split.

    Validation gets 15 % of them, at least one, chosen by `name_hash`. A single image serves as both.
    """
    order = shuffled(normals)
    if len(order) == 1:
        return order, order
    count = max(1, round(VALIDATION_SHARE * len(order)))
    return order[count:], order[:count]


def labelled(images: Sequence[Path], kind: str, masks_of: Callable[[Path], tuple[Path, ...]]) -> list[Sample]:
    """Anomalous samples of one kind, each with its mask files."""
    return [Sample(path, 1, kind, masks_of(path)) for path in images]


def normal(images: Sequence[Path]) -> list[Sample]:
    """Normal samples; they need no mask files."""
    return [Sample(path, 0) for path in images]


def assemble(
    name: str,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    test: Sequence[Sample],
    size: Size,
    has_masks: bool,
    **extra: Sequence[Sample],
) -> Benchmark:
    """Make the benchmark, after checking that its test split holds normal and anomalous images."""
    if {sample.label for sample in test} != {0, 1}:
        missing = "anomalous" if not any(sample.label for sample in test) else "normal"
        raise DataError(
            f"{name}: the test split has no {missing} images, so nothing can be measured; add some"
        )

    def dataset(split: str, samples: Sequence[Sample]) -> AnomalyDataset:
        return AnomalyDataset(f"{name}/{split}", samples, size, has_masks)

    others = {split: dataset(split, samples) for split, samples in extra.items() if samples}
    return Benchmark(
        name, dataset("train", train), dataset("validation", validation), dataset("test", test), others
    )
