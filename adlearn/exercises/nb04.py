"""Checks of notebook 04."""

from collections.abc import Callable, Mapping

import torch
from scipy.stats import chi2
from torch import nn
from torch.autograd.functional import jacobian

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _log_det(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """log |det| of `function`'s Jacobian at x (1, ...), in float64."""
    matrix = jacobian(function, x).reshape(x.numel(), x.numel())
    return matrix.double().slogdet().logabsdet


def _pair(answer: object, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """`answer` as (values of `shape`, log-determinant (B,)), or a hint."""
    require(isinstance(answer, tuple | list) and len(answer) == 2, "return two things: y, log-determinant")
    y, log_det = answer
    require(tuple(y.shape) == shape, f"y has the shape of x, {shape}, not {tuple(y.shape)}")
    require(
        isinstance(log_det, torch.Tensor) and tuple(log_det.shape) == shape[:1],
        f"one log-determinant per sample, {shape[:1]}, a tensor",
    )
    return y, log_det


@exercise("04.1")
def coupling(
    answer: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    """an affine coupling and its log-determinant"""
    x, s, t = _random(5, 4), _random(5, 2, seed=1), _random(5, 2, seed=2)
    y, log_det = _pair(answer(x, s, t), (5, 4))
    require(torch.equal(y[:, :2], x[:, :2]), "the first two numbers stay as they are, Eq. (4)")
    still, none = _pair(answer(x, torch.zeros(5, 2), torch.zeros(5, 2)), (5, 4))
    require(torch.allclose(still, x), "with s = t = 0 nothing changes: was exp(s) meant, not s?")
    require(bool((none == 0).all()), "with s = 0 the log-determinant is 0")
    moved, _ = _pair(answer(x, torch.zeros(5, 2), t), (5, 4))
    require(torch.allclose(moved[:, 2:], x[:, 2:] + t, atol=1e-6), "t is added")
    _, after = _pair(answer(x, s, t + 1), (5, 4))
    require(torch.allclose(after, log_det), "a shift does not change a volume")
    for i in range(5):
        true = _log_det(lambda row, i=i: answer(row, s[i : i + 1], t[i : i + 1])[0], x[i : i + 1])
        require(
            abs(log_det[i].item() - true.item()) < 1e-4,
            f"the Jacobian's log-determinant is {true:.3f}, yours {log_det[i]:.3f}: the sum of s",
        )
    require(
        torch.allclose(y[:, 2:], x[:, 2:] * s.exp() + t, atol=1e-5), "scale first, then shift: x exp(s) + t"
    )


@exercise("04.2")
def additive(answer: Callable[[nn.Module], nn.Module]) -> None:
    """NICE's additive coupling, undone without undoing its network"""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3))
    layer, x = answer(network), _random(7, 6)
    require(isinstance(layer, nn.Module), "Additive is a class that derives from nn.Module")
    y, log_det = _pair(layer(x), (7, 6))
    require(not torch.allclose(y, x), "nothing was added")
    require(torch.equal(y[:, :3], x[:, :3]), "the first half stays as it is")
    require(
        torch.allclose(y[:, 3:] - x[:, 3:], network(x[:, :3]), atol=1e-5), "m(x1) is added to the second half"
    )
    require(bool((log_det == 0).all()), "adding moves points and changes no volume: the log-determinant is 0")
    back = layer.inverse(y)
    require(isinstance(back, torch.Tensor), "inverse(y) returns x alone")
    require(torch.allclose(back, x, atol=1e-5), "inverse(forward(x)) is not x")
    wild = _random(7, 6, seed=3)
    require(torch.allclose(layer(layer.inverse(wild))[0], wild, atol=1e-5), "forward(inverse(y)) is not y")
    require(
        len(list(layer.parameters())) == len(list(network.parameters())),
        "the network's weights must be parameters of the layer, to be trained: call super().__init__()",
    )


@exercise("04.3")
def mix(answer: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]) -> None:
    """an invertible 1x1 convolution and its log-determinant"""
    x, weight = _random(2, 3, 2, 4), _random(3, 3, seed=1) + 2 * torch.eye(3)
    y, log_det = _pair(answer(x, weight), (2, 3, 2, 4))
    require(torch.allclose(answer(x, torch.eye(3))[0], x, atol=1e-6), "the identity matrix changes nothing")
    expected = torch.einsum("ij,bjhw->bihw", weight, x)
    require(torch.allclose(y, expected, atol=1e-5), "at every position, y = W x: was W transposed?")
    true = _log_det(lambda maps: answer(maps, weight)[0], x[:1]).item()
    require(
        abs(log_det[0].item() - true) < 1e-3,
        f"the log-determinant of the whole map is {true:.3f}, yours {log_det[0]:.3f}: how many positions?",
    )
    require(torch.allclose(log_det, log_det[:1].expand(2)), "it depends on W and the size only, not on x")
    mirror = answer(x, torch.diag(torch.tensor([-1.0, 1.0, 2.0])))[1]
    require(
        bool(torch.isfinite(mirror).all())
        and torch.allclose(mirror, torch.full((2,), 8 * 0.6931472), atol=1e-4),
        "a determinant may be negative: take its absolute value before the logarithm (slogdet)",
    )
    _, large = answer(_random(1, 128, 2, 2), 0.25 * torch.eye(128))
    require(
        torch.allclose(large, torch.tensor([-4 * 256 * 0.6931472]), rtol=1e-4),
        "with 128 channels the determinant itself underflows: use slogdet",
    )


