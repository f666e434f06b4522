"""KolektorSDD2 (Božič, Tabernik and Skočaj, Computers in Industry 2021): production-line surfaces."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..base import Benchmark, Sample, Size
from ..images import load_mask
from .common import assemble, first_mask, folder_in, hold_out, images_in


def ksdd2(root: Path, size: Size = 224) -> Benchmark:
    """KolektorSDD2: `train` and `test` with `NNNNN.png` and the mask `NNNNN_GT.png` beside it.

    An image is anomalous if its mask is not empty, so all masks are read once (seconds). 15 % of the normal
    training images are held out for validation; the defective training images are `extra["defective"]`.
    """
    train, test = (_samples(folder_in(root, split)) for split in ("train", "test"))
    normals, validation = hold_out([sample for sample in train if not sample.label])
    defective = [sample for sample in train if sample.label]
    test = sorted(test, key=lambda sample: sample.label)
    return assemble("ksdd2", normals, validation, test, size, has_masks=True, defective=defective)


def _samples(folder: Path) -> list[Sample]:
    images = [path for path in images_in(folder) if "_GT" not in path.stem]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_sample, images))


def _sample(image: Path) -> Sample:
    masks = first_mask(image, [image.with_name(f"{image.stem}_GT.png")])
    return Sample(image, 1, "defect", masks) if load_mask(masks, image).any() else Sample(image, 0)
