"""STFPM: the paper's loss and map written out, what training may change, refusals."""

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.student_teacher import STFPM, level_distance, pyramid_map, unit

SMALL = {"epochs": 2, "batch_size": 4}


def pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    return first, second


def by_loops(student: np.ndarray, teacher: np.ndarray) -> np.ndarray:
    """Eq. 1 of the paper at every position of (C, h, w)."""
    _, rows, columns = student.shape
    found = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            s, t = student[:, i, j], teacher[:, i, j]
            difference = t / np.sqrt((t**2).sum()) - s / np.sqrt((s**2).sum())
            found[i, j] = (difference**2).sum() / 2
    return found


def test_unit_vectors_keep_their_direction():
    maps, _ = pair(2, 5, 3, 4)
    found = unit(maps)
    torch.testing.assert_close(found.square().sum(dim=1), torch.ones(2, 3, 4, dtype=torch.float64))
    torch.testing.assert_close(found * maps.norm(dim=1, keepdim=True), maps)
    assert torch.equal(unit(torch.zeros(1, 3, 2, 2)), torch.zeros(1, 3, 2, 2))


def test_level_distance_is_equation_1():
    student, teacher = pair(3, 7, 4, 5)
    expected = np.stack([by_loops(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)])
    torch.testing.assert_close(level_distance(student, teacher), torch.from_numpy(expected))


def test_level_distance_is_one_minus_the_cosine():
    student, teacher = pair(3, 7, 4, 5)
    cosine = (student * teacher).sum(dim=1) / (student.norm(dim=1) * teacher.norm(dim=1))
    torch.testing.assert_close(level_distance(student, teacher), 1 - cosine)
    torch.testing.assert_close(level_distance(4 * teacher, teacher), torch.zeros_like(cosine))
    torch.testing.assert_close(level_distance(-teacher, teacher), torch.full_like(cosine, 2.0))


def test_level_distance_has_a_finite_gradient_at_zero_features():
    student = torch.zeros(1, 3, 2, 2, requires_grad=True)
    level_distance(student, torch.ones(1, 3, 2, 2)).sum().backward()
    assert torch.isfinite(student.grad).all()


def test_pyramid_map_of_flat_levels():
    levels = [torch.full((2, side, side), value) for side, value in ((8, 0.5), (4, 0.25), (2, 2.0))]
    product, total = (pyramid_map(levels, (16, 12), how) for how in ("product", "sum"))
    assert product.shape == total.shape == (2, 16, 12)
    torch.testing.assert_close(product, torch.full((2, 16, 12), 0.25))
    torch.testing.assert_close(total, torch.full((2, 16, 12), 2.75))


def test_one_level_that_sees_nothing_silences_the_product_and_not_the_sum():
    levels = [torch.ones(1, 4, 4), torch.zeros(1, 2, 2)]
    assert pyramid_map(levels, (8, 8)).eq(0).all()
    assert pyramid_map(levels, (8, 8), "sum").eq(1).all()


def test_pyramid_map_multiplies_enlarged_levels_by_position():
    fine, coarse = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    fine[0, 1, 2], coarse[0, 1, 2], coarse[0, 3, 3] = 3.0, 2.0, 9.0
    assert pyramid_map([fine, coarse], (4, 4)).nonzero().tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("combine", ["mean", "", "Product"])
def test_unknown_ways_to_combine_are_refused(combine: str):
    with pytest.raises(DataError, match="product"):
        pyramid_map([torch.ones(1, 2, 2)], (4, 4), combine)
    with pytest.raises(DataError, match="product"):
        STFPM(combine=combine)


def test_student_and_teacher_have_one_architecture_and_different_weights():
    detector = STFPM()
    student, teacher = (dict(m.named_parameters()) for m in (detector.student, detector.teacher.trunk))
    assert {n: p.shape for n, p in student.items()} == {n: p.shape for n, p in teacher.items()}
    kernels = [n for n, p in student.items() if p.ndim == 4]
    assert all(not torch.allclose(student[name], teacher[name]) for name in kernels)


def test_loss_is_equations_1_to_3(tiny: Benchmark):
    images = tiny.train.images()[:2]
    detector = STFPM().eval()
    targets = detector.teacher(images).values()
    with torch.no_grad():
        students = detector.student(detector.normalised(images))
        found = detector.loss(images, *targets)
    expected = 0.0
    for student, teacher in zip(students, targets, strict=True):
        pairs = zip(student.double().numpy(), teacher.double().numpy(), strict=True)
        expected += np.mean([by_loops(s, t).mean() for s, t in pairs])
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_a_copy_of_the_teacher_finds_nothing(tiny: Benchmark):
    images = tiny.test.images()
    detector = STFPM().eval()
    detector.student.load_state_dict(detector.teacher.trunk.state_dict())
    with torch.no_grad():
        maps = detector.discrepancy(images, *detector.teacher(images).values())
    assert maps.abs().max() < 1e-6


def test_score_is_the_largest_value_of_the_product_map(tiny: Benchmark):
    detector, images = STFPM(**SMALL).fit(tiny.train), tiny.test.images()
    found = detector.predict(images)
    with torch.no_grad():
        levels = detector.distances(images, *detector.teacher(images).values())
    sides = [level.shape[-1] * stride for level, stride in zip(levels, (4, 8, 16), strict=True)]
    assert sides == [images.shape[-1]] * 3
    enlarge = nn.Upsample(size=tuple(images.shape[-2:]), mode="bilinear")
    first, second, third = (enlarge(level[:, None])[:, 0] for level in levels)
    torch.testing.assert_close(found.map, first * second * third)
    assert torch.equal(found.score, found.map.flatten(1).max(dim=1).values)


def test_training_changes_the_student_and_nothing_of_the_teacher(tiny: Benchmark):
    detector = STFPM(**SMALL)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    detector.fit(tiny.train)
    after = detector.state_dict()
    names = [name for name in before if name != "history"]
    changed = {name for name in names if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("teacher") for name in changed)
    assert all(f"student.{name}" in changed for name, _ in detector.student.named_parameters())
    assert any("running_mean" in name for name in changed)


def test_gradients_reach_every_weight_of_the_student_only(tiny: Benchmark):
    detector, images = STFPM(), tiny.train.images()[:2]
    detector.loss(images, *detector.teacher(images).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.student.parameters())
    assert all(p.grad is None for p in detector.teacher.parameters())


def test_fit_leaves_the_student_in_evaluation_mode_with_a_falling_loss(tiny: Benchmark):
    detector = STFPM(epochs=6, batch_size=4).fit(tiny.train)
    assert not any(module.training for module in detector.student.modules())
    assert detector.history.shape == (6,)
    assert detector.history[-1] < detector.history[0]


def test_sum_and_product_differ_only_in_the_map(tiny: Benchmark):
    product, total = (STFPM(combine=c, **SMALL).fit(tiny.train) for c in ("product", "sum"))
    assert torch.equal(product.history, total.history)
    images = tiny.test.images()
    assert (total.predict(images).map > product.predict(images).map).all()


def test_levels_can_be_chosen(tiny: Benchmark):
    detector = STFPM(layers=(8,), **SMALL).fit(tiny.train)
    images = tiny.test.images()
    with torch.no_grad():
        levels = detector.distances(images, *detector.teacher(images).values())
    assert [level.shape[1] for level in levels] == [images.shape[-1] // 8]
