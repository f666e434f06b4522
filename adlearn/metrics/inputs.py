"""What the metrics accept: arrays checked once, at the door, with a sentence when they cannot be used."""

from collections.abc import Sequence

import numpy as np
import torch

from ..errors import DataError

ArrayLike = torch.Tensor | np.ndarray | Sequence


def to_array(values: ArrayLike, name: str) -> np.ndarray:
    """`values` as a numpy array of numbers, on the CPU."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        if values.dtype == torch.bfloat16:  # unknown to numpy
            values = values.float()
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{name} cannot be made an array: {error}") from error
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must be numbers, got {array.dtype}")
    return array


def to_scores(values: ArrayLike, name: str, ndim: int) -> np.ndarray:
    """Finite scores with `ndim` axes, as float32 if they came so (order and ties are kept), else float64."""
    array = to_array(values, name)
    if array.ndim != ndim:
        raise DataError(f"{name} must have {ndim} axes, got shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{name} is empty: there is nothing to evaluate")
    single = array.dtype.kind == "f" and array.dtype.itemsize <= 4
    array = np.asarray(array, dtype=np.float32 if single else np.float64)
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(np.argwhere(~finite)[0].tolist())
        raise DataError(
            f"{name} holds {finite.size - finite.sum()} NaN or infinite values, the first at index {first}: "
            "look for a division by zero or an overflow in the detector"
        )
    return array


def to_flags(values: ArrayLike, name: str) -> np.ndarray:
    """0/1 values as bool."""
    array = to_array(values, name)
    if array.dtype == bool:
        return array
    flags = array == 1
    if not (flags | (array == 0)).all():
        raise DataError(f"{name} must be 0 (normal) or 1 (anomalous); binarise with `{name} > 0`")
    return flags


def check_same_shape(first: np.ndarray, first_name: str, second: np.ndarray, second_name: str) -> None:
    if first.shape != second.shape:
        raise DataError(
            f"{first_name} is {first.shape}, {second_name} is {second.shape}: they must be the same shape"
        )


def split_scores(scores: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores (N,) of the normal and of the anomalous images; both must be present."""
    array, anomalous = to_scores(scores, "scores", ndim=1), to_flags(labels, "labels")
    check_same_shape(array, "scores", anomalous, "labels")
    if anomalous.all() or not anomalous.any():
        kind = "1 (anomalous)" if anomalous.all() else "0 (normal)"
        raise DataError(f"labels are all {kind}: this metric needs normal and anomalous images")
    return array[~anomalous], array[anomalous]


def check_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Maps (N, H, W) and masks (N, H, W) as arrays; defective and defect-free pixels must both be present."""
    array, defect = to_scores(maps, "maps", ndim=3), to_flags(masks, "masks")
    check_same_shape(array, "maps", defect, "masks")
    if not defect.any():
        raise DataError("masks mark no defect: pixel metrics need at least one defective pixel")
    if defect.all():
        raise DataError("masks mark every pixel as defective: pixel metrics need defect-free pixels")
    return array, defect


def split_maps(maps: ArrayLike, masks: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the defect-free and of the defective pixels, each flat."""
    array, defect = check_maps(maps, masks)
    return array[~defect], array[defect]


def check_share(value: float, name: str, one_allowed: bool = False) -> None:
    """Refuse a rate that is not above 0 and below 1 (or up to 1)."""
    if not (0 < value < 1 or (one_allowed and value == 1)):
        raise DataError(f"{name} must be in (0, 1{']' if one_allowed else ')'}, got {value}")