@exercise("04.4")
def false_alarms(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """a threshold from the chi-squared law"""
    z = _random(40, 6, 8, 8)
    nfa = torch.as_tensor(answer(z))
    require(tuple(nfa.shape) == (40, 8, 8), f"one number per position, (40, 8, 8), not {tuple(nfa.shape)}")
    require(bool((nfa >= 0).all()), "a number of false alarms is not negative: was it a logarithm?")
    nothing = torch.as_tensor(answer(torch.zeros(1, 6, 8, 8)))
    require(
        torch.allclose(nothing.double(), torch.full((1, 8, 8), 64.0, dtype=torch.float64)),
        "z = 0 is reached by every noise: probability 1, times 64 positions",
    )
    alone = torch.as_tensor(answer(z[:1]))
    require(torch.allclose(alone.double(), nfa[:1].double(), rtol=1e-4), "it depends on the other images")
    expected = 64 * torch.tensor(chi2.sf(z.square().sum(dim=1).double().numpy(), df=6))
    require(
        torch.allclose(nfa.double(), expected, rtol=1e-3, atol=1e-6),
        "64 times the upper tail of chi-squared with 6 degrees of freedom at the sum of z^2",
    )
    per_image = (nfa < 1).sum().item() / 40
    require(per_image < 2, f"{per_image:.1f} false alarms per image of noise, one was promised")
    far = torch.as_tensor(answer(torch.full((1, 6, 8, 8), 4.0)))
    require(
        bool((far > 0).all()) and bool((far < 1e-10).all()),
        "far out the tail is small but not 0: 1 - cdf rounds it away, use the survival function in float64",
    )


@exercise("04.5")
def auroc_by_steps(answer: Mapping[int, float]) -> None:
    """image AUROC by the number of steps"""
    require(isinstance(answer, Mapping), "answer with a dict from the number of steps to the AUROC")
    require(set(answer) == {1, 2, 4, 8}, f"the keys are 1, 2, 4 and 8, not {sorted(answer)}")
    values = [float(answer[steps]) for steps in (1, 2, 4, 8)]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > 1, "equal values: was the number of steps passed on?")
    require(min(values) > 0.55, "a value near chance: fit on good bolts, score the test set, 1 = anomalous")
