"""UniNet: selection, losses and decision against loops in float64; what trains and what does not."""

import math

import numpy as np
import pytest
import torch

from adlearn.data.base import AnomalyDataset
from adlearn.errors import DataError
from adlearn.methods.reverse_distillation import (
    TwoBranchBlock,
    TwoBranchEmbedding,
    UniNet,
    decision_count,
    domain_weights,
    lattice,
    log_match,
    loss_terms,
    match_loss,
    mean_of_largest,
)

SMALL = {"epochs": 1, "code": 16, "widths": (8, 8, 8), "batch_size": 2}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_selection_by_loops():
    prior, theta = noise(2, 3, 4, 5).relu(), 0.7
    expected = np.zeros((2, 3, 4, 5))
    for image, channel in np.ndindex(2, 3):
        values = prior[image, channel].numpy()
        total, mean = sum(math.exp(v) for v in values.ravel()), values.sum() / values.size
        for row, column in np.ndindex(4, 5):
            share = math.exp(values[row, column]) / total
            expected[image, channel, row, column] = share * (theta + mean)
    found = domain_weights(prior, theta)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_selection_of_one_image_ignores_the_others():
    prior = noise(3, 4, 5, 5).relu()
    torch.testing.assert_close(domain_weights(prior)[1:2], domain_weights(prior[1:2]))


def losses_by_loops(teacher: torch.Tensor, student: torch.Tensor, temperature: float, margin: float):
    """The formula, one pair of positions at a time: cosine, contrast, margin."""
    cosines, contrasts, margins = [], [], []
    for t, s in zip(teacher.flatten(2).numpy(), student.flatten(2).numpy(), strict=True):
        for i in range(t.shape[1]):
            likes = [
                s[:, i] @ t[:, j] / math.sqrt(s[:, i] @ s[:, i]) / math.sqrt(t[:, j] @ t[:, j])
                for j in range(t.shape[1])
            ]
            p = math.exp(likes[i] / temperature) / sum(math.exp(v / temperature) for v in likes)
            cosines.append(1 - likes[i])
            contrasts.append(-math.log(p))
            margins.append(max(0.0, margin - p))
    return [float(np.mean(values)) for values in (cosines, contrasts, margins)]


@pytest.mark.parametrize("temperature", [2.0, 0.1])
@pytest.mark.parametrize("margin", [1.0, 0.05])
def test_losses_by_loops(temperature: float, margin: float):
    teacher, student = noise(2, 4, 3, 5), noise(2, 4, 3, 5, seed=1)
    expected = losses_by_loops(teacher, student, temperature, margin)
    found = loss_terms(teacher, student, temperature, positions=100, margin=margin)
    np.testing.assert_allclose([v.item() for v in found], expected, rtol=1e-10)
    cosine, contrast, large = losses_by_loops(teacher, student, temperature, 1.0)
    total = match_loss(teacher, student, temperature, positions=100).item()
    assert total == pytest.approx(0.7 * cosine + 0.3 * contrast + large)


def test_match_is_the_softmax_of_cosines():
    teacher, student = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
    other = student.roll(1, dims=3)
    assert log_match(teacher, teacher, 0.1).mean() > log_match(teacher, student, 0.1).mean()
    torch.testing.assert_close(log_match(teacher, 5 * student, 0.1), log_match(teacher, student, 0.1))
    assert not torch.allclose(log_match(teacher, other, 0.1), log_match(teacher, student, 0.1))


def test_lattice_meets_every_position_and_keeps_pairs_together():
    places = torch.arange(64.0).view(1, 1, 8, 8)
    torch.manual_seed(0)
    seen = set()
    for _ in range(60):
        a, b = lattice((places, 2 * places), 16)
        assert a.shape == (1, 1, 4, 4) and torch.equal(2 * a, b)
        seen |= set(a.flatten().tolist())
    assert len(seen) == 64
    (whole,) = lattice((places,), 64)
    assert torch.equal(whole, places)
    (tiny,) = lattice((torch.ones(1, 1, 1, 3),), 1)
    assert tiny.numel() > 0


def score_by_loops(levels: list[np.ndarray], pixels: np.ndarray, alpha: float, beta: float) -> float:
    """The official decision for one image."""
    peaks = [level.max() for level in levels]
    probabilities = [math.exp(p) / sum(math.exp(q) for q in peaks) for p in peaks]
    kept = [p for p, q in zip(peaks, probabilities, strict=True) if q > np.mean(probabilities)]
    count = int(pixels.size * max(np.mean(kept) * alpha, beta))
    return float(np.mean(sorted(pixels.ravel(), reverse=True)[: max(count, 1)]))


@pytest.mark.parametrize(("alpha", "beta"), [(0.01, 3e-5), (0.3, 3e-5), (0.01, 0.2)])
def test_decision_by_loops(alpha: float, beta: float):
    levels = [noise(4, n, n, seed=n).abs() for n in (8, 4, 2)]
    maps = noise(4, 16, 16, seed=9).abs()
    peaks = torch.stack([level.amax(dim=(1, 2)) for level in levels], dim=1)
    found = mean_of_largest(maps, decision_count(peaks, 256, alpha, beta))
    for image in range(4):
        parts = [level[image].numpy() for level in levels]
        assert found[image].item() == pytest.approx(score_by_loops(parts, maps[image].numpy(), alpha, beta))


