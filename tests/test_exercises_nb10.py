"""Each check of notebook 10 accepts a right answer and rejects wrong ones with a hint."""

import math

import pytest
import torch
import torch.nn.functional as F

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"10.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def kl(mean, log_variance):
    return 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum(dim=1)


def test_10_1_accepts_the_divergence():
    assert check("10.1", kl)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda m, v: kl(m, v).sum(), "for each code"),
        (lambda m, v: kl(m, v) + 1, "prior itself"),
        (lambda m, v: -kl(m, v), "never negative"),
        (lambda m, v: 2 * kl(m, v), "2 nats"),
        (lambda m, v: kl(m, 2 * v), "summed"),
    ],
)
def test_10_1_rejects(answer, hint):
    rejects("10.1", answer, hint)


def elbo(x, mean, variance, weight, noise):
    error = (x - weight * mean) ** 2 + weight**2 * variance
    restored = -0.5 * (math.log(2 * math.pi * noise**2) + error / noise**2)
    return restored - 0.5 * (mean**2 + variance - math.log(variance) - 1)


def at_the_mean(x, mean, variance, weight, noise):
    return elbo(x, mean, variance, weight, noise) + 0.5 * weight**2 * variance / noise**2


def test_10_2_accepts_the_bound():
    assert check("10.2", elbo)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda *a: elbo(*a) + 10, "lower bound"),
        (lambda *a: elbo(*a) - 1, "KL\\(q"),
        (at_the_mean, "lower bound|KL\\(q"),
        (lambda x, m, v, w, n: elbo(x, m, v, 0.8, 0.5), "that are given"),
    ],
)
def test_10_2_rejects(answer, hint):
    rejects("10.2", answer, hint)


def similar(first, second, c1=1e-4, c2=9e-4, correction=0):
    a, b = first.flatten(1), second.flatten(1)
    mean_a, mean_b = a.mean(dim=1), b.mean(dim=1)
    covariance = (a * b).mean(dim=1) - mean_a * mean_b
    spread = a.var(dim=1, correction=correction) + b.var(dim=1, correction=correction)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return luminance * (2 * covariance + c2) / (spread + c2)


def test_10_3_accepts_one_window():
    assert check("10.3", similar)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: similar(a, b).mean(), "for each pair"),
        (lambda a, b: 0.5 * similar(a, b), "equal images"),
        (lambda a, b: similar(a, b) - (a.sum((1, 2)) - b.sum((1, 2))), "nothing changes"),
        (lambda a, b: similar(a, b).abs(), "negative covariance"),
        (lambda a, b: similar(a, b, c1=0.0), "black images"),
        (lambda a, b: similar(a, b, c2=0.1), "c2 = 0.03"),
    ],
)
def test_10_3_rejects(answer, hint):
    rejects("10.3", answer, hint)


def around(images, hole=True, padding=1):
    kernel = torch.ones(3, 1, 3, 3, dtype=images.dtype)
    kernel[:, :, 1, 1] = 0 if hole else 1
    return F.conv2d(images, kernel / kernel[0].sum(), padding=padding, groups=3)


def of_the_batch(images):
    return around(images) + 1e-3 * images.roll(1, dims=0)


def replicated(images):
    kernel = torch.ones(3, 1, 3, 3, dtype=images.dtype)
    kernel[:, :, 1, 1] = 0
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel / 8, groups=3)


def test_10_4_accepts_the_ring():
    assert check("10.4", around)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda i: around(i)[:, :1], "images' shape"),
        (lambda i: torch.zeros_like(i), "does not depend"),
        (lambda i: around(i, hole=False), "sees itself"),
        (lambda i: around(i) * 0, "sees nothing"),
        (replicated, "padding"),
        (of_the_batch, "another image"),
        (lambda i: 0.5 * around(i), "plain image"),
    ],
)
def test_10_4_rejects(answer, hint):
    rejects("10.4", answer, hint)


def test_10_5():
    assert check("10.5", {2: (0.5, 0.9), 8: (0.3, 0.6), 16: (0.2, 0.4), 64: (0.1, 0.2)})
    rejects("10.5", [0.5], "dict")
    rejects("10.5", {2: (0.5, 0.9), 64: (0.1, 0.2)}, "four sizes")
    rejects("10.5", {2: (0.5, 0.9), 3: (0.3, 0.6), 4: (0.2, 0.4), 5: (0.1, 0.2)}, "16 times")
    rejects("10.5", {2: (0.5, 0.9), 8: (0.3, 0.6), 16: (0.2, 0.4), 64: (0.1, 0.0)}, "above 0")
    rejects("10.5", {2: (0.1, 0.9), 8: (0.3, 0.6), 16: (0.2, 0.4), 64: (0.1, 0.2)}, "good pixels")
    rejects("10.5", {2: (0.5, 0.1), 8: (0.3, 0.6), 16: (0.2, 0.4), 64: (0.1, 0.2)}, "restore defects")
