"""Each check of notebook 03 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"03.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def knn(queries, memory, k):
    return torch.cdist(queries, memory).topk(k, dim=1, largest=False).values.mean(dim=1)


def test_03_1_accepts_the_mean_of_the_nearest():
    assert check("03.1", knn)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda q, m, k: torch.cdist(q, m).topk(k, dim=1, largest=False).values, "one number per query"),
        (lambda q, m, k: torch.cdist(q, m).topk(k, dim=1).values.mean(dim=1), "has distance 0"),
        (lambda q, m, k: torch.cdist(q, m).topk(k, largest=False).values[:, -1], "their mean is 2"),
        (
            lambda q, m, k: torch.cdist(q, m).topk(k, largest=False).values.square().mean(dim=1),
            "no squares",
        ),
        (lambda q, m, k: knn(q, m, k) / knn(q, m, k).max(), "depends on the other queries"),
    ],
)
def test_03_1_rejects(answer, hint):
    rejects("03.1", answer, hint)


def weight(to_star, to_support):
    return 1 - (to_star - to_support.logsumexp(dim=1)).exp()


def test_03_2_accepts_both_safe_forms():
    assert check("03.2", weight)
    assert check("03.2", lambda star, support: 1 - support.softmax(dim=1)[:, 0])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda star, support: 1 - star.exp() / support.exp().sum(dim=1), "overflow"),
        (lambda star, support: 1 - star / support.sum(dim=1), "exp left out"),
        (lambda star, support: support.softmax(dim=1)[:, 0], "weight 3/4"),
        (lambda star, support: 1 - support.softmax(dim=1), "one weight per image"),
        (lambda star, support: 1 - (-support).softmax(dim=1)[:, 0], "1 minus the fraction"),
    ],
)
def test_03_2_rejects(answer, hint):
    rejects("03.2", answer, hint)


def farthest_first(points, count):
    chosen = [0]
    while len(chosen) < count:
        chosen.append(int(torch.cdist(points, points[chosen]).amin(dim=1).argmax()))
    return torch.tensor(chosen)


def test_03_3_accepts_the_greedy_choice():
    assert check("03.3", farthest_first)
    assert check("03.3", lambda points, count: farthest_first(points, count).tolist())


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda points, count: torch.arange(count), "another one"),
        (lambda points, count: torch.zeros(count).long(), "chosen twice"),
        (lambda points, count: farthest_first(points, count)[1:], "12 indices"),
        (lambda points, count: farthest_first(points, count).flip(0), "start with point 0"),
    ],
)
def test_03_3_rejects(answer, hint):
    rejects("03.3", answer, hint)


def appended(embedding, grid, weight, order="ij"):
    axes = [torch.linspace(0, 1, n) for n in grid]
    where = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)
    where = where.flatten(0, 1) if order == "ij" else where.transpose(0, 1).flatten(0, 1)
    return torch.cat([embedding, (weight * where).expand(len(embedding), -1, -1)], dim=2)


def test_03_4_accepts_rows_and_columns():
    assert check("03.4", appended)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda e, grid, weight: e, "becomes"),
        (lambda e, grid, weight: appended(e * 2, grid, weight), "the vector itself"),
        (lambda e, grid, weight: appended(e, grid, 1.0), "times the weight"),
        (lambda e, grid, weight: appended(e, grid, weight, "ji"), "row by row"),
        (lambda e, grid, weight: appended(e, grid, weight or 1.0), "says nothing"),
    ],
)
def test_03_4_rejects(answer, hint):
    rejects("03.4", answer, hint)


def test_03_5_accepts_a_rising_and_a_falling_curve():
    assert check("03.5", {1: 0.85, 5: 0.7, 20: 0.8, 80: 0.8})
    assert check("03.5", {1: 0.65, 5: 0.7, 20: 0.8, 80: 0.85})


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ({1: 0.6, 80: 0.8}, "keys"),
        ({1: 0.6, 5: 0.7, 20: 0.8, 80: 1.2}, "between 0 and 1"),
        ({1: 0.6, 5: 0.6, 20: 0.6, 80: 0.6}, "passed on"),
        ({1: 0.8, 5: 0.7, 20: 0.65, 80: 0.2}, "below 0.6"),
    ],
)
def test_03_5_rejects(answer, hint):
    rejects("03.5", answer, hint)
