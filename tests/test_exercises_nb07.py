"""Each check of notebook 07 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch
import torch.nn.functional as F

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"07.{k}" for k in range(1, 5)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def truncated(good, noisy, margin):
    return F.relu(margin - good).mean() + F.relu(margin + noisy).mean()


def test_07_1_accepts_the_truncated_loss():
    assert check("07.1", truncated)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda g, n, m: F.relu(m - g), "one number"),
        (lambda g, n, m: (m - g).mean() + (m + n).mean(), "nothing to gain"),
        (lambda g, n, m: truncated(-g, -n, m), "nothing to gain"),
        (lambda g, n, m: F.relu(-g).mean() + F.relu(n).mean(), "costs 2.5"),
        (lambda g, n, m: F.relu(m - g).mean(), "noisy score"),
        (lambda g, n, m: F.relu(m - g).sum() + F.relu(m + n).sum(), "mean over good"),
        (lambda g, n, m: truncated(g, n, 0.5), "margin that is given"),
    ],
)
def test_07_1_rejects(answer, hint):
    rejects("07.1", answer, hint)


def coordinates(features, low=-1.0):
    batch, _, height, width = features.shape
    y = torch.linspace(low, 1, height, dtype=features.dtype).view(1, 1, -1, 1).expand(batch, 1, height, width)
    x = torch.linspace(low, 1, width, dtype=features.dtype).view(1, 1, 1, -1).expand(batch, 1, height, width)
    return torch.cat([features, x, y], dim=1)


def swapped(features):
    found = coordinates(features)
    return found[:, [0, 1, 2, 4, 3]]


def test_07_2_accepts_either_order_of_x_and_y():
    assert check("07.2", coordinates)
    assert check("07.2", swapped)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda f: f, "two channels more"),
        (lambda f: coordinates(f)[:, [3, 4, 0, 1, 2]], "come first"),
        (lambda f: coordinates(f, low=0.0), "from -1 to 1"),
        (lambda f: torch.cat([f, torch.randn(f.shape[0], 2, *f.shape[2:])], 1), "same in every"),
        (lambda f: coordinates(f.float()), "type"),
    ],
)
def test_07_2_rejects(answer, hint):
    rejects("07.2", answer, hint)


def softmin_score(distances):
    nearest = distances.argmin(dim=1, keepdim=True)
    return (F.softmin(distances, dim=1) * distances).gather(1, nearest)[:, 0]


def unsafe(distances):
    weights = (-distances).exp()
    return distances.amin(dim=1) * weights.amax(dim=1) / weights.sum(dim=1)


def test_07_3_accepts_the_weighted_distance():
    assert check("07.3", softmin_score)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda d: F.softmin(d, dim=1) * d, "one score for each row"),
        (lambda d: d.mean(dim=1), "its distance"),
        (lambda d: d.amin(dim=1), "share the weight"),
        (lambda d: (F.softmin(d, dim=1) * d)[:, 0], "order"),
        (lambda d: d.amin(dim=1) * F.softmin(2 * d, dim=1).amax(dim=1), "softmin over the neighbours"),
        (unsafe, "underflow"),
    ],
)
def test_07_3_rejects(answer, hint):
    rejects("07.3", answer, hint)


def test_07_4():
    assert check("07.4", {0.01: 0.7, 0.1: 0.9, 1.0: 0.8, 10.0: 0.5})
    rejects("07.4", [0.7, 0.8], "dict")
    rejects("07.4", {0.01: 0.7, 1.0: 0.9, 10.0: 0.8}, "four scales")
    rejects("07.4", {0.0: 0.7, 0.1: 0.9, 1.0: 0.8, 10.0: 0.5}, "second class")
    rejects("07.4", {0.1: 0.7, 0.2: 0.9, 0.3: 0.8, 0.4: 0.5}, "100 times")
    rejects("07.4", {0.01: 1.7, 0.1: 0.9, 1.0: 0.8, 10.0: 0.5}, "between 0 and 1")
    rejects("07.4", {0.01: 0.9, 0.1: 0.9, 1.0: 0.9, 10.0: 0.9}, "equal values")
    rejects("07.4", {0.01: 0.5, 0.1: 0.55, 1.0: 0.5, 10.0: 0.4}, "near chance")
    rejects("07.4", {0.01: 0.6, 0.1: 0.7, 1.0: 0.8, 10.0: 0.9}, "at an end")
