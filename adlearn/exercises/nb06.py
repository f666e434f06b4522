"""Checks of notebook 06."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("06.1")
def cosine_map(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """one minus the cosine at each position"""
    a, b = _random(2, 5, 3, 4), _random(2, 5, 3, 4, seed=1)
    found = answer(a, b)
    require(tuple(found.shape) == (2, 3, 4), f"one number per position, (2, 3, 4), not {tuple(found.shape)}")
    require(torch.allclose(answer(a, a), torch.zeros(2, 3, 4), atol=1e-5), "equal vectors: 0")
    require(torch.allclose(answer(a, -a), torch.full((2, 3, 4), 2.0), atol=1e-5), "opposite vectors: 2")
    require(torch.allclose(answer(3 * a, b), found, atol=1e-5), "lengths do not count")
    scaled = a * _random(2, 1, 3, 4, seed=2).abs().add(0.1)
    require(torch.allclose(answer(scaled, b), found, atol=1e-5), "not even the length at each position")
    require(
        torch.allclose(found, 1 - F.cosine_similarity(a, b, dim=1), atol=1e-5), "the cosine is over channels"
    )
    safe = answer(torch.zeros(1, 5, 1, 1), torch.zeros(1, 5, 1, 1))
    require(bool(torch.isfinite(safe).all()), "a vector of zeros must not give NaN")


@exercise("06.2")
def sinkhorn(answer: Callable[[torch.Tensor, float], torch.Tensor]) -> None:
    """entropic optimal transport by Sinkhorn's iteration"""
    cost = _random(4, 6).abs().double()
    plan = answer(cost, 0.5)
    require(tuple(plan.shape) == (4, 6), f"a plan like the cost, (4, 6), not {tuple(plan.shape)}")
    require(bool((plan > 0).all()), "every entry is positive: exp of something")
    require(
        torch.allclose(plan.sum(dim=1), torch.full((4,), 0.25, dtype=plan.dtype), atol=1e-4),
        "each of 4 rows sends 1/4",
    )
    require(
        torch.allclose(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=plan.dtype), atol=1e-4),
        "each of 6 columns receives 1/6: more iterations?",
    )
    log_ratio = plan.double().log() + cost / 0.5
    centred = log_ratio - log_ratio.mean(dim=0) - log_ratio.mean(dim=1, keepdim=True) + log_ratio.mean()
    require(
        float(centred.abs().max()) < 1e-2,
        "the plan is diag(u) exp(-cost / epsilon) diag(v): was the cost divided by epsilon, with a minus?",
    )
    swap = 1 - torch.eye(3, dtype=torch.float64)
    sharp = answer(swap, 0.02)
    require(bool(torch.isfinite(sharp).all()), "a small epsilon gives NaN: work with logarithms (logsumexp)")
    require(
        torch.allclose(sharp.double(), torch.eye(3).double() / 3, atol=1e-3),
        "at a small epsilon nothing moves",
    )
    far = answer(2000 + cost, 0.5)
    require(
        bool(torch.isfinite(far).all()), "costs in the thousands give NaN: work with logarithms (logsumexp)"
    )


@exercise("06.3")
def selected(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """features weighted by a softmax over positions"""
    student, teacher = _random(2, 3, 4, 5), _random(2, 3, 4, 5, seed=1)
    found = answer(student, teacher)
    require(tuple(found.shape) == (2, 3, 4, 5), f"the shape stays (2, 3, 4, 5), not {tuple(found.shape)}")
    ones = answer(torch.ones(2, 3, 4, 5), teacher)
    require(
        torch.allclose(ones.sum(dim=(2, 3)), torch.ones(2, 3), atol=1e-5),
        "the weights of each channel sum to 1 over the positions of its own image",
    )
    require(
        torch.allclose(answer(student, teacher + 50), found, atol=1e-6), "a constant in the teacher drops out"
    )
    require(
        bool(torch.isfinite(answer(student, 300 * teacher)).all()), "large features overflow: torch.softmax"
    )
    expected = student * teacher.flatten(2).softmax(dim=-1).view_as(teacher)
    require(torch.allclose(found, expected, atol=1e-6), "the softmax is taken of the teacher, over h and w")


@exercise("06.4")
def auroc_by_width(answer: Mapping[int, float]) -> None:
    """image AUROC by the width of the bottleneck"""
    require(isinstance(answer, Mapping), "answer with a dict from the width to the AUROC")
    require(len(answer) >= 3, f"at least three widths, got {sorted(answer)}")
    require(max(answer) >= 16 * min(answer), "the widest at least 16 times the narrowest: look at both ends")
    values = [float(value) for value in answer.values()]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > 1, "equal values: was the width passed on?")
    require(max(values) > 0.6, "all near chance: fit on good plates, 1 = anomalous")
