"""Checks of notebook 05."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("05.1")
def uncertainty(
    answer: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """an ensemble's regression error and predictive variance"""
    students, teacher = _random(3, 2, 5, 4, 6), _random(2, 5, 4, 6, seed=1)
    found = answer(students, teacher)
    require(isinstance(found, tuple | list) and len(found) == 2, "return two things: error, variance")
    error, variance = found
    for name, values in (("error", error), ("variance", variance)):
        shape = tuple(values.shape)
        require(shape == (2, 4, 6), f"the {name} has one number per position, (2, 4, 6), not {shape}")
    agreed = teacher.expand(3, 2, 5, 4, 6)
    nothing, calm = answer(agreed, teacher)
    require(
        torch.allclose(nothing, torch.zeros(2, 4, 6), atol=1e-5),
        "students that agree with the teacher err by 0",
    )
    require(torch.allclose(calm, torch.zeros(2, 4, 6), atol=1e-5), "students that agree have variance 0")
    off, still = answer(agreed + 1, teacher)
    require(torch.allclose(still, calm, atol=1e-4), "a mistake all students make is error, not variance")
    require(
        torch.allclose(off, torch.full((2, 4, 6), 5.0), atol=1e-4),
        "each of 5 components is off by 1: the squares are summed over components, 5",
    )
    mean = students.mean(dim=0)
    require(
        torch.allclose(error, (mean - teacher).square().sum(dim=1), atol=1e-4),
        "the error is that of the students' mean, not the mean of their errors",
    )
    expected = (students - mean).square().sum(dim=2).mean(dim=0)
    require(
        torch.allclose(variance, expected, atol=1e-4),
        "the mean over M students (divide by M, not M - 1) of squared distances to their mean",
    )


@exercise("05.2")
def hard_mean(answer: Callable[[torch.Tensor, float], torch.Tensor]) -> None:
    """a loss of the hardest elements only"""
    squared = _random(2, 3, 10, 10).square()
    whole = torch.as_tensor(answer(squared, 0.0))
    require(whole.ndim == 0, "one number")
    require(torch.allclose(whole, squared.mean()), "at quantile 0 it is the plain mean")
    for quantile in (0.5, 0.9, 0.99):
        values = squared.numpy()
        expected = values[values >= np.quantile(values, quantile)].mean()
        require(
            torch.allclose(torch.as_tensor(answer(squared, quantile)), torch.tensor(expected), rtol=1e-4),
            f"at {quantile}: the mean of all elements not below that quantile of all elements",
        )
    asked = squared.clone().requires_grad_()
    answer(asked, 0.9).backward()
    require(asked.grad is not None, "no gradient reaches the elements")
    share = (asked.grad != 0).float().mean().item()
    require(abs(share - 0.1) < 0.01, f"a tenth of the elements gets a gradient, here {share:.0%}")


@exercise("05.3")
def on_one_scale(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """a map normalised by two quantiles of normal images"""
    normal, maps = _random(20, 8, 8).square(), _random(3, 8, 8, seed=1).square()
    found = answer(normal, maps)
    require(tuple(found.shape) == (3, 8, 8), f"maps keep their shape, (3, 8, 8), not {tuple(found.shape)}")
    low, high = torch.quantile(normal, 0.9), torch.quantile(normal, 0.995)
    ends = answer(normal, torch.stack([low, high]).view(2, 1, 1)).flatten()
    require(torch.allclose(ends[:1], torch.zeros(1), atol=1e-5), "the 0.9 quantile of normal maps goes to 0")
    require(torch.allclose(ends[1:], torch.full((1,), 0.1), atol=1e-5), "the 0.995 quantile goes to 0.1")
    require(
        torch.allclose(answer(normal, maps[:1]), found[:1], atol=1e-6),
        "a map depends on the images beside it",
    )
    require(bool((found < 0).any()), "what lies below the 0.9 quantile is negative: nothing is cut off")
    require(torch.allclose(found, 0.1 * (maps - low) / (high - low), atol=1e-5), "a straight line")
    require(
        torch.allclose(answer(7 * normal + 3, 7 * maps + 3), found, atol=1e-4),
        "the unit of the maps must drop out",
    )


@exercise("05.4")
def receptive_field(answer: Callable[[Sequence[tuple[int, int]]], tuple[int, int]]) -> None:
    """receptive field and stride of a stack of layers"""
    known = {
        ((3, 1),): (3, 1),
        ((3, 1), (3, 1)): (5, 1),
        ((2, 2),): (2, 2),
        ((3, 2), (3, 1)): (7, 2),
        ((4, 1), (2, 2), (4, 1), (2, 2), (3, 1), (4, 1)): (33, 4),
        ((5, 1), (2, 2), (5, 1), (2, 2), (4, 1)): (28, 4),
    }
    for layers, expected in known.items():
        found = answer(list(layers))
        require(len(tuple(found)) == 2, "return two numbers: receptive field, stride")
        require(
            tuple(found) == expected,
            f"{list(layers)} sees {expected[0]} pixels in steps of {expected[1]}, not {tuple(found)}: each "
            "layer adds (kernel - 1) times the stride of everything before it",
        )
    require(tuple(answer([])) == (1, 1), "without layers a pixel sees itself: (1, 1)")


@exercise("05.5")
def auroc_by_images(answer: Mapping[int, float]) -> None:
    """image AUROC by the number of training images"""
    require(isinstance(answer, Mapping), "answer with a dict from the number of images to the AUROC")
    require(set(answer) == {5, 20, 80}, f"the keys are 5, 20 and 80, not {sorted(answer)}")
    values = [float(answer[count]) for count in (5, 20, 80)]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > 1, "equal values: was the training set cut?")
    require(values[-1] > 0.6, "with 80 images it is near chance: fit on good plates, 1 = anomalous")
