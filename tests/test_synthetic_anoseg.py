"""AnoSeg: hard augmentation's masks, coordinates, the two losses, who trains whom."""

import math

import pytest
import torch
from fake_cuda import fake_cuda_loss

from adlearn.methods import synthetic_anomalies
from adlearn.methods.synthetic_anomalies import (
    HARD_CHANGES,
    AnoSeg,
    hard_augmented,
    largest_mean,
    pair_judge,
    permuted,
    with_coordinates,
)

SMALL = {"width": 2, "epochs": 1, "batch_size": 2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_the_quarters_of_a_piece_change_places():
    piece = torch.arange(3 * 4 * 4.0).view(3, 4, 4)

    def quarters(image):
        return {tuple(q.flatten().tolist()) for half in image.split(2, dim=1) for q in half.split(2, dim=2)}

    orders = {tuple(permuted(piece).flatten().tolist()) for _ in range(200)}
    assert len(orders) == 24
    assert quarters(permuted(piece)) == quarters(piece)


def test_hard_changes_keep_shape_range_and_their_input():
    piece = torch.rand(3, 8, 8)
    before = piece.clone()
    for change in HARD_CHANGES:
        found = change(piece)
        assert found.shape == piece.shape and found.min() >= 0 and found.max() <= 1
        assert not torch.equal(found, piece) or change is permuted
    assert torch.equal(piece, before)


@pytest.mark.parametrize("size", [(32, 32), (24, 60), (8, 8)])
def test_masks_are_exactly_where_pixels_changed(size):
    images = torch.rand(20, 3, *size)
    before = images.clone()
    changed, masks = hard_augmented(images)
    assert torch.equal(images, before)
    assert torch.equal(masks, (changed != images).any(dim=1)) and masks.any()
    assert changed.min() >= 0 and changed.max() <= 1


def test_half_of_the_images_stay_normal_and_a_mask_is_a_square():
    masks = hard_augmented(torch.rand(300, 3, 32, 32))[1]
    painted = masks.flatten(1).any(dim=1)
    assert 0.4 < painted.float().mean() < 0.6
    for mask in masks[painted]:
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.shape[0] <= 16 and box.shape[1] <= 16
        assert box.all() or box.float().mean() > 0.4


def test_coordinates_run_from_minus_one_to_one():
    found = with_coordinates(torch.rand(2, 3, 5, 9))
    assert found.shape == (2, 5, 5, 9)
    for row in range(5):
        for column in range(9):
            expected = torch.tensor([row / 2 - 1, column / 4 - 1])
            torch.testing.assert_close(found[1, 3:, row, column], expected)


def log_sigmoid(value: float) -> float:
    return -math.log(1 + math.exp(-value))


def fixed(monkeypatch, detector: AnoSeg) -> tuple[torch.Tensor, torch.Tensor]:
    """What the drawer answers, and the truth, with the random part taken out."""
    drawn = torch.randn(2, 4, 16, 16, dtype=torch.float64)
    truth = torch.cat([torch.rand(2, 3, 16, 16), (torch.rand(2, 1, 16, 16) < 0.3).float()], dim=1).double()
    monkeypatch.setattr(detector, "drawn", lambda images: (drawn, truth))
    return drawn, truth


def test_the_losses_are_the_formulas(monkeypatch):
    detector = AnoSeg(**SMALL).double()
    drawn, truth = fixed(monkeypatch, detector)
    shown = torch.cat([drawn[:, :3], 1 / (1 + (-drawn[:, 3:]).exp())], dim=1)
    for_true = detector.network["judge"](truth).flatten().tolist()
    for_drawn = detector.network["judge"](shown).flatten().tolist()
    judge = -sum(map(log_sigmoid, for_true)) / len(for_true)
    judge -= sum(log_sigmoid(-value) for value in for_drawn) / len(for_drawn)
    assert math.isclose(detector.judge_loss(truth[:, :3]).item(), judge, rel_tol=1e-9)
    pairs = list(zip(drawn[:, 3].flatten().tolist(), truth[:, 3].flatten().tolist(), strict=True))
    drawer = -sum(log_sigmoid(x if y else -x) for x, y in pairs) / len(pairs)
    drawer += (drawn[:, :3] - truth[:, :3]).abs().mean().item()
    drawer -= 0.1 * sum(map(log_sigmoid, for_drawn)) / len(for_drawn)
    assert math.isclose(detector.drawer_loss(truth[:, :3]).item(), drawer, rel_tol=1e-9)


def test_the_judge_does_not_teach_the_drawer_in_its_own_turn():
    detector = AnoSeg(**SMALL)
    images = torch.rand(2, 3, 32, 32)
    detector.judge_loss(images).backward()
    assert all(p.grad is None for p in detector.network["drawer"].parameters())
    assert all(p.grad is not None for p in detector.network["judge"].parameters())


def test_the_adversary_reaches_map_and_image():
    detector = AnoSeg(**SMALL)
    drawn = torch.randn(1, 4, 16, 16, requires_grad=True)
    detector.judged(drawn).sum().backward()
    assert (drawn.grad.abs().sum(dim=(0, 2, 3)) > 0).all()


def test_training_moves_both_and_keeps_both_histories(tiny):
    detector = AnoSeg(**SMALL)
    before = {name: value.clone() for name, value in detector.network.named_parameters()}
    detector.fit(tiny.train)
    after = dict(detector.network.named_parameters())
    assert {n.split(".")[0] for n, value in after.items() if (value != before[n]).any()} == {
        "drawer",
        "judge",
    }
    assert detector.history.shape == (1, 2)


def test_the_score_is_the_largest_mean_of_the_map(tiny):
    detector = AnoSeg(**SMALL).fit(tiny.train)
    found = detector.predict(tiny.test.images())
    assert found.map.min() >= 0 and found.map.max() <= 1
    torch.testing.assert_close(found.score, largest_mean(found.map, 21 / 256))


def test_the_judge_answers_for_patches():
    assert pair_judge(2)(torch.rand(3, 4, 32, 48)).shape == (3, 1, 4, 6)


def test_the_judge_is_made_on_the_device():
    fake_cuda_loss(
        lambda: pair_judge(2), lambda judge, pairs: judge(pairs).mean(), lambda: torch.rand(1, 4, 16, 16)
    )


def test_coordinates_are_made_on_the_device():
    fake_cuda_loss(
        lambda: AnoSeg(**SMALL),
        lambda detector, images: detector.network["drawer"](with_coordinates(images)).mean(),
        lambda: torch.rand(2, 3, 32, 32),
    )


def test_one_image_is_enough():
    assert hard_augmented(torch.rand(1, 3, 9, 9), share=1.0)[1].shape == (1, 9, 9)
    assert synthetic_anomalies.hard_augmented(torch.rand(2, 3, 2, 2))[0].shape == (2, 3, 2, 2)
