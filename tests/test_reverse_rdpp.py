"""RD++: noise, optimal transport against exact solvers, its losses, and what is trained."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment, linprog
from tiny import draw_benchmark

from adlearn.errors import DataError
from adlearn.methods.reverse_distillation import (
    RDPlusPlus,
    blend_noise,
    contrast_loss,
    flat_loss,
    noise_octaves,
    position_loss,
    projection,
    simplex_noise,
    sinkhorn_divergence,
    squared_cost,
    transport_cost,
    transport_loss,
    transport_plan,
)

SMALL = {"code": 8, "widths": (8, 8, 8), "epochs": 2}


def clouds(n: int, m: int, dimensions: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(k, dimensions, generator=generator, dtype=torch.float64) for k in (n, m))


def direct_cost(x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    return np.array(
        [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) / 2 for q in y.tolist()] for p in x.tolist()]
    )


# --- optimal transport ---


def test_squared_cost_is_half_the_squared_distance():
    x, y = clouds(4, 6)
    torch.testing.assert_close(squared_cost(x, y), torch.tensor(direct_cost(x, y)))


@pytest.mark.parametrize("seed", range(3))
def test_small_epsilon_gives_the_best_assignment(seed: int):
    x, y = clouds(7, 7, seed=seed)
    cost = direct_cost(x, y)
    best = cost[linear_sum_assignment(cost)].mean()
    assert transport_cost(x, y, epsilon=0.005, iterations=3000).item() == pytest.approx(best, abs=2e-3)


def test_small_epsilon_solves_the_linear_program_of_unequal_clouds():
    x, y = clouds(4, 6)
    cost = direct_cost(x, y)
    rows = np.kron(np.eye(4), np.ones(6))
    columns = np.kron(np.ones(4), np.eye(6))
    sums = np.concatenate([np.full(4, 1 / 4), np.full(6, 1 / 6)])
    best = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums).fun
    assert transport_cost(x, y, epsilon=0.005, iterations=3000).item() == pytest.approx(best, abs=2e-3)


def test_plan_has_the_marginals_and_the_form_of_the_regularised_optimum():
    x, y = clouds(5, 8)
    cost = squared_cost(x, y)
    plan = transport_plan(cost, 0.5, 500)
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 1 / 5, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((8,), 1 / 8, dtype=torch.float64))
    potentials = plan.log() + cost / 0.5
    additive = potentials - potentials[:1] - potentials[:, :1] + potentials[:1, :1]
    torch.testing.assert_close(additive, torch.zeros_like(additive), rtol=0, atol=1e-9)


def test_tiny_epsilon_does_not_overflow():
    x, y = clouds(5, 5)
    cost = squared_cost(10 * x.float(), 10 * y.float())
    assert (-cost / 0.01).exp().eq(0).any()
    plan = transport_plan(cost, 0.01, 50)
    assert torch.isfinite(plan).all()
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 0.2), rtol=0, atol=1e-3)


def test_huge_epsilon_gives_the_mean_of_all_costs():
    x, y = clouds(5, 8)
    expected = squared_cost(x, y).mean().item()
    assert transport_cost(x, y, 1e6, 5).item() == pytest.approx(expected, rel=1e-4)


def test_batches_are_solved_one_by_one():
    pairs = [clouds(5, 6, seed=seed) for seed in range(3)]
    x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
    alone = torch.stack([transport_cost(*pair) for pair in pairs])
    torch.testing.assert_close(transport_cost(x, y), alone)


def test_gradient_is_that_of_the_regularised_optimum():
    """Against finite differences of min <P, C> - epsilon H(P)."""
    x, y = clouds(4, 5)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(transport_cost(x, y, 0.5, 400), x)

    def optimum(points: torch.Tensor) -> float:
        plan = transport_plan(cost := squared_cost(points, y), 0.5, 400)
        return ((plan * cost).sum() + 0.5 * (plan * plan.log()).sum()).item()

    for i, j in ((0, 0), (3, 2)):
        step = torch.zeros_like(x)
        step[i, j] = 1e-4
        difference = (optimum(x.detach() + step) - optimum(x.detach() - step)) / 2e-4
        assert gradient[i, j].item() == pytest.approx(difference, abs=1e-5)


def test_divergence_of_a_shuffled_cloud_is_zero_and_so_is_its_gradient():
    x, y = clouds(6, 6)
    x.requires_grad_()
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    same = sinkhorn_divergence(x, x[order], iterations=500)
    (gradient,) = torch.autograd.grad(same, x)
    assert abs(same.item()) < 1e-9 and gradient.abs().max() < 1e-6
    assert sinkhorn_divergence(x, y + 2).item() > 1


# --- losses ---


def maps(seed: int, batch: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((4, 6, 5), (6, 3, 2))
    return [torch.randn(batch, *size, generator=generator, dtype=torch.float64) for size in sizes]


def test_contrast_loss_is_the_cosine_embedding_loss_with_target_minus_one():
    normal, abnormal = maps(0), [m + 0.5 * n for m, n in zip(maps(1), maps(0), strict=True)]
    target = -torch.ones(3)
    expected = sum(
        F.cosine_embedding_loss(n.flatten(1), a.flatten(1), target, margin=-0.5)
        for n, a in zip(normal, abnormal, strict=True)
    )
    torch.testing.assert_close(contrast_loss(normal, abnormal), expected)


def test_contrast_loss_pushes_apart_until_the_margin():
    same = maps(0)
    assert contrast_loss(same, same).item() == pytest.approx(1.5 * len(same))
    assert contrast_loss(same, [-m for m in same]).item() == 0


def test_transport_loss_ignores_where_things_lie():
    """Three images with the same vectors in other places cost nothing; other vectors do."""
    level = maps(0, batch=1)[0]
    flat = level.flatten(2)
    moved = torch.cat([flat[..., torch.randperm(30)] for _ in range(3)]).view(3, 4, 6, 5)
    assert abs(transport_loss([moved], points=30).item()) < 1e-3
    assert transport_loss([maps(1)[0]], points=30).item() > 0.01


def test_transport_loss_of_one_image_is_zero():
    assert transport_loss(maps(0, batch=1)).item() == pytest.approx(0, abs=1e-12)


def test_projection_keeps_size_and_works_image_by_image():
    layer = projection(8)
    x = torch.randn(3, 8, 6, 5)
    assert layer(x).shape == x.shape
    torch.testing.assert_close(layer(x)[:1], layer(x[:1]))


# --- noise ---


@pytest.mark.parametrize("n", [2, 3])
def test_simplex_noise_is_smooth_everywhere(n: int):
    """No seam where one simplex ends and the next begins: close points have close values."""
    generator = torch.Generator().manual_seed(0)
    points = 50 * torch.rand(50_000, n, generator=generator, dtype=torch.float64) - 25
    nearby = points + 1e-6 * torch.randn(50_000, n, generator=generator, dtype=torch.float64)
    change = (simplex_noise(nearby) - simplex_noise(points)).abs()
    assert change.max() < 1e-6 * 5 * 20


@pytest.mark.parametrize("n", [2, 3])
def test_simplex_noise_has_mean_zero_and_reaches_one(n: int):
    noise = simplex_noise(100 * torch.rand(100_000, n, generator=torch.Generator().manual_seed(0)))
    assert abs(noise.mean()) < 0.02 and 0.9 < noise.abs().max() < 1.1 and 0.2 < noise.std() < 0.6


def test_simplex_noise_is_zero_on_the_lattice_and_has_no_direction():
    cells = torch.tensor([[0.0, 0], [1, 0], [2, 5], [-3, 4]], dtype=torch.float64)
    lattice = cells - (1 - 3**-0.5) / 2 * cells.sum(dim=1, keepdim=True)
    torch.testing.assert_close(simplex_noise(lattice), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    points = 200 * torch.rand(200_000, 2, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(4) * math.pi / 4
    shifts = torch.stack([angles.cos(), angles.sin()], dim=1) * 0.2
    change = torch.stack([(simplex_noise(points + s) - simplex_noise(points)).std() for s in shifts])
    assert change.max() < 1.1 * change.min()


def test_simplex_noise_depends_on_its_seed_alone():
    points = 10 * torch.rand(50, 3)
    torch.manual_seed(5)
    first = simplex_noise(points, seed=1)
    torch.manual_seed(6)
    assert torch.equal(simplex_noise(points, seed=1), first)
    assert not torch.allclose(simplex_noise(points, seed=2), first)


def test_simplex_noise_refuses_other_dimensions():
    with pytest.raises(DataError, match="coordinates"):
        simplex_noise(torch.rand(5, 4))


def test_octaves_add_detail():
    coarse, fine = (noise_octaves((64, 64), 16.0, octaves=k) for k in (1, 5))
    assert coarse.shape == (3, 64, 64)
    roughness = [(n[..., 1:] - n[..., :-1]).std() / n.std() for n in (coarse, fine)]
    assert roughness[1] > 1.5 * roughness[0]


def test_blend_changes_one_rectangle_of_each_image_and_not_the_input():
    images = torch.full((20, 3, 64, 64), 0.5)
    noisy = blend_noise(images, seed=3)
    assert torch.equal(images, torch.full_like(images, 0.5))
    assert torch.equal(blend_noise(images, seed=3), noisy)
    assert not torch.equal(blend_noise(images, seed=4), noisy)
    for image in noisy:
        rows, columns = (torch.nonzero((image != 0.5).any(dim=0).any(dim=d)).flatten() for d in (1, 0))
        for touched in (rows, columns):
            extent = touched.max() - touched.min() + 1
            assert 1 <= extent <= 8
    assert len({tuple(torch.nonzero((i != 0.5).any(dim=0))[0].tolist()) for i in noisy}) > 10


# --- the detector ---


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return draw_benchmark(tmp_path_factory.mktemp("tiny"))


def test_fit_trains_projections_and_leaves_the_teacher(tiny):
    torch.manual_seed(0)
    detector = RDPlusPlus(**SMALL)
    teacher = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    student = {name: value.clone() for name, value in detector.student.state_dict().items()}
    detector.fit(tiny.train)
    after = detector.extractor.state_dict()
    assert all(torch.equal(after[name], value) for name, value in teacher.items())
    # A convolution's bias before an instance norm has no effect, hence no gradient.
    weights = {n: w for n, w in detector.student.named_parameters() if w.ndim == 4}
    assert all(not torch.equal(w, student[n]) for n, w in weights.items())
    assert detector.history.shape == (2,)


def batch(detector: RDPlusPlus) -> tuple[torch.Tensor, ...]:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return (*detector.extractor(images).values(), *detector.noisy_features(images))


def test_noisy_features_are_those_of_noisy_images():
    detector = RDPlusPlus(copies=3, **SMALL)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    levels = detector.noisy_features(images)
    assert [level.shape[:2] for level in levels] == [(2, 3)] * 3
    expected = detector.extractor(blend_noise(images, 2))
    for level, maps_of_copy in zip(levels, expected.values(), strict=True):
        torch.testing.assert_close(level[:, 1], maps_of_copy, rtol=1e-4, atol=1e-4)


def test_loss_is_the_weighted_sum():
    detector = RDPlusPlus(copies=1, **SMALL)
    detector.student.eval()
    tensors = batch(detector)
    normal, noisy = tensors[:3], [level[:, 0] for level in tensors[3:]]
    projected, projected_noisy = (detector.student.project(m) for m in (normal, noisy))
    torch.manual_seed(1)
    torch.randint(1, ())
    parts = 1.0 * transport_loss(projected) + 0.01 * position_loss(projected_noisy, projected)
    parts = parts + 0.1 * contrast_loss(projected, noisy)
    expected = flat_loss(normal, detector.student(normal)) + 0.2 * parts / 1.11
    torch.manual_seed(1)
    torch.testing.assert_close(detector.loss(*tensors), expected)


def test_without_weights_only_the_distillation_is_left():
    detector = RDPlusPlus(copies=1, weights=(0.0, 0.0, 0.0), **SMALL)
    detector.student.eval()
    tensors = batch(detector)
    torch.testing.assert_close(detector.loss(*tensors), flat_loss(tensors[:3], detector.student(tensors[:3])))


def test_targets_are_the_raw_maps():
    """The decoder must restore what the teacher says, not what the projections make of it."""
    detector = RDPlusPlus(**SMALL)
    detector.student.eval()
    features = dict(zip("abc", batch(detector)[:3], strict=True))
    with torch.no_grad():
        for part in detector.student.projections.parameters():
            part.zero_()
        restored = detector.student(list(features.values()))
        found = detector.score_features(features, (64, 64))
    assert all(torch.equal(r[0], r[1]) for r in restored)
    assert not torch.equal(found.map[0], found.map[1])


def test_features_alone_are_refused(tiny):
    detector = RDPlusPlus(**SMALL)
    with pytest.raises(DataError, match="fit"):
        detector.fit_features(detector.extractor.extract(tiny.train))


@pytest.mark.parametrize("weights", [(1.0,), (-1.0, 0.0, 0.0)])
def test_bad_weights_are_refused(weights):
    with pytest.raises(DataError, match="weights"):
        RDPlusPlus(weights=weights)


def test_transport_loss_is_the_mean_divergence_of_neighbours_in_the_batch():
    level = maps(0)[0]
    vectors = F.normalize(level.flatten(2), dim=1).transpose(1, 2)
    pairs = [(vectors[i], vectors[i - 1]) for i in range(3)]
    expected = sum(sinkhorn_divergence(*pair).item() for pair in pairs) / 3
    assert transport_loss([level], points=30).item() == pytest.approx(expected, abs=1e-9)
