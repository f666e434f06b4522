"""Checks of notebook 03."""

from collections.abc import Callable, Mapping

import torch

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("03.1")
def knn_score(answer: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]) -> None:
    """mean distance to the k nearest rows of the bank"""
    queries, memory = _random(7, 5), _random(30, 5, seed=1)
    scores = answer(queries, memory, 3)
    require(tuple(scores.shape) == (7,), f"one number per query, (7,), not {tuple(scores.shape)}")
    alone = torch.cat([answer(query[None], memory, 3) for query in queries])
    require(torch.allclose(scores, alone, rtol=1e-4), "a score depends on the other queries")
    require(
        torch.allclose(answer(memory, memory, 1), torch.zeros(30), atol=2e-3),
        "with k = 1, a row of the bank itself has distance 0",
    )
    line, at = torch.tensor([[3.0], [4.0], [8.0], [0.0]]), torch.tensor([[1.0]])
    require(
        torch.allclose(answer(at, line, 3), torch.tensor([2.0]), atol=1e-4),
        "from 1 to 3, 4, 8 and 0 the three smallest distances are 1, 2 and 3: their mean is 2 (no squares)",
    )
    more = answer(queries, torch.cat([memory, _random(30, 5, seed=2)]), 3)
    require(bool((more <= scores + 1e-5).all()), "a bigger bank must never raise a score")


@exercise("03.2")
def eq7_weight(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """the factor of Eq. (7), for distances of any size"""
    to_support = 1 + _random(6, 4).sort(dim=1).values
    weight = answer(to_support[:, 0], to_support)
    require(tuple(weight.shape) == (6,), f"one weight per image, (6,), not {tuple(weight.shape)}")
    equal = answer(torch.ones(2), torch.ones(2, 4))
    require(
        torch.allclose(equal, torch.full((2,), 0.75)),
        "four equal distances make the fraction 1/4 and the weight 3/4",
    )
    moved = answer(to_support[:, 0] + 2, to_support + 2)
    require(
        torch.allclose(weight, moved, atol=1e-5),
        "adding 2 to all distances cancels in the fraction: was exp left out?",
    )
    far = answer(to_support[:, 0] + 1000, to_support + 1000)
    require(
        bool(torch.isfinite(far).all()) and torch.allclose(weight, far, atol=1e-3),
        "distances of 1,000 must not overflow: subtract before exp, or use logsumexp or softmax",
    )
    fraction = to_support[:, 0].exp() / to_support.exp().sum(dim=1)
    require(torch.allclose(weight, 1 - fraction, atol=1e-5), "it is 1 minus the fraction")


@exercise("03.3")
def greedy(answer: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
    """always the point farthest from all chosen ones"""
    points = _random(60, 3)
    chosen = torch.as_tensor(answer(points, 12)).tolist()
    require(len(chosen) == 12, f"12 indices were asked for, not {len(chosen)}")
    require(chosen[0] == 0, f"start with point 0, not with {chosen[0]}")
    require(len(set(chosen)) == 12, "a point was chosen twice")
    distances = torch.cdist(points, points)
    for step in range(1, 12):
        far = distances[:, chosen[:step]].amin(dim=1)
        require(
            far[chosen[step]] >= far.max() - 1e-5,
            f"choice {step} is {far[chosen[step]]:.3f} from those chosen, another one {far.max():.3f}",
        )


@exercise("03.4")
def with_position(answer: Callable[[torch.Tensor, tuple[int, int], float], torch.Tensor]) -> None:
    """patch vectors that know where they come from"""
    embedding = _random(2, 12, 5)
    found = answer(embedding, (3, 4), 10.0)
    require(tuple(found.shape) == (2, 12, 7), f"(2, 12, 5) becomes (2, 12, 7), not {tuple(found.shape)}")
    require(torch.equal(found[..., :5], embedding), "the first five numbers are the vector itself")
    require(torch.equal(found[0, :, 5:], found[1, :, 5:]), "a position does not depend on the image")
    row, column = found[0, :, 5], found[0, :, 6]
    require(
        torch.allclose(torch.stack([row.amin(), row.amax(), column.amin(), column.amax()]) / 10,
                       torch.tensor([0.0, 1.0, 0.0, 1.0])),
        "rows and columns each go from 0 to 1, times the weight",
    )  # fmt: skip
    require(
        bool((row[:4] == row[0]).all()) and bool((column[::4] == column[0]).all()),
        "positions go row by row: the first four patches of a 3 x 4 grid share their row",
    )
    silent = answer(embedding, (3, 4), 0.0)
    require(bool((silent[..., 5:] == 0).all()), "with weight 0 the position says nothing")


@exercise("03.5")
def auroc_by_images(answer: Mapping[int, float]) -> None:
    """image AUROC by the number of good images in the bank"""
    require(set(answer) == {1, 5, 20, 80}, f"the keys are 1, 5, 20 and 80, not {sorted(answer)}")
    values = [float(answer[count]) for count in (1, 5, 20, 80)]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > 1, "equal values: was the number of images passed on?")
    require(min(values) > 0.6, "a value below 0.6: fit on good flanges, score the test set, 1 = anomalous")
