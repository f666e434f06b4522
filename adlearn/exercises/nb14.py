"""Checks of notebook 14."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from . import exercise, require


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("14.1")
def forger_caught(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """the discriminator's loss, from logits"""
    real, fake = _rand(7) * 4 - 2, _rand(7, seed=1) * 4 - 2
    found = answer(real, fake)
    require(found.ndim == 0, f"one number, not a tensor of shape {tuple(found.shape)}")
    undecided = answer(torch.zeros(3), torch.zeros(3))
    doubled = abs(float(undecided) - 2 * float(torch.tensor(2.0).log())) < 1e-5
    require(
        doubled or abs(float(undecided) - float(torch.tensor(2.0).log())) < 1e-5,
        f"undecided everywhere (logits 0) costs log 2 for each kind, not {float(undecided):.3g}",
    )
    require(float(answer(real + 3, fake - 3)) < float(found), "surer and right must cost less")
    wrong = answer(torch.tensor([-200.0]), torch.tensor([200.0]))
    require(bool(torch.isfinite(wrong)), "logits of 200 overflow: logsigmoid or softplus, not log(sigmoid)")
    expected = F.softplus(-real).mean() + F.softplus(fake).mean()
    scale = 1.0 if doubled else 0.5
    require(torch.allclose(found, scale * expected), "- mean log D(real) - mean log (1 - D(fake))")


@exercise("14.2")
def modes_covered(answer: Callable[[torch.Tensor, torch.Tensor, float], float]) -> None:
    """how many clusters a generator still draws"""
    centres = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])
    near = centres.repeat(5, 1) + 0.2 * (_rand(20, 2) - 0.5)
    require(abs(float(answer(near, centres, 0.5)) - 1) < 1e-6, "samples at all four clusters: 1.0")
    one = float(answer(near[::4], centres, 0.5))
    require(abs(one - 0.25) < 1e-6, f"all samples at one of four clusters: 0.25, not {one:.3g}")
    lost = float(answer(centres[:2] + 1.5, centres, 0.5))
    require(lost == 0, f"samples between the clusters cover none, not {lost:.3g}")
    require(
        abs(float(answer(centres[:2] + 0.3, centres, 0.5)) - 0.5) < 1e-6, "Euclidean distance below radius"
    )
    require(float(answer(centres[:2] + 0.3, centres, 0.4)) == 0, "use the radius that is given")


@exercise("14.3")
def search(answer: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """the latent whose drawing is nearest to an image"""
    generator = nn.Linear(3, 8)
    with torch.no_grad():
        generator.weight.copy_(_rand(8, 3) - 0.5)
        generator.bias.zero_()
    weights = generator.weight.detach().clone()
    truth = 2 * _rand(5, 3, seed=1) - 1
    images = generator(truth).detach()
    start = torch.zeros(5, 3)
    found = answer(generator, images, start)
    require(tuple(found.shape) == (5, 3), f"a latent for each image, (5, 3), not {tuple(found.shape)}")
    require(torch.equal(start, torch.zeros(5, 3)), "the start must stay as it was: work on a copy")
    require(torch.equal(generator.weight, weights), "only the latents are searched: the generator moved")
    before, after = ((generator(z) - images).square().mean().item() for z in (start, found))
    require(after < 0.05 * before, f"the error fell from {before:.3g} to {after:.3g} only")
    alone = answer(generator, images[:1], start[:1])
    require(torch.allclose(alone, found[:1], atol=1e-3), "an image finds another latent in another batch")
    require(not found.requires_grad, "return a tensor without gradient: detach")


@exercise("14.4")
def slope_penalty(answer: Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """what keeps a critic's slope near 1"""
    real, fake = _rand(6, 4), _rand(6, 4, seed=1)
    critic = nn.Linear(4, 1)
    with torch.no_grad():
        critic.weight.copy_(torch.tensor([[3.0, 0.0, 4.0, 0.0]]))
    found = answer(critic, real, fake)
    require(found.ndim == 0, f"one number, not a tensor of shape {tuple(found.shape)}")
    require(
        abs(found.item() - 16) < 1e-3, f"a critic of slope 5 costs (5 - 1)^2 = 16, not {found.item():.3g}"
    )
    (gradient,) = torch.autograd.grad(found, critic.weight, allow_unused=True)
    require(gradient is not None, "no gradient reaches the critic's weights: create_graph=True")

    def bent(points: torch.Tensor) -> torch.Tensor:
        return points.square().sum(dim=1, keepdim=True)

    curved = answer(bent, torch.ones(1, 4), torch.ones(1, 4)).item()
    require(abs(curved - 9) < 1e-3, f"|x|^2 at (1, 1, 1, 1) has slope 4: (4 - 1)^2 = 9, not {curved:.3g}")
    torch.manual_seed(0)
    spread = [answer(bent, torch.zeros(1, 4), torch.ones(1, 4)).item() for _ in range(20)]
    require(max(spread) > min(spread), "a random point between real and fake, a new one each time")
    require(max(spread) <= 9.01, "points lie between real and fake, not beyond them")


@exercise("14.5")
def diversity_and_auroc(answer: Mapping[str, tuple[float, float]]) -> None:
    """what collapse does to the scores"""
    require(isinstance(answer, Mapping), "answer with a dict from the setting to (diversity, AUROC)")
    require(len(answer) >= 2, f"at least two settings, got {list(answer)}")
    pairs = {name: tuple(float(value) for value in pair) for name, pair in answer.items()}
    require(all(len(pair) == 2 for pair in pairs.values()), "two numbers for each setting")
    diversities, aurocs = ([pair[k] for pair in pairs.values()] for k in (0, 1))
    require(min(diversities) >= 0, f"a diversity is never negative: {diversities}")
    require(all(0 <= value <= 1 for value in aurocs), f"an AUROC lies between 0 and 1, got {aurocs}")
    require(
        max(diversities) > 2 * min(diversities),
        f"no setting draws twice as diversely as another: {diversities}; provoke a collapse",
    )
