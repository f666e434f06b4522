"""The coreset and the search of notebook 03 against the naive loop, SciPy and scikit-learn."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors

from adlearn.errors import DataError
from adlearn.methods import memory_bank
from adlearn.methods.memory_bank import (
    GreedyCoreset,
    greedy_coreset,
    greedy_naive,
    nearest,
    nearest_distance,
)


def clustered(count: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    """Points in clusters of different sizes and spreads, off the origin, as patches are."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, dimensions, generator=generator) * 5 + 3
    which = torch.randint(20, (count,), generator=generator) % torch.randint(
        1, 21, (count,), generator=generator
    )
    return centres[which] + torch.randn(count, dimensions, generator=generator) * (0.2 + which[:, None] / 10)


def worst_step(points: torch.Tensor, picks: torch.Tensor) -> float:
    """The largest relative shortfall of a pick: 0 where each pick was a farthest point of its time."""
    points, distance, worst = points.double(), torch.full((len(points),), math.inf).double(), 0.0
    for before, pick in itertools.pairwise(picks):
        distance = torch.minimum(distance, (points - points[before]).square().sum(dim=1))
        farthest = distance.max().sqrt().item()
        if farthest > 0:
            worst = max(worst, 1 - distance[pick].sqrt().item() / farthest)
    return worst


def test_the_picks_are_the_naive_ones_on_20_000_points():
    points = clustered(20_000, 24)
    naive, lazy = greedy_naive(points.double(), 1000), greedy_coreset(points, 1000)
    assert set(naive.tolist()) == set(lazy.tolist())
    assert worst_step(points, lazy) < 1e-5


@pytest.mark.parametrize("block", [1, 7, 64, 5000])
def test_any_block_gives_the_same_picks(block):
    points = clustered(1500, 8, seed=1)
    expected = greedy_naive(points.double(), 60)
    assert torch.equal(GreedyCoreset(points, block=block).select(60), expected)


@pytest.mark.parametrize("block", [16, 4096])
@pytest.mark.parametrize("levels", [2, 4])
def test_ties_end_and_every_pick_is_a_farthest_point(levels, block):
    generator = torch.Generator().manual_seed(levels)
    points = torch.randint(levels, (1200, 4), generator=generator).float()
    picks = GreedyCoreset(points, block=block).select(400)
    assert len(set(picks.tolist())) == 400
    distinct = len(points.unique(dim=0))
    assert worst_step(points, picks[:distinct]) < 1e-5
    assert len(points[picks[:distinct]].unique(dim=0)) == distinct


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(-3, 3)] * 2), min_size=1, max_size=40),
    share=st.floats(0, 1),
    block=st.integers(1, 50),
)
def test_every_pick_of_any_points_is_new_and_farthest(rows, share, block):
    points = torch.tensor(rows, dtype=torch.float32)
    count = max(1, round(share * len(points)))
    picks = GreedyCoreset(points, block=block).select(count)
    assert len(set(picks.tolist())) == count
    assert worst_step(points, picks) < 1e-3


def test_a_selection_goes_on_where_it_was():
    points = clustered(3000, 10, seed=2)
    whole = greedy_coreset(points, 300)
    selection = GreedyCoreset(points)
    for count in (1, 50, 300):
        assert torch.equal(selection.select(count), whole[:count])
    assert torch.equal(selection.select(20), whole[:20])


def test_an_interrupted_selection_keeps_its_picks_and_goes_on(monkeypatch):
    points = clustered(3000, 10, seed=3)
    whole = greedy_coreset(points, 300)
    selection = GreedyCoreset(points, block=256)
    append, calls = selection.distances.append, []

    def interrupted(index):
        calls.append(index)
        if len(calls) == 100:
            raise KeyboardInterrupt
        append(index)

    monkeypatch.setattr(selection.distances, "append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        selection.select(300)
    monkeypatch.undo()
    assert selection.distances.indices == whole[:100].tolist()
    assert torch.equal(selection.select(300), whole)


def test_bounds_are_never_below_the_true_distance_and_equal_it_once_all_is_seen():
    points = clustered(2000, 6, seed=4)
    selection = GreedyCoreset(points, block=128)
    picks = selection.select(100)
    true = torch.cdist(points.double(), points[picks].double()).amin(dim=1).square()
    bound, seen = selection.distances.bound.double(), selection.distances.seen
    others = torch.ones(len(points), dtype=torch.bool).index_fill(0, picks, False)
    assert (bound[others] > true[others] * (1 - 1e-4)).all()
    current = others & (seen == 100)
    torch.testing.assert_close(bound[current], true[current], rtol=1e-4, atol=1e-4)
    assert (seen < 100).float().mean() > 0.2, "a lazy selection leaves most bounds as they were"


def test_the_first_pick_is_the_start_or_the_point_nearest_to_the_mean():
    points = clustered(500, 5, seed=5)
    assert greedy_coreset(points, 3, start=17)[0] == 17
    central = (points - points.mean(0)).norm(dim=1).argmin()
    assert greedy_coreset(points, 3)[0] == central
    assert torch.equal(greedy_coreset(points, 40, start=17), greedy_naive(points.double(), 40, start=17))


def test_all_points_can_be_picked_and_copies_are_picked_last():
    points = torch.cat([clustered(20, 3, seed=6)] * 3)
    picks = greedy_coreset(points, 60)
    assert sorted(picks.tolist()) == list(range(60))
    assert len(points[picks[:20]].unique(dim=0)) == 20


@pytest.mark.parametrize("count", [0, -1, 51])
def test_an_impossible_count_is_refused(count):
    with pytest.raises(DataError, match="count must be"):
        greedy_coreset(clustered(50, 3), count)


@pytest.mark.parametrize("points", [torch.empty(0, 3), torch.zeros(5), torch.full((4, 2), math.nan)])
def test_unusable_points_are_refused(points):
    with pytest.raises(DataError, match="points must be"):
        greedy_coreset(points, 1)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_nearest_is_scikit_learns(k):
    memory, queries = clustered(700, 9, seed=7), clustered(60, 9, seed=8)
    distances, indices = nearest(queries, memory, k, block=128)
    expected, rows = NearestNeighbors(n_neighbors=k).fit(memory.numpy()).kneighbors(queries.numpy())
    torch.testing.assert_close(distances, torch.tensor(expected).float(), rtol=1e-4, atol=1e-4)
    assert (indices == torch.tensor(rows)).float().mean() > 0.99


def test_a_small_memory_gives_all_it_has():
    distances, indices = nearest(torch.zeros(2, 3), torch.ones(4, 3), k=9)
    assert distances.shape == indices.shape == (2, 4)
    assert sorted(indices[0].tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("block", [1, 100, 1024])
def test_nearest_distance_is_scipys_minimum(block):
    memory, queries = clustered(450, 12, seed=9), clustered(230, 12, seed=10)
    expected = torch.tensor(cdist(queries.double(), memory.double()).min(axis=1)).float()
    torch.testing.assert_close(nearest_distance(queries, memory, block), expected, rtol=1e-4, atol=1e-4)


def test_the_search_never_makes_the_whole_table(monkeypatch):
    shapes = []
    original = torch.addmm

    def watched(*args, **kwargs):
        result = original(*args, **kwargs)
        shapes.append(tuple(result.shape))
        return result

    monkeypatch.setattr(memory_bank.torch, "addmm", watched)
    nearest_distance(torch.rand(300, 4), torch.rand(900, 4), block=128)
    assert max(rows * columns for rows, columns in shapes) == 128 * 128
