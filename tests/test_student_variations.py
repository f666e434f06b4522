"""The student-teacher variations: each loss against its formula; what each network may and may not see."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_cuda import fake_cuda_loss
from scipy.ndimage import grey_opening

from adlearn.errors import DataError
from adlearn.methods.student_teacher import (
    CDO,
    DAF,
    IKD,
    MKD,
    RSA,
    RSTPM,
    STFPM,
    GlancingPatch,
    MaskedFeatureRegeneration,
    Rebuilder,
    RingConv,
    balanced_bce,
    collaborative_loss,
    context_difference,
    hard_positions,
    level_distance,
    mask_cells,
    opened,
    random_rectangles,
    synthetic_anomalies,
    value_and_direction,
)

SMALL = {"layers": (4, 8), "epochs": 1, "batch_size": 4}
FROM_IMAGES = [MKD, IKD, CDO, RSA, RSTPM, DAF]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# Synthetic anomalies


def test_rectangles_have_the_sizes_asked_for():
    torch.manual_seed(0)
    masks = random_rectangles((400, 80, 40), torch.device("cpu"), count=1, reach=(0.1, 0.2))
    drawn = masks.flatten(1).any(dim=1)
    assert 0.4 < drawn.float().mean() < 0.6
    for axis, length in ((1, 80), (2, 40)):
        sides = masks[drawn].any(dim=3 - axis).sum(dim=1)
        assert sides.max() <= 0.4 * length + 1 and sides.max() > 0.3 * length
        # At the border only a part of a rectangle is left.
        assert (sides >= 0.2 * length - 1).float().mean() > 0.7


def test_numbers_of_rectangles_are_equally_frequent():
    torch.manual_seed(0)
    masks = random_rectangles((3000, 8, 8), torch.device("cpu"), count=2, reach=(2.0, 2.0))
    assert masks.flatten(1).any(dim=1).float().mean() == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("fill", ["noise", "images"])
def test_only_what_is_masked_changes(fill: str):
    torch.manual_seed(1)
    images = torch.rand(6, 3, 64, 64)
    spoiled, masks = synthetic_anomalies(images, fill)
    outside = ~masks[:, None].expand_as(images)
    assert masks.any() and torch.equal(spoiled[outside], images[outside])
    assert (spoiled != images).any(dim=1)[masks].float().mean() > 0.99
    assert spoiled.min() >= 0 and spoiled.max() <= 1


def test_a_patch_of_another_image_keeps_its_structure():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 64, 64) * 0.5
    spoiled, masks = synthetic_anomalies(images, "images")
    for i in range(4):
        other = images[i - 1].flip(1, 2)
        for colour in range(3):
            ratio = (spoiled[i, colour] / other[colour])[masks[i]]
            torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
            assert ((ratio >= 0.5) & (ratio <= 1.5)).all()


def test_opacity_blends():
    images = torch.zeros(50, 3, 32, 32)
    torch.manual_seed(0)
    full, masks = synthetic_anomalies(images, opacity=1.0)
    torch.manual_seed(0)
    faint, same = synthetic_anomalies(images, opacity=0.01)
    assert torch.equal(masks, same) and faint.mean() < 0.7 * full.mean()


@pytest.mark.parametrize("arguments", [{"fill": "perlin"}, {"opacity": 0.0}, {"opacity": 1.5}])
def test_unknown_anomalies_are_refused(arguments: dict):
    with pytest.raises(DataError):
        synthetic_anomalies(torch.rand(2, 3, 16, 16), **arguments)


def test_a_cell_is_masked_if_one_pixel_is():
    masks = torch.zeros(1, 12, 8, dtype=torch.bool)
    masks[0, 5, 7] = True
    cells = mask_cells(masks, (3, 2))
    expected = torch.zeros(1, 3, 2)
    expected[0, 1, 1] = 1
    assert torch.equal(cells, expected)


# MKD


def test_value_and_direction_are_the_two_sums():
    student, teacher = random(2, 3, 4, 5), random(2, 3, 4, 5, seed=1)
    for found, s, t in zip(value_and_direction(student, teacher, 0.3), student, teacher, strict=True):
        dot = norm_s = norm_t = squares = 0.0
        for a, b in zip(s.flatten().tolist(), t.flatten().tolist(), strict=True):
            dot, norm_s, norm_t, squares = dot + a * b, norm_s + a * a, norm_t + b * b, squares + (a - b) ** 2
        expected = 1 - dot / math.sqrt(norm_s * norm_t) + 0.3 * squares / s.numel()
        assert found.item() == pytest.approx(expected, abs=1e-12)


def test_opening_is_scipys():
    maps = random(2, 17, 13)
    expected = [grey_opening(m.numpy(), size=(3, 3)) for m in maps]
    # SciPy mirrors at the border, which the erosion of the interior does not see.
    np.testing.assert_allclose(opened(maps).numpy()[:, 2:-2, 2:-2], np.stack(expected)[:, 2:-2, 2:-2])


def test_the_cloner_is_smaller_and_fits():
    detector = MKD()
    images = torch.rand(2, 3, 64, 64)
    targets = detector.teacher(images).values()
    assert [m.shape for m in detector.student(images)] == [m.shape for m in targets]
    teacher = sum(p.numel() for p in detector.teacher.parameters())
    assert sum(p.numel() for p in detector.student.parameters()) < 0.2 * teacher


def test_the_gradient_passes_through_teacher_and_cloner():
    detector = MKD(layers=(4, 8)).double().eval()
    pixels = torch.rand(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)

    def score(images: torch.Tensor) -> torch.Tensor:
        return detector.losses(images, *detector.teacher.differentiable(images).values()).sum()

    (gradient,) = torch.autograd.grad(score(pixels), pixels)
    for index in [(0, 0, 5, 6), (0, 1, 16, 16), (0, 2, 30, 2)]:
        step = torch.zeros_like(pixels)
        step[index] = 1e-6
        with torch.no_grad():
            slope = (score(pixels + step) - score(pixels - step)) / 2e-6
        assert gradient[index].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-9)


# IKD


def test_hard_positions_are_numpys():
    distance = random(3, 6, 7).square()
    values = distance.numpy()
    expected = values >= values.mean() + 1.5 * values.std(ddof=1)
    assert expected.any() and np.array_equal(hard_positions(distance, 1.5).numpy(), expected)


def test_all_positions_are_hard_where_none_stands_out():
    assert hard_positions(torch.ones(2, 3, 3), 50.0).all()
    assert hard_positions(random(2, 3, 3), 50.0).all()


def test_ikds_loss_is_its_formula():
    detector = IKD(beta=1.0, context_weight=0.7)
    student, teacher = random(2, 5, 4, 4), random(2, 5, 4, 4, seed=1)
    rows = []
    for b, y, x in np.ndindex(2, 4, 4):
        s, t = student[b, :, y, x].numpy(), teacher[b, :, y, x].numpy()
        rows.append((s / np.linalg.norm(s), t / np.linalg.norm(t)))
    distances = np.array([((s - t) ** 2).sum() for s, t in rows])
    margin = distances.mean() + distances.std(ddof=1)
    chosen = [row for row, d in zip(rows, distances, strict=True) if d >= margin]
    pairs = [(s @ s2 - t @ t2) ** 2 for s, t in chosen for s2, t2 in chosen]
    expected = distances[distances >= margin].mean() + 0.7 * np.mean(pairs)
    assert 1 < len(chosen) < len(rows)
    assert detector.level_loss(student, teacher).item() == pytest.approx(expected, abs=1e-12)


def test_easy_positions_get_no_gradient():
    student, teacher = random(1, 5, 8, 8).requires_grad_(), random(1, 5, 8, 8, seed=1)
    IKD(beta=1.0).level_loss(student, teacher).backward()
    hard = hard_positions(level_distance(student.detach(), teacher), 1.0)
    moved = student.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved, hard)


def test_context_is_blind_to_a_rotation_of_all_features():
    vectors = F.normalize(random(9, 4), dim=1)
    turn = torch.linalg.qr(random(4, 4, seed=1)).Q
    assert context_difference(vectors @ turn, vectors).item() == pytest.approx(0, abs=1e-12)
    assert context_difference(F.normalize(random(9, 4, seed=2), dim=1), vectors) > 0.01


# CDO


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_collaborative_loss_is_its_formula(gamma: float):
    distance, masks = random(2, 4, 4).square() + 0.1, random(2, 4, 4, seed=1) > 0.3
    normal = [d for d, m in zip(distance.flatten().tolist(), masks.flatten().tolist(), strict=True) if not m]
    painted = [d for d, m in zip(distance.flatten().tolist(), masks.flatten().tolist(), strict=True) if m]
    above = below = 0.0
    for d in normal:
        weight = (d / np.mean(normal)) ** gamma
        above, below = above + weight * d, below + weight
    for d in painted:
        weight = (d / np.mean(painted)) ** -gamma
        above, below = above - weight * d, below + weight
    assert collaborative_loss(distance, masks, gamma).item() == pytest.approx(above / below, abs=1e-12)


def test_descent_shrinks_normal_and_grows_painted_distances():
    distance, masks = (random(1, 6, 6).square() + 0.1).requires_grad_(), random(1, 6, 6, seed=1) > 0
    collaborative_loss(distance, masks).backward()
    assert (distance.grad[~masks] > 0).all() and (distance.grad[masks] < 0).all()


def test_the_overlap_pulls_most():
    distance = torch.linspace(0.1, 2.0, 36, dtype=torch.float64).view(1, 6, 6).requires_grad_()
    masks = torch.arange(36).view(1, 6, 6) % 2 == 1
    collaborative_loss(distance, masks).backward()
    assert (distance.grad[~masks].diff() > 0).all() and (distance.grad[masks].diff() > 0).all()


@pytest.mark.parametrize("value", [False, True])
def test_one_kind_alone_and_zero_distances_are_finite(value: bool):
    distance = torch.zeros(1, 4, 4, requires_grad=True)
    loss = collaborative_loss(distance, torch.full((1, 4, 4), value))
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(distance.grad).all()


# RSA, RSTPM, DAF


def test_rsas_first_three_levels_are_stfpms():
    detector = RSA()
    images = torch.rand(2, 3, 64, 64)
    targets = tuple(detector.teacher(images).values())
    plain = STFPM()
    plain.student.load_state_dict(detector.student["match"].state_dict())
    found = detector.eval().distances(images, *targets)
    for ours, theirs in zip(found, plain.eval().distances(images, *targets), strict=False):
        torch.testing.assert_close(ours, theirs)
    assert len(found) == 6 and [d.shape for d in found[:3]] == [d.shape for d in found[3:]]


def test_a_rebuilder_sees_averages_only():
    torch.manual_seed(0)
    net = Rebuilder(8, 16).eval()
    maps = F.normalize(torch.randn(1, 8, 8, 12), dim=1)
    mixed = maps.clone()
    mixed[:, :, :4, 4:8] = maps[:, :, :4, 4:8].flip(2, 3)
    assert not torch.equal(mixed, maps)
    torch.testing.assert_close(net(mixed), net(maps))
    assert net(torch.randn(2, 8, 5, 3)).shape == (2, 8, 5, 3)


def test_balanced_bce_weighs_both_kinds_alike():
    logits, masks = random(2, 3, 3), (random(2, 3, 3, seed=1) > 0.5).double()
    terms = {0.0: [], 1.0: []}
    for z, y in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-z))
        terms[y].append(-math.log(p if y else 1 - p))
    expected = np.mean(terms[0.0]) + np.mean(terms[1.0])
    assert balanced_bce(logits, masks).item() == pytest.approx(expected, abs=1e-12)
    assert torch.isfinite(balanced_bce(logits, torch.zeros_like(masks)))


def test_the_judge_does_not_touch_the_students(tiny):
    judged, plain = RSTPM(**SMALL, judge_epochs=2).fit(tiny.train), RSA(**SMALL).fit(tiny.train)
    for name, tensor in plain.student.state_dict().items():
        assert torch.equal(judged.student.state_dict()[name], tensor), name


def test_dafs_student_learns_where_the_image_stayed_normal():
    detector = DAF(layers=(4, 8))
    # With a constant decoder, only distillation pulls at the teacher's maps.
    torch.nn.init.zeros_(detector.student["decoder"].head.weight)
    images = torch.rand(4, 3, 64, 64)
    targets = [maps.requires_grad_() for maps in detector.teacher(images).values()]
    torch.manual_seed(3)
    _, masks = synthetic_anomalies(images, "images", 0.2)
    torch.manual_seed(3)
    detector.loss(images, *targets).backward()
    assert masks.any()
    for maps in targets:
        pulled = maps.grad.abs().sum(dim=1) > 0
        assert torch.equal(pulled, mask_cells(masks, tuple(maps.shape[-2:])) == 0)


@pytest.mark.parametrize("cls", FROM_IMAGES)
def test_training_leaves_the_teacher_alone(cls, tiny):
    detector = cls(**SMALL)
    before = {name: t.clone() for name, t in detector.teacher.state_dict().items()}
    weights = {name: t.clone() for name, t in detector.student.state_dict().items()}
    detector.fit(tiny.train)
    for name, tensor in detector.teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in detector.teacher.parameters())
    moved = [not torch.equal(p, weights[name]) for name, p in detector.student.named_parameters()]
    assert all(moved)


@pytest.mark.parametrize("cls", [MKD, CDO, RSA, DAF])
def test_losses_make_no_tensor_on_the_wrong_device(cls):
    def batch() -> tuple[torch.Tensor, ...]:
        images = torch.rand(2, 3, 64, 64)
        return images, *cls(**SMALL).teacher(images).values()

    fake_cuda_loss(lambda: cls(**SMALL), lambda detector, tensors: detector.loss(*tensors), batch)


# Students of features


def test_a_ring_is_blind_in_the_middle():
    torch.manual_seed(0)
    ring = RingConv(4, 6, size=7, hole=3)
    maps = torch.randn(1, 4, 15, 15)
    hidden, seen = maps.clone(), maps.clone()
    hidden[:, :, 6:9, 6:9] += 5
    seen[:, :, 5, 7] += 5
    torch.testing.assert_close(ring(hidden)[..., 7, 7], ring(maps)[..., 7, 7])
    assert not torch.allclose(ring(seen)[..., 7, 7], ring(maps)[..., 7, 7])


def test_a_ring_is_a_sum_over_the_ring():
    torch.manual_seed(0)
    ring = RingConv(2, 1, size=5, hole=3).double()
    maps = random(1, 2, 9, 9)
    expected = ring.bias.item()
    for c, dy, dx in np.ndindex(2, 5, 5):
        if max(abs(dy - 2), abs(dx - 2)) > 1:
            expected += ring.weight[0, c, dy, dx].item() * maps[0, c, 4 + dy - 2, 4 + dx - 2].item()
    assert ring(maps)[0, 0, 4, 4].item() == pytest.approx(expected, abs=1e-12)


def test_the_global_feature_does_not_know_the_patch():
    detector = GlancingPatch().eval()
    maps = torch.randn(1, sum(detector.extractor.channels), 12, 12)
    changed = maps.clone()
    changed[:, :, 6, 6] = torch.randn(maps.shape[1])
    before, after = (detector.student["context"](m)[..., 6, 6] for m in (maps, changed))
    torch.testing.assert_close(before, after)


def test_the_distortion_head_finds_what_it_was_shown(tiny):
    detector = GlancingPatch(epochs=30).fit(tiny.train)
    torch.manual_seed(5)
    images, masks = synthetic_anomalies(tiny.validation.images())
    local, around = (list(detector.extractor(x).values()) for x in (images, tiny.validation.images()))
    cells = mask_cells(masks, tuple(local[0].shape[-2:])) > 0
    _, logits = detector.heads(local[0], around[0])
    assert logits[cells].mean() > logits[~cells].mean() + 0.3


def test_what_is_hidden_is_not_seen():
    detector = MaskedFeatureRegeneration().eval()
    maps = F.normalize(torch.randn(1, sum(detector.extractor.channels), 8, 8), dim=1)
    hidden = torch.rand(1, 8, 8) < 0.5
    changed = torch.where(hidden[:, None], torch.randn_like(maps), maps)
    hole = hidden[:, None].float()
    before, after = (detector.student(torch.cat([m * (1 - hole), hole], dim=1)) for m in (maps, changed))
    torch.testing.assert_close(before, after)


def test_the_folds_hide_every_position_once(monkeypatch):
    detector = MaskedFeatureRegeneration(folds=3).eval()
    seen = []

    def ones(maps: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        seen.append(hidden)
        return torch.ones_like(hidden, dtype=maps.dtype)

    monkeypatch.setattr(detector, "regenerated", ones)
    found = detector.discrepancy(*(torch.randn(2, c, 7, 5) for c in detector.extractor.channels))
    assert torch.equal(torch.stack(seen).sum(dim=0), torch.ones(2, 7, 5, dtype=torch.long))
    assert torch.equal(found, torch.ones(2, 7, 5))


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        (GlancingPatch, {"hole": 7}),
        (GlancingPatch, {"hole": 2}),
        (GlancingPatch, {"window": 6}),
        (MaskedFeatureRegeneration, {"ratio": 0.0}),
        (MaskedFeatureRegeneration, {"ratio": 1.0}),
        (MaskedFeatureRegeneration, {"folds": 1}),
    ],
)
def test_bad_arguments_are_refused(cls, arguments: dict):
    with pytest.raises(DataError):
        cls(**arguments)
