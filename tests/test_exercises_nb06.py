"""Each check of notebook 06 accepts a right answer and rejects wrong ones with a hint."""

import math

import pytest
import torch
import torch.nn.functional as F

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"06.{k}" for k in range(1, 5)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def cosine(a, b):
    return 1 - (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(dim=1)


def test_06_1_accepts_the_cosine_map():
    assert check("06.1", cosine)
    assert check("06.1", lambda a, b: 1 - F.cosine_similarity(a, b))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda a, b: cosine(a, b)[:, None], "one number per position"),
        (lambda a, b: 1 - cosine(a, b), "equal vectors"),
        (lambda a, b: cosine(a, b).clamp(max=1), "opposite"),
        (lambda a, b: (a - b).square().sum(dim=1), "opposite"),
        (
            lambda a, b: 1 - F.cosine_similarity(a.flatten(1), b.flatten(1)).view(-1, 1, 1).expand(-1, 3, 4),
            "hint",
        ),
        (lambda a, b: 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)), "NaN"),
    ],
)
def test_06_1_rejects(answer, hint):
    with pytest.raises(Wrong, match=None if hint == "hint" else hint):
        check("06.1", answer)


def sinkhorn(cost, epsilon, iterations=300):
    """In logarithms: potentials f, g so that the plan is exp((f + g - cost) / epsilon)."""
    n, m = cost.shape
    f, g = cost.new_zeros(n), cost.new_zeros(m)
    for _ in range(iterations):
        f = -epsilon * (torch.logsumexp((g - cost) / epsilon, dim=1) + math.log(n))
        g = -epsilon * (torch.logsumexp((f[:, None] - cost) / epsilon, dim=0) + math.log(m))
    return ((f[:, None] + g - cost) / epsilon).exp()


def plain(cost, epsilon):
    kernel = (-cost / epsilon).exp()
    u, v = torch.ones(len(cost)).to(cost), torch.ones(cost.shape[1]).to(cost)
    for _ in range(300):
        u = 1 / len(cost) / (kernel @ v)
        v = 1 / cost.shape[1] / (kernel.T @ u)
    return u[:, None] * kernel * v


def test_06_2_accepts_the_iteration_in_logarithms():
    assert check("06.2", sinkhorn)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda c, e: sinkhorn(c, e).T, "like the cost"),
        (lambda c, e: 24 * sinkhorn(c, e), "sends 1/4"),
        (lambda c, e: sinkhorn(c, e, iterations=1) * 1.0 if e > 0.1 else sinkhorn(c, e), "1/4"),
        (lambda c, e: torch.full_like(c, 1 / c.numel()), "diag"),
        (lambda c, e: sinkhorn(-c, e), "with a minus"),
        (lambda c, e: sinkhorn(c, 1.0), "divided by epsilon"),
        (plain, "NaN"),
    ],
)
def test_06_2_rejects(answer, hint):
    rejects("06.2", answer, hint)


def selected(student, teacher):
    return student * teacher.flatten(2).softmax(dim=-1).view_as(teacher)


def test_06_3_accepts_the_selection():
    assert check("06.3", selected)


def unsafe(student, teacher):
    weights = teacher.exp()
    return student * weights / weights.sum(dim=(2, 3), keepdim=True)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, t: selected(s, t).sum(dim=1), "shape stays"),
        (lambda s, t: s * t.softmax(dim=1), "sum to 1"),
        (lambda s, t: s * t.flatten(1).softmax(dim=-1).view_as(t), "sum to 1"),
        (lambda s, t: s * t, "sum to 1"),
        (lambda s, t: selected(t, s), "sum to 1"),
        (unsafe, "overflow"),
    ],
)
def test_06_3_rejects(answer, hint):
    rejects("06.3", answer, hint)


def test_06_4():
    assert check("06.4", {4: 0.7, 16: 0.8, 64: 0.9})
    rejects("06.4", [0.7, 0.8], "dict")
    rejects("06.4", {4: 0.7, 64: 0.9}, "three widths")
    rejects("06.4", {4: 0.7, 8: 0.75, 16: 0.9}, "16 times")
    rejects("06.4", {4: 0.9, 16: 0.9, 64: 0.9}, "equal values")
    rejects("06.4", {4: 0.9, 16: 1.9, 64: 0.9}, "between 0 and 1")
    rejects("06.4", {4: 0.5, 16: 0.4, 64: 0.3}, "near chance")
