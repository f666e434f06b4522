"""Checks of notebook 07."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from . import exercise, require


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("07.1")
def margin_loss(answer: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]) -> None:
    """the truncated L1 loss: nothing to gain beyond the margin"""
    good, noisy = torch.tensor([0.9, 0.1, -0.4]), torch.tensor([-0.9, 0.2])
    found = answer(good, noisy, 0.5)
    require(found.ndim == 0, f"one number, not a tensor of shape {tuple(found.shape)}")
    solved = answer(torch.tensor([0.6, 3.0]), torch.tensor([-0.6, -3.0]), 0.5)
    require(
        float(solved) == 0, "beyond the margin there is nothing to gain: good > 0.5, noisy < -0.5 gives 0"
    )
    wrong = answer(torch.tensor([-2.0]), torch.tensor([-2.0]), 0.5)
    require(abs(float(wrong) - 2.5) < 1e-5, f"a good score of -2 costs 2.5, not {float(wrong):.3g}")
    wrong = answer(torch.tensor([2.0]), torch.tensor([2.0]), 0.5)
    require(abs(float(wrong) - 2.5) < 1e-5, f"a noisy score of 2 costs 2.5, not {float(wrong):.3g}")
    expected = F.relu(0.5 - good).mean() + F.relu(noisy + 0.5).mean()
    require(torch.allclose(found, expected), "the mean over good scores plus the mean over noisy ones")
    require(not torch.allclose(answer(good, noisy, 0.1), found), "use the margin that is given")


@exercise("07.2")
def placed(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """features that know where they are"""
    features = _random(2, 3, 4, 5)
    found = answer(features)
    require(tuple(found.shape) == (2, 5, 4, 5), f"two channels more, (2, 5, 4, 5), not {tuple(found.shape)}")
    require(torch.equal(found[:, :3], features), "the features come first, unchanged")
    across, down = found[:, 3], found[:, 4]
    if not torch.allclose(across[0, 0], across[0, 1]):
        across, down = down, across
    require(torch.allclose(across, across[:1, :1].expand(2, 4, 5)), "x is the same in every row and image")
    require(torch.allclose(down, down[:1, :, :1].expand(2, 4, 5)), "y is the same in every column and image")
    x, y = across[0, 0], down[0, :, 0]
    require(torch.allclose(x, torch.linspace(-1, 1, 5)), f"x runs evenly from -1 to 1, got {x.tolist()}")
    require(torch.allclose(y, torch.linspace(-1, 1, 4)), f"y runs evenly from -1 to 1, got {y.tolist()}")
    double = answer(features.double())
    require(double.dtype == torch.float64, "keep the type of the features (torch.linspace takes dtype=)")


@exercise("07.3")
def lonely_distance(answer: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """the nearest distance, weighted by how alone it is"""
    distances = _random(6, 3).abs() + 0.1
    found = answer(distances)
    require(tuple(found.shape) == (6,), f"one score for each row, (6,), not {tuple(found.shape)}")
    alone = answer(torch.tensor([[1.0, 100.0, 100.0]]))
    require(abs(float(alone) - 1) < 1e-4, f"one near neighbour, the others far: its distance, not {alone}")
    equal = answer(torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    require(
        abs(float(equal) - 0.25) < 1e-5, f"four neighbours at distance 1 share the weight: 1/4, not {equal}"
    )
    require(
        torch.allclose(answer(distances.flip(1)), found),
        "the order of the neighbours does not count: look for the smallest",
    )
    expected = (F.softmin(distances, dim=1) * distances)[torch.arange(6), distances.argmin(dim=1)]
    require(
        torch.allclose(found, expected, atol=1e-6),
        "softmin over the neighbours, then the nearest one's share",
    )
    far = answer(distances + 500)
    require(
        bool(torch.isfinite(far).all()), "large distances underflow: use softmin, not exp divided by a sum"
    )


@exercise("07.4")
def auroc_by_noise(answer: Mapping[float, float]) -> None:
    """image AUROC by the scale of the noise"""
    require(isinstance(answer, Mapping), "answer with a dict from the scale of the noise to the AUROC")
    require(len(answer) >= 4, f"at least four scales, got {sorted(answer)}")
    require(min(answer) > 0, "a scale of 0 makes no second class")
    require(
        max(answer) >= 100 * min(answer), "the largest at least 100 times the smallest: look at both ends"
    )
    values = [float(answer[scale]) for scale in sorted(answer)]
    require(all(0 <= v <= 1 for v in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > 1, "equal values: was the scale passed on?")
    require(max(values) > 0.6, "all near chance: fit on good plates, 1 = anomalous")
    require(
        max(values) > max(values[0], values[-1]),
        "the best is at an end: go on until it gets worse on both sides",
    )
