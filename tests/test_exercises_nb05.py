"""Each check of notebook 05 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"05.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def error(students, teacher):
    return (students.mean(dim=0) - teacher).square().sum(dim=1)


def variance(students):
    return (students - students.mean(dim=0)).square().sum(dim=2).mean(dim=0)


def test_05_1_accepts_both_ways_to_write_the_variance():
    assert check("05.1", lambda s, t: (error(s, t), variance(s)))
    moments = lambda s: s.square().sum(2).mean(0) - s.mean(0).square().sum(1)  # noqa: E731
    assert check("05.1", lambda s, t: [error(s, t), moments(s)])


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda s, t: error(s, t), "two things"),
        (lambda s, t: (error(s, t), s.var(dim=0)), "variance has one number per position"),
        (lambda s, t: (error(s, t).mean(), variance(s)), "error has one number per position"),
        (lambda s, t: (error(s, t) / 5, variance(s)), "summed over components"),
        (lambda s, t: (error(s, t) + 1, variance(s)), "err by 0"),
        (lambda s, t: ((s - t).square().sum(2).mean(0), variance(s)), "students' mean"),
        (lambda s, t: (error(s, t), (s - t).square().sum(2).mean(0)), "is error, not variance"),
        (lambda s, t: (error(s, t), s.var(dim=0).sum(dim=1)), "divide by M"),
    ],
)
def test_05_1_rejects(answer, hint):
    rejects("05.1", answer, hint)


def hard(squared, quantile):
    return squared[squared >= torch.quantile(squared, quantile)].mean()


def test_05_2_accepts_the_hard_mean():
    assert check("05.2", hard)


def per_image(squared, quantile):
    return torch.stack([hard(image, quantile) for image in squared]).mean()


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, q: x, "one number"),
        (lambda x, q: x.mean(), "not below that quantile"),
        (lambda x, q: hard(x, 1 - q) if q else x.mean(), "not below that quantile"),
        (lambda x, q: x[x >= torch.quantile(x, q)].sum(), "plain mean"),
        (lambda x, q: torch.where(x >= torch.quantile(x, q), x, 0.0).mean(), "not below that quantile"),
        (per_image, "of all elements"),
        (lambda x, q: hard(x.detach(), q).requires_grad_(), "no gradient"),
    ],
)
def test_05_2_rejects(answer, hint):
    rejects("05.2", answer, hint)


def scaled(normal, maps, low=0.9, high=0.995, top=0.1):
    a, b = torch.quantile(normal, low), torch.quantile(normal, high)
    return top * (maps - a) / (b - a)


def test_05_3_accepts_the_straight_line():
    assert check("05.3", scaled)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda n, m: scaled(n, m, top=1.0), "goes to 0.1"),
        (lambda n, m: scaled(n, m, low=0.5), "goes to 0"),
        (lambda n, m: scaled(m, m), "goes to 0"),
        (lambda n, m: scaled(n, m).clamp(min=0), "nothing is cut off"),
        (lambda n, m: scaled(n, m).flatten(1), "keep their shape"),
        (lambda n, m: scaled(n, m) * (1 + (len(m) > 2)), "images beside it"),
    ],
)
def test_05_3_rejects(answer, hint):
    rejects("05.3", answer, hint)


def field(layers):
    seen, stride = 1, 1
    for kernel, step in layers:
        seen, stride = seen + (kernel - 1) * stride, stride * step
    return seen, stride


def test_05_4_accepts_the_recursion():
    assert check("05.4", field)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda layers: (sum(k - 1 for k, _ in layers) + 1, field(layers)[1]), "times the stride"),
        (lambda layers: (field(layers)[0], 1), "in steps of 2"),
        (lambda layers: field(layers) if layers else (0, 1), "sees itself"),
    ],
)
def test_05_4_rejects(answer, hint):
    rejects("05.4", answer, hint)


def test_05_5():
    assert check("05.5", {5: 0.7, 20: 0.8, 80: 0.9})
    rejects("05.5", [0.7, 0.8], "dict")
    rejects("05.5", {1: 0.7, 20: 0.8, 80: 0.9}, "keys")
    rejects("05.5", {5: 0.9, 20: 0.9, 80: 0.9}, "equal values")
    rejects("05.5", {5: 0.7, 20: 1.8, 80: 0.9}, "between 0 and 1")
    rejects("05.5", {5: 0.5, 20: 0.4, 80: 0.45}, "near chance")
