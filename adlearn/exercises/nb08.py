"""Checks of notebook 08."""

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("08.1")
def kernel_distances(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """distances to a centre that only the kernel knows"""
    points, weights = _random(7, 3), _random(7, seed=1).softmax(dim=0)
    found = answer(points @ points.T, weights)
    require(tuple(found.shape) == (7,), f"one number for each point, (7,), not {tuple(found.shape)}")
    expected = (points - weights @ points).square().sum(dim=1)
    require(
        torch.allclose(found, expected, atol=1e-4),
        "with the linear kernel it is |x - c|^2, c = sum of alpha_i x_i: "
        "K_ii - 2 sum_j alpha_j K_ij + sum_jk alpha_j alpha_k K_jk",
    )
    kernel = (-torch.cdist(points, points).square()).exp()
    require(bool((answer(kernel, weights) >= 0).all()), "never negative")
    alone = torch.zeros(7)
    alone[2] = 1.0
    require(abs(float(answer(kernel, alone)[2])) < 1e-5, "all weight on one point: its distance is 0")


@exercise("08.2")
def heat_map_loss(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """the hypersphere classifier's loss on heat maps"""
    outputs, labels = _random(4, 1, 3, 3), torch.tensor([0, 1, 0, 1])
    found = answer(outputs, labels)
    require(found.ndim == 0, f"one number, not a tensor of shape {tuple(found.shape)}")
    zeros = torch.zeros(2, 1, 3, 3)
    require(
        float(answer(zeros, torch.tensor([0, 0]))) < 1e-6, "a normal image with an output of 0 costs nothing"
    )
    far = torch.full((2, 1, 3, 3), 50.0)
    require(float(answer(far, torch.tensor([1, 1]))) < 1e-6, "an anomalous one far away costs nothing")
    heat = (outputs.square() + 1).sqrt() - 1
    mean = heat.mean(dim=(1, 2, 3))
    normal = answer(outputs, torch.zeros(4, dtype=torch.long))
    require(torch.allclose(normal, mean.mean(), atol=1e-5), "normal: the mean of sqrt(phi^2 + 1) - 1")
    expected = torch.where(labels == 1, -torch.log1p(-(-mean).exp()), mean).mean()
    require(
        torch.allclose(found, expected, atol=1e-4), "anomalous: -log(1 - exp(-mean)), the mean over positions"
    )
    tiny = torch.full((1, 1, 3, 3), 1e-6, requires_grad=True)
    value = answer(tiny, torch.tensor([1]))
    require(
        bool(torch.isfinite(value)), "an anomalous output near 0 gives infinity: keep the logarithm off 0"
    )
    (gradient,) = torch.autograd.grad(value, tiny)
    require(bool(torch.isfinite(gradient).all()), "its gradient is not finite: keep the logarithm off 0")


@exercise("08.3")
def seen_from(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """features as directions seen from the centre"""
    features, centre = _random(5, 4), F.normalize(_random(4, seed=1), dim=0)
    found = answer(features, centre)
    require(tuple(found.shape) == (5, 4), f"the shape stays (5, 4), not {tuple(found.shape)}")
    require(torch.allclose(found.norm(dim=1), torch.ones(5), atol=1e-5), "each row has length 1 in the end")
    require(
        torch.allclose(answer(3 * features, centre), found, atol=1e-5),
        "the length of a feature does not count: normalise before the centre is subtracted",
    )
    expected = F.normalize(F.normalize(features, dim=1) - centre, dim=1)
    require(torch.allclose(found, expected, atol=1e-5), "normalise, subtract the centre, normalise again")


@exercise("08.4")
def spring_penalty(answer: Callable[[Sequence, Sequence, Sequence], torch.Tensor]) -> None:
    """elastic weights: a spring for each one, as stiff as it was important"""
    shapes = [(3, 2), (4,)]
    start = [_random(*shape, seed=i) for i, shape in enumerate(shapes)]
    fisher = [_random(*shape, seed=i + 2).square() for i, shape in enumerate(shapes)]
    now = [(p + _random(*p.shape, seed=i + 4)).requires_grad_() for i, p in enumerate(start)]
    found = answer(now, start, fisher)
    require(found.ndim == 0, f"one number, not a tensor of shape {tuple(found.shape)}")
    require(float(answer(start, start, fisher)) == 0, "at the start no spring is stretched: 0")
    terms = [(f * (p - s).square()).sum() for p, s, f in zip(now, start, fisher, strict=True)]
    expected = sum(terms)
    require(
        torch.allclose(found, expected) or torch.allclose(found, expected / 2),
        "the sum over all weights of F (theta - theta*)^2, or half of it",
    )
    reached = found.requires_grad and None not in torch.autograd.grad(found, now, allow_unused=True)
    require(reached, "gradients must reach every parameter")


@exercise("08.5")
def variance_by_setting(answer: Mapping[str, Sequence[float]]) -> None:
    """one network that collapses, and one that does not"""
    require(
        isinstance(answer, Mapping), "answer with a dict from the setting's name to variances, one per epoch"
    )
    require(len(answer) >= 2, f"at least two settings, got {list(answer)}")
    kept = {}
    for name, values in answer.items():
        numbers = [float(value) for value in values]
        require(len(numbers) >= 3, f"{name}: at least three epochs, got {len(numbers)}")
        require(
            min(numbers) >= 0 and numbers[0] > 0, f"{name}: variances, the first one above 0: {numbers[:3]}"
        )
        kept[name] = numbers[-1] / numbers[0]
    shares = ", ".join(f"{name} {share:.2g}" for name, share in kept.items())
    require(min(kept.values()) < 0.01, f"none collapses to 1 % of its first variance (kept: {shares})")
    require(max(kept.values()) > 0.05, f"none keeps 5 % of its first variance (kept: {shares})")
