"""From distances on a feature grid to anomaly maps at image size."""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter1d


def upsample(grid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Distances (B, h, w) bilinearly enlarged to (B, H, W), `size` = (H, W)."""
    return F.interpolate(grid[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def smooth(maps: torch.Tensor, sigma: float = 4.0, truncate: float = 4.0) -> torch.Tensor:
    """Gaussian filter of maps (B, H, W), `sigma` in pixels; equal to `scipy.ndimage.gaussian_filter`.

    The filter ends `truncate` times `sigma` from its centre.

    A filter along one axis, borders included, is a matrix: two matrix products replace a 33 x 33 convolution.
    """
    rows, columns = (_filter_matrix(n, sigma, truncate, maps) for n in maps.shape[-2:])
    return rows @ maps @ columns.T


def _filter_matrix(n: int, sigma: float, truncate: float, like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(_filter_rows(n, sigma, truncate), dtype=like.dtype, device=like.device)


@lru_cache(maxsize=16)
def _filter_rows(n: int, sigma: float, truncate: float) -> np.ndarray:
    return gaussian_filter1d(np.eye(n), sigma, axis=0, truncate=truncate)
