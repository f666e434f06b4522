"""U-Flow: an invertible U, and thresholds that count false alarms."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from fake_cuda import fake_cuda_loss
from scipy import ndimage, stats
from torch import nn

from adlearn.errors import DataError
from adlearn.methods.normalizing_flow import (
    AffineCoupling,
    UFlow,
    UShape,
    convolutional_flow,
    convolutional_subnet,
    large_squares,
    log_energy_tail,
    log_nfa_blocks,
    log_nfa_regions,
    log_nfa_windows,
    log_polyominoes,
    log_tail,
    measure_nulls,
    nfa_map,
    region_log_tails,
    window_sides,
)

SUBNETS = [convolutional_subnet(3), convolutional_subnet(1)]
PYRAMIDS = [[(5, 8), (9, 4), (13, 2)], [(3, 4), (8, 2)], [(40, 4), (112, 2)], [(6, 4)]]


def shaken(module: nn.Module, gain: float = 0.5) -> nn.Module:
    """Random weights everywhere: as built, a flow is the identity."""
    for weights in module.parameters():
        nn.init.normal_(weights, std=gain / math.sqrt(weights[0].numel()))
    return module.eval()


def pyramid(sizes: Sequence[tuple[int, int]], dtype: torch.dtype, count: int = 1) -> list[torch.Tensor]:
    return [torch.randn(count, c, s, s, dtype=dtype) for c, s in sizes]


def u_shape(sizes: Sequence[tuple[int, int]], dtype: torch.dtype, share: float = 0.5) -> UShape:
    torch.manual_seed(0)
    return shaken(UShape([c for c, _ in sizes], SUBNETS, share)).to(dtype)


@pytest.mark.parametrize("sizes", PYRAMIDS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_inverse(sizes, dtype, error, share):
    shape = u_shape(sizes, dtype, share)
    levels = pyramid(sizes, dtype, count=3)
    latents, _ = shape(*levels)
    assert [z.shape[2:] for z in latents] == [x.shape[2:] for x in levels]
    assert sum(z.numel() for z in latents) == sum(x.numel() for x in levels)
    assert any((z[:, :1] - x[:, :1]).abs().max() > 0.01 for z, x in zip(latents, levels, strict=True))
    for x, back in zip(levels, shape.inverse(latents), strict=True):
        assert (x - back).abs().max() < error


@pytest.mark.parametrize("sizes", [PYRAMIDS[0], PYRAMIDS[1], PYRAMIDS[3]])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_log_determinant_is_the_jacobians(sizes, share):
    shape = u_shape(sizes, torch.float64, share)
    levels = pyramid(sizes, torch.float64)

    def whole(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([x.numel() for x in levels])
        found, _ = shape(*(part.view_as(x) for part, x in zip(parts, levels, strict=True)))
        return torch.cat([z.flatten() for z in found])

    jacobian = torch.autograd.functional.jacobian(whole, torch.cat([x.flatten() for x in levels]))
    log_det = shape(*levels)[1]
    assert log_det.abs() > 0.1
    torch.testing.assert_close(log_det[0], torch.linalg.slogdet(jacobian).logabsdet, rtol=1e-9, atol=1e-9)


def test_half_of_the_channels_go_up():
    shape = UShape([40, 112], SUBNETS)
    latents, _ = shape.eval()(*pyramid([(40, 4), (112, 2)], torch.float32))
    assert [z.shape[1] for z in latents] == [40 + 56 // 4, 56]


def test_the_clamp_reaches_every_coupling():
    clamps = [layer.clamp for layer in UFlow(clamp=1.5).flow.modules() if isinstance(layer, AffineCoupling)]
    assert clamps == [1.5] * 8


def test_a_fine_latent_depends_on_the_coarse_level_only_with_a_share():
    levels = pyramid(PYRAMIDS[1], torch.float64)
    moved = [levels[0], levels[1] + 1]
    for share, connected in {0.5: True, 0.0: False}.items():
        shape = u_shape(PYRAMIDS[1], torch.float64, share)
        assert torch.equal(shape(*levels)[0][0], shape(*moved)[0][0]) is not connected


def test_without_a_share_it_is_a_flow_per_level():
    levels = pyramid(PYRAMIDS[1], torch.float64, count=2)
    shape = u_shape(PYRAMIDS[1], torch.float64, share=0.0)
    flows = [convolutional_flow(c, SUBNETS).double().eval() for c, _ in PYRAMIDS[1]]
    for flow, stage in zip(flows, reversed(shape.stages), strict=True):
        flow.load_state_dict(stage.state_dict())
    latents, log_det = shape(*levels)
    apart = [flow(x) for flow, x in zip(flows, levels, strict=True)]
    for z, (other, _) in zip(latents, apart, strict=True):
        torch.testing.assert_close(z, other)
    torch.testing.assert_close(log_det, sum(change.sum(dim=(1, 2)) for _, change in apart))


def test_the_u_refuses_what_it_cannot_join():
    with pytest.raises(DataError, match="too few"):
        UShape([8, 7], SUBNETS)
    with pytest.raises(DataError, match="share"):
        UShape([8, 8], SUBNETS, share=1.0)
    with pytest.raises(DataError, match="twice as large"):
        UShape([8, 8], SUBNETS).eval()(*pyramid([(8, 7), (8, 4)], torch.float32))


def test_the_map_is_the_papers():
    detector = UFlow()
    shaken(detector.flow)
    features = {"fine": torch.randn(2, 40, 8, 8), "coarse": torch.randn(2, 112, 4, 4)}
    with torch.no_grad():
        found = detector.score_features(features, (32, 32))
        latents = detector.flow(*features.values())[0]
    planes = []
    for z in latents:
        energy = z.double().square().sum(dim=1) / z.shape[1]
        planes.append(upsampled(np.exp(-0.5 * energy.numpy()), 32))
    expected = 1 - np.mean(planes, axis=0)
    np.testing.assert_allclose(found.map.numpy() + 1, expected, atol=1e-5)
    np.testing.assert_allclose(found.score.numpy() + 1, expected.max(axis=(1, 2)), atol=1e-5)


def upsampled(planes: np.ndarray, side: int) -> np.ndarray:
    """Bilinear, pixels as areas, by coordinates."""
    n = planes.shape[-1]
    at = ((np.arange(side) + 0.5) * n / side - 0.5).clip(0, n - 1)
    grid = np.stack(np.meshgrid(at, at, indexing="ij"))
    return np.stack([ndimage.map_coordinates(plane, grid, order=1) for plane in planes])


def test_the_loss_is_the_whole_pyramids_likelihood():
    detector = UFlow()
    shaken(detector.flow.double())
    levels = pyramid([(40, 4), (112, 2)], torch.float64, count=3)
    latents, log_det = detector.flow(*levels)
    z = torch.cat([z.flatten(1) for z in latents], dim=1)
    expected = stats.norm.logpdf(z.detach().numpy()).sum(axis=1) + log_det.detach().numpy()
    loss = detector.loss(tuple(levels)).item()
    assert loss == pytest.approx(-expected.mean() / z.shape[1], rel=1e-9)


def test_loss_on_fake_cuda():
    def batch() -> tuple[torch.Tensor, ...]:
        return tuple(pyramid([(40, 4), (112, 2)], torch.float32, count=2))

    fake_cuda_loss(lambda: UFlow().eval(), lambda detector, levels: detector.loss(levels), batch)


@pytest.mark.parametrize(("trials", "rate"), [(25, 0.1), (504, 0.02), (1350, 0.5)])
def test_log_tail_is_scipys(trials, rate):
    k = np.arange(trials + 1)
    binomial, shared = log_tail(trials, rate).numpy(), log_tail(trials, rate, spread=3.0).numpy()
    total = (trials - 3.0) / 2.0
    laws = stats.binom(trials, rate), stats.betabinom(trials, rate * total, (1 - rate) * total)
    for found, law in zip((binomial, shared), laws, strict=True):
        # SciPy's own tails are 1 minus a sum, good to some 12 digits after the point.
        tails = law.sf(k - 1)
        np.testing.assert_allclose(10**found, tails, rtol=1e-6, atol=1e-11)
    assert binomial[-1] == pytest.approx(trials * math.log10(rate))
    for found in (binomial, shared):
        assert np.isfinite(found).all() and abs(found[0]) < 1e-9 and (np.diff(found) <= 0).all()


def test_spread_is_the_ratio_of_variances():
    mass = -torch.diff(10 ** log_tail(504, 0.1, spread=3.0), append=torch.zeros(1, dtype=torch.float64))
    k = torch.arange(505, dtype=torch.float64)
    mean = (mass * k).sum()
    assert mean == pytest.approx(504 * 0.1)
    assert (mass * (k - mean).square()).sum() == pytest.approx(3 * 504 * 0.1 * 0.9)


def test_large_squares_against_a_loop():
    z, limit = torch.randn(2, 5, 6, 7), stats.chi2.isf(0.2, 1)
    found = large_squares(z, 3, 0.2)
    assert found.shape == (2, 4, 5) and found.dtype == torch.long
    for b, y, x in np.ndindex(2, 4, 5):
        assert found[b, y, x] == (z[b, :, y : y + 3, x : x + 3].square() >= limit).sum()
    with pytest.raises(DataError, match="window"):
        large_squares(z, 7, 0.2)


def test_windows_shrink_with_the_grid():
    assert window_sides(3, 5) == [5, 3, 3]
    assert window_sides(3, 9) == [9, 5, 3]


def test_windows_against_scipy():
    latents = [torch.randn(2, 6, 8, 8) * 1.5, torch.randn(2, 9, 4, 4) * 1.5]
    for z, side, found in zip(latents, (5, 3), log_nfa_windows(latents), strict=True):
        counts = large_squares(z, side, 0.1).numpy()
        expected = np.log10(16 + 4) + stats.binom.logsf(counts - 1, z.shape[1] * side**2, 0.1) / np.log(10)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("rate", [0.5, 0.1, 0.02])
def test_windows_keep_their_promise_on_noise(rate):
    generator = torch.Generator().manual_seed(1)
    latents = [torch.randn(300, c, s, s, generator=generator) for c, s in [(20, 16), (30, 8)]]
    grids = log_nfa_windows(latents, rate=rate)
    for promised in (10, 1, 0.1):
        alarms = sum((g < math.log10(promised)).flatten(1).sum(dim=1) for g in grids).double()
        assert alarms.mean() <= promised + 3 * alarms.std() / math.sqrt(300)
        if promised == 10:
            assert alarms.mean() > 2, "a promise is easily kept by saying nothing"


@pytest.mark.parametrize("alarm", ["windows", "blocks", "regions"])
def test_larger_latents_are_never_less_alarming(alarm):
    torch.manual_seed(0)
    latents = pyramid([(20, 16), (30, 8)], torch.float32, count=3)
    larger = [1.3 * z for z in latents]
    for before, after in zip(log_nfas(latents, alarm), log_nfas(larger, alarm), strict=True):
        # Regions of any one position may change; the most significant one of an image does not get less so.
        if alarm == "regions":
            before, after = before.amin(dim=(1, 2)), after.amin(dim=(1, 2))
        assert (after <= before + 1e-4).all()


@pytest.mark.parametrize("alarm", ["windows", "blocks", "regions"])
def test_no_number_of_false_alarms_depends_on_the_batch(alarm):
    latents = pyramid([(20, 16), (30, 8)], torch.float32, count=3)
    together = log_nfas(latents, alarm)
    for i in range(3):
        for grid, alone in zip(together, log_nfas([z[i : i + 1] for z in latents], alarm), strict=True):
            torch.testing.assert_close(grid[i : i + 1], alone)


def log_nfas(latents: list[torch.Tensor], alarm: str) -> list[torch.Tensor]:
    if alarm == "windows":
        return log_nfa_windows(latents)
    return [{"blocks": log_nfa_blocks, "regions": log_nfa_regions}[alarm](latents, (32, 32))]


def test_blocks_against_scipy():
    """The formula of the first version, on one level, at its grid's own size."""
    z = torch.randn(2, 6, 8, 8) * 1.7
    squares = np.pad(z.numpy() ** 2, ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(squares, (5, 5), axis=(2, 3))
    mean = (windows >= stats.chi2.ppf(0.9, 1)).sum(axis=(-2, -1)).sum(axis=1) / 6
    expected = np.log10(64) + stats.binom.logsf(mean, 25, 0.1) / np.log(10)
    np.testing.assert_allclose(log_nfa_blocks([z], (8, 8)).numpy(), expected, atol=1e-4)


def test_energy_tail_bounds_chi_squared():
    z = torch.randn(2, 7, 20, 20, dtype=torch.float64) * 2
    exact = stats.chi2.logsf(z.square().sum(dim=1).numpy(), 7) / np.log(10)
    found = log_energy_tail(z).numpy()
    assert (found >= exact).all() and (found <= 0).all() and found.min() < -3
    assert (found[z.square().mean(dim=1).numpy() <= 1] == 0).all()


def test_polyominoes():
    assert log_polyominoes(1) == pytest.approx(math.log10(0.316915 * 4.062570))
    # There are 36,446 fixed polyominoes of ten squares.
    share = 10 ** (log_polyominoes(10) - 1) - 10 ** (log_polyominoes(9) - math.log10(9))
    assert share == pytest.approx(36_446, rel=0.1)
    assert math.isfinite(log_polyominoes(56 * 56))


@pytest.mark.parametrize("seed", range(12))
def test_regions_follow_the_two_procedures(seed):
    """Against the paper's text: a tree of components, pruned branch by branch, leaves merged into parents."""
    noise = np.random.default_rng(seed).normal(size=(9, 11))
    smooth = ndimage.gaussian_filter(noise, seed % 4)
    tail = -(np.clip(smooth / smooth.std() * 3, 0, None) ** 2)
    expected = np.zeros(tail.shape)
    for value, region in regions_of_tree(tail):
        expected[tuple(np.array(sorted(region)).T)] = value
    np.testing.assert_allclose(region_log_tails(torch.tensor(tail)).numpy(), expected, rtol=1e-5)


Region = frozenset[tuple[int, int]]


def regions_of_tree(tail: np.ndarray) -> list[tuple[float, Region]]:
    """Nodes: connected parts of {tail <= level} for every level below 0."""
    nodes: dict[Region, float] = {}
    for level in np.unique(tail[tail < 0]):
        labels, count = ndimage.label(tail <= level)
        for label in range(1, count + 1):
            region = frozenset(zip(*(axis.tolist() for axis in np.nonzero(labels == label)), strict=True))
            if region not in nodes:
                nodes[region] = len(region) * level
    while prune(nodes) or merge(nodes):
        pass
    return [(nodes[r], r) for r in nodes if not any(other < r for other in nodes)]


def children(nodes: dict[Region, float], parent: Region) -> list[Region]:
    below = [r for r in nodes if r < parent]
    return [r for r in below if not any(r < other for other in below)]


def prune(nodes: dict[Region, float]) -> bool:
    """Procedure 1: of each branch that ends in a leaf, keep the most significant node."""
    changed = False
    for leaf in [r for r in nodes if not children(nodes, r)]:
        branch = [leaf]
        for above in sorted((r for r in nodes if leaf < r), key=len):
            if len(children(nodes, above)) > 1:
                break
            branch.append(above)
        best = min(branch, key=nodes.__getitem__)
        for node in branch:
            if node != best:
                del nodes[node]
                changed = True
    return changed


def merge(nodes: dict[Region, float]) -> bool:
    """Procedure 2: leaves give way to their parent if it is more significant than all of them."""
    for parent in sorted(nodes, key=len):
        below = children(nodes, parent)
        if len(below) < 2 or any(children(nodes, r) for r in below):
            continue
        if nodes[parent] <= min(nodes[r] for r in below):
            for r in below:
                del nodes[r]
            return True
    return False


def test_a_clear_square_is_a_region():
    torch.manual_seed(0)
    latents = pyramid([(54, 28), (56, 14)], torch.float32, count=2)
    latents[0][0, :, 8:16, 8:16] *= 4
    found = log_nfa_regions(latents, (28, 28)) < 0
    assert found[0, 8:16, 8:16].float().mean() > 0.5 and found[0].sum() <= 64 and not found[1].any()


def test_measured_nulls():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200, 20, 12, 12, generator=generator)
    ((share, spread),) = measure_nulls([noise])
    assert share == pytest.approx(0.1, abs=0.002) and 1 <= spread < 1.15
    uneven = noise * torch.linspace(0.8, 1.2, 200)[:, None, None, None]
    ((share, spread),) = measure_nulls([uneven])
    assert spread > 3
    ideal, measured = (log_nfa_windows([uneven], nulls=n)[0] for n in (None, [(share, spread)]))
    assert (measured < 0).sum() < (ideal < 0).sum() / 5
    silent = measure_nulls([torch.zeros(4, 20, 12, 12)])
    assert torch.isfinite(log_nfa_windows([noise], nulls=silent)[0]).all()


def test_a_windows_value_stands_at_its_centre():
    latents = pyramid([(4, 8), (4, 4)], torch.float32, count=2)
    grids = [torch.zeros(2, 4, 4), torch.zeros(2, 2, 2)]
    grids[0][0, 1, 2] = -5
    found = nfa_map(grids, latents, (8, 8))
    assert found[0, 3, 4] == -5 and (found == -5).sum() == 1 and found.shape == (2, 8, 8)
    grids[0][1, 0, 0] = -5
    assert (nfa_map(grids, latents, (8, 8))[1, :3, :3] == -5).all()


def test_latents_need_a_fit(tiny):
    with pytest.raises(DataError, match="fit"):
        UFlow().latents(tiny.test)
