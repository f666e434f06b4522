"""Maps: smoothing is SciPy's Gaussian filter, enlarging is bilinear."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from adlearn.maps import smooth, upsample


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.floats(0.3, 6.0),
    st.sampled_from([2.0, 3.5, 4.0]),
    st.integers(0, 99),
)
def test_smoothing_is_scipys_gaussian_filter_borders_included(height, width, sigma, truncate, seed):
    maps = np.random.default_rng(seed).normal(size=(2, height, width))
    expected = [gaussian_filter(m, sigma, truncate=truncate) for m in maps]
    np.testing.assert_allclose(smooth(torch.tensor(maps), sigma, truncate), expected, atol=1e-9)


def test_smoothing_keeps_type_and_constant_maps():
    maps = torch.full((1, 20, 30), 3.0)
    assert smooth(maps).dtype == torch.float32
    torch.testing.assert_close(smooth(maps), maps)


def test_enlarging_keeps_corners_and_range():
    grid = torch.rand(2, 4, 5, generator=torch.Generator().manual_seed(0))
    large = upsample(grid, (64, 80))
    assert large.shape == (2, 64, 80)
    assert large[0, 0, 0] == grid[0, 0, 0]
    assert grid.min() <= large.min() and large.max() <= grid.max()
    whole = upsample(grid, (4, 5))
    assert torch.equal(whole, grid)
