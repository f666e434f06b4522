"""Checks of notebook 02."""

from collections.abc import Callable, Mapping

import torch

from . import exercise, require


def _cloud(count: int, dimension: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixture = torch.randn(dimension, dimension, generator=generator, dtype=torch.float64)
    return torch.randn(count, dimension, generator=generator, dtype=torch.float64) @ mixture + 3


@exercise("02.1")
def shrink(answer: Callable[[torch.Tensor, float], torch.Tensor]) -> None:
    """a covariance pulled towards a round cloud"""
    sample = _cloud(20, 6, seed=0).T.cov()
    half = answer(sample, 0.5)
    require(tuple(half.shape) == (6, 6), f"a matrix like the sample's, (6, 6), not {tuple(half.shape)}")
    require(torch.allclose(answer(sample, 0.0), sample), "alpha 0 leaves the covariance alone")
    round_cloud = answer(sample, 1.0)
    require(
        torch.allclose(round_cloud, round_cloud.diagonal().mean() * torch.eye(6, dtype=sample.dtype)),
        "alpha 1 gives a round cloud: the same variance in all directions, no covariance",
    )
    for alpha in (0.3, 1.0):
        trace = answer(sample, alpha).trace().item()
        require(
            abs(trace - sample.trace().item()) < 1e-6 * trace,
            "the total variance, the trace, must not change: divide it by D before spreading it over D axes",
        )
    before, after = torch.linalg.eigvalsh(sample), torch.linalg.eigvalsh(half)
    require(
        torch.allclose(after, (before + before.mean()) / 2),
        "with alpha 0.5 each eigenvalue moves half of its way to their mean",
    )


@exercise("02.2")
def reconstruction(answer: Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]) -> None:
    """what PCA loses of a new point"""
    values, new = _cloud(50, 5, seed=1), _cloud(8, 5, seed=2)
    errors = answer(values, new, 2)
    require(tuple(errors.shape) == (8,), f"one number for each new point, (8,), not {tuple(errors.shape)}")
    require(
        torch.allclose(answer(values, values.mean(0, keepdim=True), 2), torch.zeros(1, dtype=values.dtype)),
        "the mean itself loses nothing: subtract the mean of the normal values, not of the new ones",
    )
    require(
        torch.allclose(answer(values, new, 5), torch.zeros(8, dtype=values.dtype)),
        "with all directions nothing is lost",
    )
    require(
        torch.allclose(answer(values + 7, new + 7, 2), errors),
        "moving everything by 7 must not change anything",
    )
    require(
        torch.allclose(answer(values, new[:1], 2), errors[:1]),
        "a point's error must not depend on the other new points: subtract the mean of the normal values",
    )
    own = answer(values, values, 2).sum() / (len(values) - 1)
    smallest = torch.linalg.eigvalsh(values.T.cov())[:3].sum()
    require(
        torch.allclose(own, smallest),
        "over the normal values the errors must add up to the variance of the other directions: "
        "keep those with the largest variance, and square",
    )


@exercise("02.3")
def distance_threshold(answer: Callable[[int, float], float]) -> None:
    """a threshold from theory alone"""
    generator = torch.Generator().manual_seed(3)
    for dimension, rate in ((1, 0.05), (16, 0.05), (100, 0.01)):
        threshold = float(answer(dimension, rate))
        distances = torch.randn(40_000, dimension, generator=generator).norm(dim=1)
        share = (distances > threshold).float().mean().item()
        require(
            abs(share - rate) < 0.15 * rate,
            f"in {dimension} dimensions {share:.1%} of normal points exceed {threshold:.2f}, not {rate:.0%}: "
            "the square of the distance is chi-squared distributed; take the root of its quantile",
        )


@exercise("02.4")
def auroc_by_regularisation(answer: Mapping[float, float]) -> None:
    """image AUROC for each regularisation"""
    expected = {0.0001, 0.01, 1.0}
    require(set(answer) == expected, f"the keys are {sorted(expected)}, not {sorted(answer)}")
    values = [float(value) for value in answer.values()]
    require(all(0 <= value <= 1 for value in values), f"an AUROC lies between 0 and 1, got {values}")
    require(
        min(values) > 0.5, "below 0.5 is worse than guessing: fit on good chips, labels are 1 for anomalous"
    )
    require(len(set(values)) == 3, "equal values: was the regularisation passed on?")
