"""Each check of notebook 08 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch
import torch.nn.functional as F

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"08.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def distances(kernel, weights):
    return kernel.diagonal() - 2 * kernel @ weights + weights @ kernel @ weights


def test_08_1_accepts_the_kernel_distance():
    assert check("08.1", distances)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda k, a: distances(k, a).sum(), "one number for each point"),
        (lambda k, a: k.diagonal() - 2 * k @ a, "linear kernel"),
        (lambda k, a: distances(k, a).sqrt(), "linear kernel"),
        (lambda k, a: 1 - 2 * k @ a + a @ k @ a, "linear kernel"),
    ],
)
def test_08_1_rejects(answer, hint):
    rejects("08.1", answer, hint)


def hypersphere(outputs, labels, floor=1e-6):
    mean = ((outputs.square() + 1).sqrt() - 1).flatten(1).mean(dim=1)
    anomalous = -torch.log((1 - (-mean).exp()).clamp(min=floor))
    return torch.where(labels == 1, anomalous, mean).mean()


def per_position(outputs, labels):
    heat = ((outputs.square() + 1).sqrt() - 1).flatten(1)
    anomalous = -torch.log((1 - (-heat).exp()).clamp(min=1e-6))
    return torch.where(labels[:, None] == 1, anomalous, heat).mean()


def test_08_2_accepts_the_loss():
    assert check("08.2", hypersphere)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda o, y: ((o.square() + 1).sqrt() - 1).flatten(1).mean(dim=1), "one number"),
        (lambda o, y: hypersphere(o, 1 - y), "costs nothing"),
        (lambda o, y: o.square().mean() * (1 - y.float()).mean(), "sqrt"),
        (lambda o, y: hypersphere(o, torch.zeros_like(y)), "anomalous one far away"),
        (per_position, "mean over positions"),
        (lambda o, y: hypersphere(o, y, floor=0.0), "off 0"),
    ],
)
def test_08_2_rejects(answer, hint):
    rejects("08.2", answer, hint)


def shifted(features, centre):
    return F.normalize(F.normalize(features, dim=1) - centre, dim=1)


def test_08_3_accepts_the_mean_shift():
    assert check("08.3", shifted)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda f, c: shifted(f, c).T, "shape stays"),
        (lambda f, c: F.normalize(f, dim=1) - c, "length 1"),
        (lambda f, c: F.normalize(f - c, dim=1), "before the centre"),
        (lambda f, c: F.normalize(f, dim=1), "subtract the centre"),
        (lambda f, c: shifted(f, -c), "subtract the centre"),
    ],
)
def test_08_3_rejects(answer, hint):
    rejects("08.3", answer, hint)


def penalty(now, start, fisher):
    return sum((f * (p - s).square()).sum() for p, s, f in zip(now, start, fisher, strict=True))


def test_08_4_accepts_the_penalty_and_half_of_it():
    assert check("08.4", penalty)
    assert check("08.4", lambda *given: penalty(*given) / 2)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (
            lambda n, s, f: torch.stack([(a - b).square().sum() for a, b in zip(n, s, strict=True)]),
            "one number",
        ),
        (lambda n, s, f: penalty(n, s, f) + 1, "no spring"),
        (lambda n, s, f: penalty(n, s, [torch.ones_like(x) for x in f]), "sum over all weights"),
        (lambda n, s, f: penalty(n[:1], s[:1], f[:1]), "sum over all weights"),
        (lambda n, s, f: penalty([n[0], n[1].detach()], s, f), "reach every"),
        (lambda n, s, f: penalty(n, s, f).detach(), "reach every"),
    ],
)
def test_08_4_rejects(answer, hint):
    rejects("08.4", answer, hint)


def test_08_5():
    assert check("08.5", {"bias": [1.0, 0.1, 0.001], "no bias": [1.0, 0.8, 0.5]})
    rejects("08.5", [1.0, 0.1], "dict")
    rejects("08.5", {"bias": [1.0, 0.1, 0.001]}, "two settings")
    rejects("08.5", {"bias": [1.0, 0.001], "no bias": [1.0, 0.5]}, "three epochs")
    rejects("08.5", {"bias": [0.0, 0.1, 0.001], "no bias": [1.0, 0.8, 0.5]}, "above 0")
    rejects("08.5", {"bias": [1.0, 0.9, 0.8], "no bias": [1.0, 0.8, 0.5]}, "none collapses")
    rejects("08.5", {"bias": [1.0, 0.1, 0.001], "no bias": [1.0, 0.01, 0.002]}, "none keeps")
