"""Each check of notebook 04 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch
from scipy.stats import chi2
from torch import nn

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"04.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def coupling(x, s, t):
    return torch.cat([x[:, :2], x[:, 2:] * s.exp() + t], dim=1), s.sum(dim=1)


def with_scale(change):
    """`coupling` with another scale of the second half."""
    return lambda x, s, t: (torch.cat([x[:, :2], change(x[:, 2:], s, t)], dim=1), s.sum(dim=1))


def test_04_1_accepts_a_coupling():
    assert check("04.1", coupling)
    assert check("04.1", lambda x, s, t: list(coupling(x, s, t)))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, s, t: coupling(x, s, t)[0], "two things"),
        (lambda x, s, t: (coupling(x, s, t)[0][:, 2:], s.sum(dim=1)), "shape of x"),
        (lambda x, s, t: (coupling(x, s, t)[0], s.sum()), "per sample"),
        (lambda x, s, t: (coupling(x, s, t)[0], s), "per sample"),
        (lambda x, s, t: (torch.cat([x[:, :2] + 1, x[:, 2:]], 1), s.sum(dim=1)), "first two numbers"),
        (with_scale(lambda x2, s, t: x2 * s + t), "was exp"),
        (lambda x, s, t: (coupling(x, s, t)[0], s.exp().sum(dim=1)), "log-determinant is 0"),
        (lambda x, s, t: (coupling(x, s, t)[0], -s.sum(dim=1)), "the sum of s"),
        (lambda x, s, t: (coupling(x, s, t)[0], s.mean(dim=1)), "the sum of s"),
        (lambda x, s, t: (coupling(x, s, t)[0], (s * t).sum(dim=1)), "does not change a volume"),
        (with_scale(lambda x2, s, t: x2 * s.exp() - t), "t is added"),
        (with_scale(lambda x2, s, t: (x2 + t) * s.exp()), "scale first"),
    ],
)
def test_04_1_rejects(answer, hint):
    rejects("04.1", answer, hint)


class Additive(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        x1, x2 = x.chunk(2, dim=1)
        return torch.cat([x1, x2 + self.network(x1)], dim=1), x.new_zeros(len(x))

    def inverse(self, y):
        y1, y2 = y.chunk(2, dim=1)
        return torch.cat([y1, y2 - self.network(y1)], dim=1)


class Identity(Additive):
    def forward(self, x):
        return x, x.new_zeros(len(x))

    def inverse(self, y):
        return y


class ChangesBoth(Additive):
    def forward(self, x):
        x1, x2 = x.chunk(2, dim=1)
        return torch.cat([x1 + self.network(x2), x2 + self.network(x1)], dim=1), x.new_zeros(len(x))


class Subtracts(Additive):
    def forward(self, x):
        x1, x2 = x.chunk(2, dim=1)
        return torch.cat([x1, x2 - self.network(x1)], dim=1), x.new_zeros(len(x))


class OwnLogDet(Additive):
    def forward(self, x):
        return super().forward(x)[0], self.network(x[:, :3]).sum(dim=1)


class ForwardTwice(Additive):
    def inverse(self, y):
        return self.forward(y)[0]


class InverseWithLogDet(Additive):
    def inverse(self, y):
        return super().inverse(y), y.new_zeros(len(y))


class Remembers(Additive):
    def forward(self, x):
        self.last = x
        return super().forward(x)

    def inverse(self, y):
        return self.last


class HidesWeights(Additive):
    def __init__(self, network):
        nn.Module.__init__(self)
        self.__dict__["network"] = network


def test_04_2_accepts_nice():
    assert check("04.2", Additive)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda network: network.forward, "derives from"),
        (Identity, "nothing was added"),
        (ChangesBoth, "first half"),
        (Subtracts, "is added to the second"),
        (OwnLogDet, "changes no volume"),
        (ForwardTwice, "is not x"),
        (InverseWithLogDet, "x alone"),
        (Remembers, "is not y"),
        (HidesWeights, "must be parameters"),
    ],
)
def test_04_2_rejects(answer, hint):
    rejects("04.2", answer, hint)


def mix(x, weight):
    positions = x.shape[2] * x.shape[3]
    log_det = positions * weight.slogdet().logabsdet
    return torch.einsum("ij,bjhw->bihw", weight, x), log_det.expand(len(x))


def test_04_3_accepts_einsum_and_convolution():
    assert check("04.3", mix)
    assert check("04.3", lambda x, w: (nn.functional.conv2d(x, w[:, :, None, None]), mix(x, w)[1]))


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda x, w: (mix(x, w)[0], w.slogdet().logabsdet), "per sample"),
        (lambda x, w: (x, mix(x, w)[1]), "y = W x"),
        (lambda x, w: (mix(x, w.T)[0], mix(x, w)[1]), "transposed"),
        (lambda x, w: (mix(x, w)[0], w.slogdet().logabsdet.expand(len(x))), "how many positions"),
        (lambda x, w: (mix(x, w)[0], -mix(x, w)[1]), "how many positions"),
        (lambda x, w: (mix(x, w)[0], (8 * w.det().log()).expand(len(x))), "may be negative"),
        (
            lambda x, w: (mix(x, w)[0], (x[0, 0].numel() * w.det().abs().log()).expand(len(x))),
            "underflows",
        ),
        (
            lambda x, w: (mix(x, w)[0], mix(x, w)[1] * torch.arange(1, len(x) + 1)),
            "depends on W",
        ),
    ],
)
def test_04_3_rejects(answer, hint):
    rejects("04.3", answer, hint)


def false_alarms(z):
    tail = chi2.sf(z.square().sum(dim=1).double().numpy(), df=z.shape[1])
    return z.shape[2] * z.shape[3] * torch.tensor(tail)


def by_gamma(z):
    squares = z.square().sum(dim=1).double()
    half = torch.full_like(squares, z.shape[1] / 2)
    return z.shape[2] * z.shape[3] * torch.special.gammaincc(half, squares / 2)


def test_04_4_accepts_scipy_and_the_gamma_function():
    assert check("04.4", false_alarms)
    assert check("04.4", lambda z: false_alarms(z).numpy())
    assert check("04.4", lambda z: false_alarms(z).float())
    assert check("04.4", by_gamma)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda z: false_alarms(z).flatten(1).amin(dim=1), "per position"),
        (lambda z: false_alarms(z).log(), "logarithm"),
        (lambda z: false_alarms(z) / 64, "times 64"),
        (lambda z: len(z) * false_alarms(z), "times 64|other images"),
        (lambda z: 64 * torch.tensor(chi2.cdf(z.square().sum(dim=1).double().numpy(), df=6)), "times 64"),
        (lambda z: 64 * torch.tensor(chi2.sf(z.square().sum(dim=1).double().numpy(), df=1)), "6 degrees"),
        (lambda z: 64 * torch.tensor(chi2.sf(z.square().mean(dim=1).double().numpy(), df=6)), "6 degrees"),
        (
            lambda z: 64 * (1 - torch.tensor(chi2.cdf(z.square().sum(dim=1).numpy(), df=6)).float()),
            "survival function",
        ),
    ],
)
def test_04_4_rejects(answer, hint):
    rejects("04.4", answer, hint)


def test_04_5_accepts_a_rising_and_a_falling_curve():
    assert check("04.5", {1: 0.75, 2: 0.8, 4: 0.82, 8: 0.84})
    assert check("04.5", {1: 0.84, 2: 0.82, 4: 0.8, 8: torch.tensor(0.75)})


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        ([0.7, 0.8, 0.8, 0.8], "dict"),
        ({1: 0.7, 8: 0.8}, "keys"),
        ({1: 0.7, 2: 0.8, 4: 0.8, 8: 1.2}, "between 0 and 1"),
        ({1: 0.7, 2: 0.7, 4: 0.7, 8: 0.7}, "passed on"),
        ({1: 0.8, 2: 0.7, 4: 0.65, 8: 0.2}, "near chance"),
        ({1: 0.8, 2: 0.7, 4: 0.65, 8: float("nan")}, "between 0 and 1"),
    ],
)
def test_04_5_rejects(answer, hint):
    rejects("04.5", answer, hint)