def test_decision_of_equal_peaks_is_finite():
    count = decision_count(torch.full((2, 6), 0.5), 100)
    assert (count >= 1).all() and torch.isfinite(mean_of_largest(torch.ones(2, 10, 10), count)).all()


def test_block_branches_see_as_far_as_their_kernels():
    block = TwoBranchBlock(4, 8, 1, (3, 7)).eval()
    x = torch.randn(1, 4, 21, 21, requires_grad=True)
    for branch, half, reach in zip(block.branches, x.tensor_split(2, dim=1), (2, 6), strict=True):
        for norm in (m for m in branch.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            norm.bias.data.fill_(1.0)
        (gradient,) = torch.autograd.grad(branch(half)[0, :, 10, 10].sum(), x, retain_graph=True)
        rows = gradient.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        assert rows.min() >= 10 - reach and rows.max() <= 10 + reach
        assert rows.max() - rows.min() > reach


@pytest.mark.parametrize("side", [16, 20, 24])
def test_embedding_halves_the_coarsest_level(side: int):
    maps = [torch.randn(2, c, side // n, side // n) for c, n in ((6, 1), (8, 2), (10, 4))]
    code = TwoBranchEmbedding((6, 8, 10), (8, 8, 8), 12, (3, 7))(maps)
    assert code.shape == (2, 12, math.ceil(side / 8), math.ceil(side / 8))


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def changed(before: dict[str, torch.Tensor], module: torch.nn.Module, word: str) -> bool:
    now = module.state_dict()
    return any(not torch.equal(before[n], now[n]) for n in before if word in n and "num_batches" not in n)


@pytest.mark.parametrize(("rate", "weights", "statistics"), [(1e-4, True, True), (0.0, False, True)])
def test_only_the_target_teacher_trains(tiny, rate: float, weights: bool, statistics: bool):
    detector = UniNet(**SMALL, target_rate=rate)
    source = state(detector.teacher)
    target = state(detector.student.target)
    detector.fit(tiny.train.take(4))
    assert not changed(source, detector.teacher, "")
    assert not any(p.requires_grad or p.grad is not None for p in detector.teacher.parameters())
    assert changed(target, detector.student.target, "weight") == weights
    assert changed(target, detector.student.target, "running_mean") == statistics


def test_every_trained_part_gets_a_gradient(tiny):
    detector = UniNet(**SMALL)
    detector.student.train()
    images = tiny.train.images()[:2]
    detector.loss(images, *detector.teacher(images).values()).backward()
    for name, p in detector.student.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_maps_are_restored_from_the_other_teacher(tiny):
    detector = UniNet(**SMALL)
    network = detector.student.eval()
    images = tiny.train.images()[:2]
    sources = [2 * m for m in detector.teacher(images).values()]
    targets = network.target(detector.normalised(images))
    teachers, restored = network(detector.normalised(images), sources)
    for found, expected in zip(teachers, [*sources, *targets], strict=True):
        torch.testing.assert_close(found, expected)
    expected = [*network.restore(targets), *network.restore(sources)]
    for found, other in zip(restored, expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-4)


def test_without_a_target_teacher_no_part_of_it_is_kept():
    alone, both = UniNet(**SMALL, target_rate=None), UniNet(**SMALL)
    assert alone.student.target is None
    assert both.megabytes - alone.megabytes > 0.9 * sum(p.nbytes for p in alone.teacher.parameters()) / 1e6


def test_switches_change_the_loss(tiny):
    images = tiny.train.images()[:2]
    found = []
    for off in ({}, {"selection": False}, {"contrast": False}):
        detector = UniNet(**SMALL, **off)
        torch.manual_seed(0)
        found.append(detector.loss(images, *detector.teacher(images).values()).item())
    assert len(set(found)) == 3


def test_prior_is_measured_in_units_of_the_largest_training_feature(tiny):
    detector = UniNet(**SMALL).fit(tiny.train.take(4))
    stored = [m.max().item() for m in detector.teacher.extract(tiny.train.take(4)).values()]
    np.testing.assert_allclose(detector.student.largest.tolist(), stored, rtol=1e-5)


@pytest.mark.parametrize(
    "arguments",
    [{"temperature": 0.0}, {"positions": 0}, {"kernels": (3, 4)}, {"widths": (8, 8)}, {"target_rate": -1.0}],
)
def test_bad_arguments_are_refused(arguments: dict):
    with pytest.raises(DataError):
        UniNet(**SMALL | arguments)


def test_empty_training_set_is_refused(tiny):
    with pytest.raises((DataError, RuntimeError, ValueError)):
        UniNet(**SMALL).fit(AnomalyDataset("tiny/none", [], 64, has_masks=True))


def test_a_perfect_student_is_close_to_the_teacher_without_selection(tiny):
    """Selection is for training only, so that its weights must hardly turn a vector of features."""
    detector = UniNet(**SMALL).fit(tiny.train.take(4))
    maps = list(detector.teacher(tiny.train.images()[:2]).values())
    weights = detector.student.selected(maps, [torch.ones_like(m) for m in maps])
    for m, w in zip(maps, weights, strict=True):
        assert (w > 0).all()
        assert (1 - torch.cosine_similarity(m, m / w)).mean() < 0.03
