"""From tensors or arrays of any device to checked NumPy arrays."""

from typing import Any

import numpy as np

from ..errors import DataError


def to_numpy(values: Any, name: str) -> np.ndarray:
    """Any tensor, array or sequence as an array without NaN or infinity."""
    array = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{name} must hold numbers, got {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{name} contains NaN or infinity: find the sample before drawing it")
    return array


def to_photos(images: Any, name: str = "images") -> np.ndarray:
    """(N, 3, H, W) in [0, 1] to (N, H, W, 3) uint8; values outside are clipped."""
    array = to_numpy(images, name)
    if array.ndim != 4 or array.shape[1] != 3 or 0 in array.shape:
        raise DataError(f"{name} must be (N, 3, H, W) with at least one image, got {array.shape}")
    if array.dtype.kind != "f":
        raise DataError(f"{name} must be float in [0, 1], got {array.dtype}; divide by 255")
    return (array.clip(0, 1).transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)


def to_planes(planes: Any, count: int, name: str) -> np.ndarray:
    """Maps or masks, (N, H, W) float, one for each of `count` images."""
    array = to_numpy(planes, name)
    if array.ndim != 3 or len(array) != count:
        raise DataError(f"{name} must be ({count}, H, W), one for each image, got {array.shape}")
    return array.astype(np.float32)


def to_scores(scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """(N,) float scores and (N,) bool labels (true = anomalous) of one length."""
    score, label = to_numpy(scores, "scores"), to_numpy(labels, "labels")
    if score.ndim != 1 or score.shape != label.shape or len(score) == 0:
        raise DataError(f"scores and labels must both be (N,), got {score.shape} and {label.shape}")
    if not np.isin(label, (0, 1)).all():
        raise DataError("labels must be 0 (normal) or 1 (anomalous)")
    return score.astype(np.float64), label.astype(bool)


def check_length(values: Any, count: int, name: str) -> None:
    """Refuse a companion list (titles, kinds, scores) that does not have one entry per image."""
    if values is not None and len(values) != count:
        raise DataError(f"{name} has {len(values)} entries for {count} images")
