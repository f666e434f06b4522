"""Checks of notebook 00."""

from collections.abc import Callable, Mapping

import torch

from . import exercise, require


@exercise("00.1")
def z_scores(answer: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    """standardised distances, position by position"""
    generator = torch.Generator().manual_seed(0)
    normal, row = torch.rand(50, 8, generator=generator), torch.rand(8, generator=generator)
    z = answer(normal, row, 1e-4)
    require(tuple(z.shape) == (8,), f"one number per position, (8,), not {tuple(z.shape)}")
    require(bool((z >= 0).all()), "a distance is never negative: take the absolute value")
    require(
        torch.allclose(answer(normal, normal.mean(0), 1e-4), torch.zeros(8)), "the mean itself has distance 0"
    )
    require(
        torch.allclose(answer(3 * normal + 1, 3 * row + 1, 0.0), answer(normal, row, 0.0), rtol=1e-3),
        "with epsilon 0, other units (3 x + 1) must not change it: divide by the standard deviation",
    )
    constant = answer(torch.ones(5, 8), torch.full((8,), 1.1), 1e-2)
    require(
        torch.allclose(constant, torch.ones(8), rtol=1e-3),
        "epsilon belongs to the variance, under the root: where nothing varies, 0.1 off is 0.1 / sqrt(0.01)",
    )


@exercise("00.2")
def top_mean(answer: Callable[[torch.Tensor, float], torch.Tensor]) -> None:
    """mean of the largest share of a map"""
    maps = torch.rand(3, 20, 30, generator=torch.Generator().manual_seed(1))
    values = answer(maps, 0.1)
    require(tuple(values.shape) == (3,), f"one number per map, (3,), not {tuple(values.shape)}")
    require(torch.allclose(answer(maps, 1.0), maps.mean(dim=(1, 2))), "a share of 1 gives the mean")
    require(
        torch.allclose(answer(maps, 1e-6), maps.amax(dim=(1, 2))),
        "a tiny share gives the maximum: use at least one pixel",
    )
    expected = maps.flatten(1).sort(dim=1).values[:, -60:].mean(dim=1)
    require(torch.allclose(values, expected), "a tenth of 600 pixels are the 60 largest of that map")


@exercise("00.3")
def mahalanobis_distance(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """a distance that neither units nor mixtures change"""
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    x = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    distance = torch.as_tensor(answer(normal, x))
    require(distance.numel() == 1, "one number for one point")
    centre = torch.as_tensor(answer(normal, normal.mean(0)))
    require(bool(centre.abs() < 1e-6), "the mean itself has distance 0")
    mixture = torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, -3.0], [1.0, 0.0, 0.5]], dtype=torch.float64)
    moved = torch.as_tensor(answer(normal @ mixture.T + 7, mixture @ x + 7))
    require(
        torch.allclose(distance, moved, rtol=1e-6),
        f"an invertible mixture of the features changed it from {distance.item():.4f} to {moved.item():.4f}: "
        "use the inverse of the whole covariance matrix",
    )
    mean_square = torch.stack([torch.as_tensor(answer(normal, n)) ** 2 for n in normal]).sum() / 199
    require(
        torch.allclose(mean_square, torch.tensor(3.0, dtype=torch.float64), rtol=1e-6),
        "summed over the normal points, the squares are (N - 1) D: take the root, and divide by N - 1",
    )


@exercise("00.4")
def auroc_by_layers(answer: Mapping[tuple[int, ...], float]) -> None:
    """image AUROC for each choice of layers"""
    expected = {(8,), (16,), (8, 16)}
    require(set(answer) == expected, f"the keys are {sorted(expected)}, not {sorted(answer)}")
    values = [float(v) for v in answer.values()]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(
        min(values) > 0.7, "a value below 0.7: fit on normal cells, score the test set, labels 1 = anomalous"
    )
    require(len(set(values)) > 1, "three equal values: were the layers passed on?")
