"""Magnetic Tile (Huang, Qiu and Yuan, The Visual Computer 2020): grey images of arc-shaped magnets."""

import re
from pathlib import Path

from ...errors import DataError
from ..base import Benchmark, Size
from .common import assemble, first_mask, folder_in, images_in, labelled, name_hash, normal, shuffled

MAGNETIC_TILE_KINDS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
VALIDATION, TEST = 100, 150
_SAME_TILE = 200


def magnetic_tile(root: Path, size: Size = 224) -> Benchmark:
    """Magnetic Tile, `MT_<Kind>/Imgs/NAME.jpg` with the mask `NAME.png` beside each image.

    The dataset has no split. Here 150 of the 952 free images and all 392 defective ones are the test split,
    100 free ones validation, 702 train. Each tile was photographed up to seven times under different
    exposures (`exp0` to `exp6`) with numbers close together, so the free images are split by tile: otherwise
    most test images would have a near-copy in train. Four images of MT_Uneven have an empty mask; they
    stay anomalous at image level.
    """
    free = _jpegs(folder_in(root, "MT_Free"))
    tiles = sorted(_tiles(free), key=lambda tile: name_hash(tile[0]))
    test_free, tiles = _fill(tiles, TEST)
    validation, tiles = _fill(tiles, VALIDATION)
    train = [path for tile in tiles for path in tile]
    if len(test_free) < TEST or len(validation) < VALIDATION or not train:
        raise DataError(f"{root} has {len(free)} images in MT_Free/Imgs, not 952: copy the dataset again")
    test = normal(sorted(test_free))
    for kind in MAGNETIC_TILE_KINDS:
        test += labelled(_jpegs(folder_in(root, f"MT_{kind}")), kind.lower(), _mask_beside)
    return assemble(
        "magnetic_tile", shuffled(normal(train)), shuffled(normal(validation)), test, size, has_masks=True
    )


def _jpegs(folder: Path) -> list[Path]:
    return images_in(folder / "Imgs", (".jpg",))  # the .png files beside them are the masks


def _mask_beside(image: Path) -> tuple[Path, ...]:
    return first_mask(image, [image.with_suffix(".png")])


def _number(path: Path) -> int:
    match = re.search(r"_num_(\d+)$", path.stem)
    if match is None:
        raise DataError(f"{path} is not named exp<e>_num_<n>.jpg: it is not part of Magnetic Tile, remove it")
    return int(match.group(1))


def _tiles(images: list[Path]) -> list[list[Path]]:
    """Group images of the same tile: runs of numbers with no gap above 200 (between tiles it is larger)."""
    tiles: list[list[Path]] = []
    for path in sorted(images, key=_number):
        if tiles and _number(path) - _number(tiles[-1][-1]) <= _SAME_TILE:
            tiles[-1].append(path)
        else:
            tiles.append([path])
    return tiles


def _fill(tiles: list[list[Path]], count: int) -> tuple[list[Path], list[list[Path]]]:
    """Take whole tiles in order, skipping those that no longer fit, until `count` images are taken."""
    taken: list[Path] = []
    left: list[list[Path]] = []
    for tile in tiles:
        if len(taken) + len(tile) <= count:
            taken += tile
        else:
            left.append(tile)
    return taken, left
