"""The coreset and the nearest-neighbour search of notebook 03, on one thread, against the obvious ways."""

import torch

from ..data import load
from ..features import FeatureExtractor
from ..measure import PeakMemory
from ..methods.memory_bank import (
    GreedyCoreset,
    greedy_naive,
    nearest_distance,
    patch_vectors,
    squared_distances,
)
from ..threads import one_thread
from . import Row, benchmark, seconds

_IMAGES = 300
_RATIO = 0.05
_PASSES = 20
_GROUP, _BLOCK = 256, 8192


@benchmark("memory_bank")
def memory_bank() -> list[Row]:
    """A coreset of 5 % of the patches of 300 solar cells, and a search of it for one image's patches."""
    extractor, mono = FeatureExtractor(), load("elpv/mono")
    points = patch_vectors(extractor.extract(mono.train.take(_IMAGES)), patch_size=3).flatten(0, 1)
    queries = patch_vectors(extractor.extract(mono.test.take(1)), patch_size=3)[0]
    with one_thread():
        picks, row = _coreset(points)
        memory = points[picks].contiguous()
        return [row, *_search(queries, memory)]


def _coreset(points: torch.Tensor) -> tuple[torch.Tensor, Row]:
    count = int(_RATIO * len(points))
    with PeakMemory() as peak:
        selection = GreedyCoreset(points)
        picks = selection.select(count)
    ours = seconds(lambda: GreedyCoreset(points).select(count), repeats=1)
    passes = seconds(lambda: greedy_naive(points, _PASSES + 1), repeats=1) / _PASSES
    computed = selection.distances.seen.double().mean().item() / count
    note = (
        f"{computed:.0%} of the distances, peak +{peak.megabytes:.0f} MB, "
        f"each pick within {worst_pick(points, picks):.0e} of the farthest"
    )
    what = f"coreset, {count:,} of {len(points):,} x {points.shape[1]}"
    return picks, Row(what, ours, f"a pass a pick, from {_PASSES}", passes * (count - 1), note)


def _search(queries: torch.Tensor, memory: torch.Tensor) -> list[Row]:
    what = f"search, {len(queries)} in {len(memory):,} x {memory.shape[1]}"
    ours = seconds(lambda: nearest_distance(queries, memory), repeats=10)
    product = seconds(lambda: queries @ memory.T, repeats=10)
    rate = 2 * len(queries) * memory.numel() / 1e9
    found = torch.cdist(queries, memory).amin(dim=1)
    difference = (nearest_distance(queries, memory) - found).abs().max() / found.max()
    return [
        Row(
            what,
            ours,
            "torch.cdist, amin",
            seconds(lambda: torch.cdist(queries, memory).amin(dim=1), 10),
            f"differ by {difference:.0e}",
        ),
        Row(
            what,
            ours,
            "its matrix product alone",
            product,
            f"{rate / ours:.0f} of {rate / product:.0f} GFLOP/s",
        ),
    ]


def worst_pick(points: torch.Tensor, picks: torch.Tensor) -> float:
    """How far greedy `picks` are from exact: the largest relative shortfall of a pick's distance.

    0 where each pick is the farthest of `points` (N, D) from those before it. Goes over the points a block
    and the picks a group at a time, so that distances are matrix products and stay in the cache.
    """
    points = points - points.mean(dim=0)
    distance = squared_distances(points, points[picks[:1]])[:, 0]
    worst = 0.0
    for group in picks[1:].split(_GROUP):
        own = _own_distances(distance[group], squared_distances(points[group], points[group]))
        farthest = torch.zeros(len(group))
        for rows, nearest in zip(points.split(_BLOCK), distance.split(_BLOCK), strict=True):
            for step, to_pick in enumerate(squared_distances(points[group], rows)):
                farthest[step] = torch.maximum(farthest[step], nearest.max())
                torch.minimum(nearest, to_pick, out=nearest)
        worst = max(worst, (1 - (own / farthest).sqrt()).max().item())
    return worst


def _own_distances(before: torch.Tensor, between: torch.Tensor) -> torch.Tensor:
    """Each pick's distance at its own step: to the picks before its group and before it in the group."""
    return torch.stack([torch.cat([before[i : i + 1], between[i, :i]]).min() for i in range(len(before))])
