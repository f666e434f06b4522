"""Checks of notebook 10."""

import math
from collections.abc import Callable, Mapping

import torch

from . import exercise, require


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("10.1")
def kl_of_codes(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """how far a Gaussian code is from the prior"""
    mean, log_variance = _rand(5, 3) * 4 - 2, _rand(5, 3, seed=1) * 4 - 2
    found = answer(mean, log_variance)
    require(tuple(found.shape) == (5,), f"one number for each code, (5,), not {tuple(found.shape)}")
    zero = torch.zeros(2, 3)
    require(float(answer(zero, zero).abs().max()) < 1e-6, "mean 0 and log variance 0 is the prior itself: 0")
    require(
        bool((found > 0).all()),
        "a divergence is never negative (is the second argument the *log* of sigma^2?)",
    )
    shifted = answer(torch.tensor([[2.0]]), torch.zeros(1, 1))
    require(abs(float(shifted) - 2) < 1e-5, f"mean 2, variance 1 costs 2 nats, not {float(shifted):.3g}")
    codes = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(0.0, 1.0)
    expected = torch.distributions.kl_divergence(codes, prior).sum(dim=1)
    require(torch.allclose(found, expected, atol=1e-4), "1/2 (mu^2 + sigma^2 - log sigma^2 - 1), summed")


@exercise("10.2")
def bound(answer: Callable[[float, float, float, float, float], float]) -> None:
    """the ELBO of a linear decoder, and where it is tight"""
    x, weight, noise = 1.3, 0.8, 0.5
    total = weight**2 + noise**2
    evidence = -0.5 * (math.log(2 * math.pi * total) + x**2 / total)
    variance = noise**2 / total
    mean = weight * x / total
    for m, v in ((0.0, 1.0), (0.5, 0.1), (mean, 2 * variance), (-1.0, 0.3)):
        value = float(answer(x, m, v, weight, noise))
        require(value < evidence, f"a lower bound, but {value:.4f} is above log p(x) = {evidence:.4f}")
        log_ratio = math.log(variance / v)
        gap = 0.5 * ((v + (m - mean) ** 2) / variance - 1 + log_ratio)
        require(
            abs(evidence - value - gap) < 1e-6,
            f"the gap to log p(x) is KL(q || posterior) = {gap:.4f}, yours is {evidence - value:.4f}",
        )
    tight = float(answer(x, mean, variance, weight, noise))
    require(abs(tight - evidence) < 1e-6, "at the true posterior the bound is log p(x)")
    other = float(answer(2 * x, 0.3, 0.7, 1.7, 0.9)) - float(answer(2 * x, 0.3, 0.7, 1.7, 1.9))
    expected = _elbo(2 * x, 0.3, 0.7, 1.7, 0.9) - _elbo(2 * x, 0.3, 0.7, 1.7, 1.9)
    require(abs(other - expected) < 1e-6, "use the weight and the noise that are given")


def _elbo(x: float, mean: float, variance: float, weight: float, noise: float) -> float:
    error = (x - weight * mean) ** 2 + weight**2 * variance
    restored = -0.5 * (math.log(2 * math.pi * noise**2) + error / noise**2)
    return restored - 0.5 * (mean**2 + variance - math.log(variance) - 1)


@exercise("10.3")
def whole_ssim(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """SSIM with one window over the whole image"""
    first, second = _rand(4, 12, 12).double(), _rand(4, 12, 12, seed=1).double()
    found = answer(first, second)
    require(tuple(found.shape) == (4,), f"one number for each pair, (4,), not {tuple(found.shape)}")
    require(torch.allclose(answer(first, first), torch.ones(4).double()), "equal images: 1")
    require(torch.allclose(found, answer(second, first)), "exchange the images: nothing changes")
    require(
        bool((answer(first, 1 - first) < 0).all()), "an image and its negative have a negative covariance"
    )
    dark = answer(first * 0, first * 0)
    require(
        torch.allclose(dark, torch.ones(4).double()), "two black images are equal: 1 (the constants c1, c2)"
    )
    a, b = first.flatten(1), second.flatten(1)
    mean_a, mean_b = a.mean(dim=1), b.mean(dim=1)
    covariance = (a * b).mean(dim=1) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    spread = a.var(dim=1, correction=0) + b.var(dim=1, correction=0)
    expected = luminance * (2 * covariance + 9e-4) / (spread + 9e-4)
    require(torch.allclose(found, expected, rtol=1e-4), "divide by n in variances, c1 = 0.01^2, c2 = 0.03^2")


@exercise("10.4")
def blind_prediction(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """predicting a pixel from around it, and never from itself"""
    images = _rand(2, 3, 9, 9).double().requires_grad_()
    found = answer(images)
    require(tuple(found.shape) == (2, 3, 9, 9), f"the images' shape (2, 3, 9, 9), not {tuple(found.shape)}")
    require(found.requires_grad, "the prediction does not depend on the image at all")
    (gradient,) = torch.autograd.grad(found[0, 1, 4, 4], images, retain_graph=True)
    require(float(gradient[0, :, 4, 4].abs().max()) == 0, "the pixel at (4, 4) sees itself")
    require(float(gradient.abs().sum()) > 0, "the pixel at (4, 4) sees nothing")
    (corner,) = torch.autograd.grad(found[0, 0, 0, 0], images)
    require(float(corner[0, :, 0, 0].abs().max()) == 0, "the pixel in the corner sees itself (padding?)")
    require(float(gradient[1].abs().max()) == 0, "it sees another image of the batch")
    flat = answer(torch.full((1, 3, 9, 9), 0.4).double())
    require(
        torch.allclose(flat[..., 4, 4], torch.tensor(0.4).double()), "on a plain image it predicts the image"
    )


@exercise("10.5")
def error_by_code(answer: Mapping[int, tuple[float, float]]) -> None:
    """what a wider code does to good pixels and to defects"""
    require(isinstance(answer, Mapping), "answer with a dict from code size to (error good, error defect)")
    require(len(answer) >= 4, f"at least four sizes, got {sorted(answer)}")
    require(max(answer) >= 16 * min(answer), "the largest at least 16 times the smallest")
    pairs = [tuple(float(value) for value in answer[size]) for size in sorted(answer)]
    require(all(len(pair) == 2 and min(pair) > 0 for pair in pairs), "two errors above 0 for each size")
    require(pairs[-1][0] < pairs[0][0], "the widest code does not restore good pixels better: more epochs?")
    require(pairs[-1][1] < pairs[0][1], "the widest code does not restore defects better: more epochs?")
