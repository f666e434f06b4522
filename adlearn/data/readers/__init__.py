"""One reader per published dataset; each returns a `Benchmark` or says which file is missing."""

from .btad import BTAD, btad
from .kolektor import ksdd2
from .magnetic_tile import MAGNETIC_TILE_KINDS, magnetic_tile
from .mvtec import (
    MPDD,
    MVTEC_3D,
    MVTEC_AD,
    MVTEC_LOCO,
    SaturationRule,
    loco_saturation,
    mpdd,
    mvtec_3d,
    mvtec_ad,
    mvtec_folder,
    mvtec_loco,
    xyz_path,
)
from .visa import VISA, visa

__all__ = [
    "BTAD",
    "MAGNETIC_TILE_KINDS",
    "MPDD",
    "MVTEC_3D",
    "MVTEC_AD",
    "MVTEC_LOCO",
    "VISA",
    "SaturationRule",
    "btad",
    "ksdd2",
    "loco_saturation",
    "magnetic_tile",
    "mpdd",
    "mvtec_3d",
    "mvtec_ad",
    "mvtec_folder",
    "mvtec_loco",
    "visa",
    "xyz_path",
]
