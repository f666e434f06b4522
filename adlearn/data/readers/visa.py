"""VisA (Zou et al., ECCV 2022): 12 objects, split by a table that comes with the images."""

import csv
from pathlib import Path

from ...errors import DataError
from ..base import Benchmark, Sample, Size
from .common import assemble, first_mask, folder_in, hold_out, known

VISA = (
    "candle", "capsules", "cashew", "chewinggum", "fryum", "macaroni1", "macaroni2", "pcb1", "pcb2", "pcb3",
    "pcb4", "pipe_fryum",
)  # fmt: skip
_COLUMNS = ("object", "split", "label", "image", "mask")


def visa(root: Path, category: str, size: Size = 224) -> Benchmark:
    """VisA as published, with the authors' one-class split `split_csv/1cls.csv`.

    15 % of its training images are held out for validation. Raises `DataError` if the table is missing or
    names a file that is missing or lies outside `root`.
    """
    root = folder_in(root)
    rows = _rows(root, known(category, VISA, "VisA"))
    train, validation = hold_out(
        [_sample(root, r) for r in rows if (r["split"], r["label"]) == ("train", "normal")]
    )
    test = sorted((_sample(root, r) for r in rows if r["split"] == "test"), key=lambda s: (s.label, s.path))
    return assemble(f"visa/{category}", train, validation, test, size, has_masks=True)


def _rows(root: Path, category: str) -> list[dict[str, str]]:
    path = root / "split_csv" / "1cls.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is missing: it is the split of VisA and part of its archive, unpack it again "
            "(a copy converted to MVTec layout is read as folder:<path>)"
        )
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        if not set(_COLUMNS) <= set(reader.fieldnames or ()):
            raise DataError(f"{path} has columns {reader.fieldnames}, not {_COLUMNS}: unpack VisA again")
        rows = [row for row in reader if row["object"] == category]
    if not any((row["split"], row["label"]) == ("train", "normal") for row in rows):
        raise DataError(f"{path} lists no normal training images of {category}: unpack VisA again")
    return rows


def _sample(root: Path, row: dict[str, str]) -> Sample:
    image = _inside(root, row["image"])
    if not image.is_file():
        raise DataError(f"{image}, listed in split_csv/1cls.csv, is missing: unpack VisA again")
    if row["label"] == "normal":
        return Sample(image, 0)
    return Sample(image, 1, "anomaly", first_mask(image, [_inside(root, row["mask"])]))


def _inside(root: Path, relative: str) -> Path:
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"split_csv/1cls.csv names {relative}, outside {root}: use the original table")
    return path
