"""Folders laid out like MVTec AD, and the MVTec datasets that follow or vary that layout."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ...errors import DataError
from ..base import Benchmark, Sample, Size
from .common import (
    assemble,
    first_mask,
    folder_in,
    hold_out,
    images_in,
    kinds_in,
    known,
    labelled,
    normal,
    shuffled,
)

MVTEC_AD = (
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill", "screw",
    "tile", "toothbrush", "transistor", "wood", "zipper",
)  # fmt: skip
MVTEC_LOCO = ("breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors")
MVTEC_3D = (
    "bagel", "cable_gland", "carrot", "cookie", "dowel", "foam", "peach", "potato", "rope", "tire",
)  # fmt: skip
MPDD = ("bracket_black", "bracket_brown", "bracket_white", "connector", "metal_plate", "tubes")


@dataclass(frozen=True)
class SaturationRule:
    """How much of one defect must be found until its overlap counts as complete (sPRO of MVTec LOCO).

    `threshold` is a number of pixels, or a fraction of the defect's area if `relative`.
    """

    threshold: float
    relative: bool


def mvtec_folder(root: Path, category: str, size: Size = 224, name: str | None = None) -> Benchmark:
    """Read any folder in MVTec-AD layout; `DataError` names what is missing.

    `root/category` holds `train/good`, `test/good`, `test/<kind>` for each kind of defect, optionally
    `validation/good` (else 15 % of the training images are held out), and
    `ground_truth/<kind>/<stem>_mask.png` or `<stem>.png`. Without a `ground_truth` folder the benchmark has
    image labels only.
    """
    folder = folder_in(root, category)

    def masks_of(image: Path) -> tuple[Path, ...]:
        truth = folder / "ground_truth" / image.parent.name
        return first_mask(image, [truth / f"{image.stem}_mask.png", truth / f"{image.stem}.png"])

    has_masks = (folder / "ground_truth").is_dir()
    return _read(folder, name or f"{Path(root).name}/{category}", size, masks_of if has_masks else None)


def mvtec_ad(root: Path, category: str, size: Size = 224) -> Benchmark:
    """MVTec AD (Bergmann et al., CVPR 2019): 15 categories, masks."""
    known(category, MVTEC_AD, "MVTec AD")
    return mvtec_folder(root, category, size, f"mvtec_ad/{category}")


def mpdd(root: Path, category: str, size: Size = 224) -> Benchmark:
    """MPDD (Jezek et al., ICUMT 2021): 6 categories of metal parts, masks, MVTec-AD layout."""
    known(category, MPDD, "MPDD")
    return mvtec_folder(root, category, size, f"mpdd/{category}")


def mvtec_loco(root: Path, category: str, size: Size = 224) -> Benchmark:
    """MVTec LOCO (Bergmann et al., IJCV 2022): 5 categories, logical and structural anomalies.

    Its own validation split is used. Each defect of an image has a mask file of its own,
    `ground_truth/<kind>/<stem>/000.png` and so on; the value of its pixels keys `loco_saturation`.
    """
    folder = folder_in(root, known(category, MVTEC_LOCO, "MVTec LOCO"))

    def masks_of(image: Path) -> tuple[Path, ...]:
        return tuple(images_in(folder / "ground_truth" / image.parent.name / image.stem))

    return _read(folder, f"mvtec_loco/{category}", size, masks_of)


def loco_saturation(root: Path, category: str) -> dict[int, SaturationRule]:
    """The saturation rule for each mask pixel value, from the category's `defects_config.json`."""
    path = folder_in(root, known(category, MVTEC_LOCO, "MVTec LOCO")) / "defects_config.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {
            int(entry["pixel_value"]): SaturationRule(
                float(entry["saturation_threshold"]), bool(entry["relative_saturation"])
            )
            for entry in entries
        }
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: it comes with the dataset, unpack it again") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not the defects list of MVTec LOCO ({error}): unpack it again") from error


def mvtec_3d(root: Path, category: str, size: Size = 224) -> Benchmark:
    """MVTec 3D-AD (Bergmann et al., VISAPP 2022), its colour images; 10 categories, masks.

    `xyz_path` gives the point image that belongs to a sample; read it with `load_xyz`.
    """
    folder = folder_in(root, known(category, MVTEC_3D, "MVTec 3D-AD"))

    def masks_of(image: Path) -> tuple[Path, ...]:
        return first_mask(image, [image.parent.parent / "gt" / f"{image.stem}.png"])

    return _read(folder, f"mvtec_3d/{category}", size, masks_of, inner="rgb")


def xyz_path(sample: Sample) -> Path:
    """The point image beside an MVTec 3D-AD colour image."""
    return sample.path.parent.parent / "xyz" / f"{sample.path.stem}.tiff"


def _read(
    folder: Path,
    name: str,
    size: Size,
    masks_of: Callable[[Path], tuple[Path, ...]] | None,
    inner: str = "",
) -> Benchmark:
    """Walk `<split>/<kind>/<inner>`; `masks_of` None means that there are only image labels."""
    train = shuffled(normal(images_in(folder / "train" / "good" / inner)))
    if (folder / "validation").is_dir():
        validation = shuffled(normal(images_in(folder / "validation" / "good" / inner)))
    else:
        train, validation = hold_out(train)
    test = normal(images_in(folder / "test" / "good" / inner))
    for kind in kinds_in(folder / "test"):
        if kind != "good":
            images = images_in(folder / "test" / kind / inner)
            test += labelled(images, kind, masks_of or (lambda _: ()))
    return assemble(name, train, validation, test, size, masks_of is not None)
