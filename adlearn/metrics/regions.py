"""Per-region overlap: every defect counts the same, however few pixels it has.

PRO and its area up to a false alarm limit: Bergmann et al., "Uninformed Students" (CVPR 2020). Saturated
PRO: Bergmann et al., "Beyond Dents and Scratches" (IJCV 2022). Both are sums over pixels: lowering the
threshold past a defective pixel adds a fixed share of its region; one weighted sweep gives the whole curve.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.integrate
import scipy.ndimage

from ..errors import DataError
from .inputs import ArrayLike, check_maps, check_share, to_flags, to_scores
from .sweep import Curve, step_curve, sweep

# Neighbours within an image, diagonals included, as in MVTec AD's evaluation code; none across images.
_NEIGHBOURS = np.stack([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@dataclass(frozen=True)
class Region:
    """One annotated defect: `mask` (H, W) bool, and how many of its pixels must be found to count as all."""

    mask: ArrayLike
    saturation: float

    def __post_init__(self) -> None:
        mask = to_flags(self.mask, "Region.mask")
        if mask.ndim != 2 or not mask.any():
            raise DataError(f"Region.mask must be (H, W) with at least one defective pixel, got {mask.shape}")
        if not 0 < self.saturation <= mask.sum():
            raise DataError(
                f"Region.saturation must be in (0, {mask.sum()}], the region's area, got {self.saturation}; "
                "saturate(area, threshold, relative) computes it"
            )
        object.__setattr__(self, "mask", mask)


def saturate(area: int, threshold: float, relative: bool) -> int:
    """A region's saturation in pixels, from its `area` and the dataset's `defects_config.json`.

    `relative` thresholds are shares of the area, the others pixels, at most the area. As in MVTec LOCO's
    evaluation code, but never below one pixel.
    """
    return max(1, int(threshold * area) if relative else min(int(threshold), area))


def pro_curve(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 1.0) -> Curve:
    """Mean per-region overlap (y) over the false alarm rate of all defect-free pixels (x).

    `maps` (N, H, W); `masks` (N, H, W) bool, whose 8-connected components are the regions. The curve ends
    with its first point beyond `fpr_limit`, or at (1, 1).
    """
    check_share(fpr_limit, "fpr_limit", one_allowed=True)
    array, defect = check_maps(maps, masks)
    return _curve(array[~defect], array[defect], _region_weights(defect), fpr_limit)


def aupro(maps: ArrayLike, masks: ArrayLike, fpr_limit: float = 0.3) -> float:
    """The area under `pro_curve` up to `fpr_limit`, divided by it: 1 is perfect, fpr_limit / 2 chance.

    Exact: every distinct score is a threshold, and the curve is interpolated linearly at the limit.
    """
    return _area(pro_curve(maps, masks, fpr_limit), fpr_limit)


def spro_curve(maps: ArrayLike, regions: Sequence[Sequence[Region]], fpr_limit: float = 1.0) -> Curve:
    """Mean saturated overlap min(|A ∩ P| / s, 1) over the false alarm rate outside all regions.

    `maps` (N, H, W); `regions` lists each image's defects (none for a normal image), which may overlap and
    consist of several pieces. The curve ends as `pro_curve` does.
    """
    check_share(fpr_limit, "fpr_limit", one_allowed=True)
    array = to_scores(maps, "maps", ndim=3)
    defect = _union(array.shape, regions)
    pairs = [(image[r.mask], r.saturation) for image, own in zip(array, regions, strict=True) for r in own]
    weights = [_saturated_weights(values, saturation) / len(pairs) for values, saturation in pairs]
    values = np.concatenate([values for values, _ in pairs])
    return _curve(array[~defect], values, np.concatenate(weights), fpr_limit)


def spro(maps: ArrayLike, regions: Sequence[Sequence[Region]], fpr_limit: float = 0.05) -> float:
    """The area under `spro_curve` up to `fpr_limit`, divided by it.

    MVTec LOCO reports the mean of two values: normal with structural images, and normal with logical images.
    """
    return _area(spro_curve(maps, regions, fpr_limit), fpr_limit)


def _region_weights(defect: np.ndarray) -> np.ndarray:
    """What each defective pixel adds to the mean overlap: 1 / (regions * pixels of its region)."""
    marked = defect[defect.any(axis=(1, 2))]
    labels, count = scipy.ndimage.label(marked, structure=_NEIGHBOURS)
    own = labels[marked]
    return 1 / (count * np.bincount(own)[own])


def _saturated_weights(values: np.ndarray, saturation: float) -> np.ndarray:
    """What each pixel of one region adds to min(found / s, 1), found from the highest down."""
    credit = np.minimum(np.arange(len(values) + 1) / saturation, 1)
    weights = np.empty(len(values))
    weights[np.argsort(-values)] = np.diff(credit)
    return weights


def _union(shape: tuple[int, ...], regions: Sequence[Sequence[Region]]) -> np.ndarray:
    """(N, H, W) bool, true where any region is."""
    if len(regions) != shape[0]:
        raise DataError(
            f"regions must list the defects of each of the {shape[0]} maps, got {len(regions)} lists"
        )
    defect = np.zeros(shape, dtype=bool)
    for index, own in enumerate(regions):
        for region in own:
            if region.mask.shape != shape[1:]:
                raise DataError(f"a region of image {index} is {region.mask.shape}, its map {shape[1:]}")
            defect[index] |= region.mask
    if not defect.any():
        raise DataError("regions are empty for every image: sPRO needs at least one defect")
    if defect.all():
        raise DataError("regions cover every pixel: sPRO needs defect-free pixels")
    return defect


def _curve(normal: np.ndarray, values: np.ndarray, weights: np.ndarray, fpr_limit: float) -> Curve:
    highest = _highest(normal, fpr_limit)
    seen = values >= highest.min() if len(highest) < len(normal) else slice(None)
    return step_curve(sweep(highest, values[seen], weights[seen]), normals=len(normal), anomalous=1)


def _highest(normal: np.ndarray, share: float) -> np.ndarray:
    """The highest `share` of the normal scores and the next one with its ties; the curve needs no others."""
    needed = math.floor(share * len(normal)) + 1
    if needed >= len(normal):
        return normal
    place = len(normal) - needed
    return normal[normal >= np.partition(normal, place)[place]]


def _area(curve: Curve, limit: float) -> float:
    """The trapezoids under the curve up to x = `limit`, over `limit`."""
    inside = curve.x <= limit
    x = np.append(curve.x[inside], limit)
    y = np.append(curve.y[inside], np.interp(limit, curve.x, curve.y))
    return min(1.0, float(scipy.integrate.trapezoid(y, x) / limit))
