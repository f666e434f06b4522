"""MemSeg: paint, memory, fusion and loss against direct transcriptions."""

import math

import pytest
import torch

from adlearn.data import load
from adlearn.errors import DataError
from adlearn.methods.synthetic_anomalies import (
    CoordinateAttention,
    FusionDecoder,
    MemSeg,
    difference_information,
    foreground_mask,
    memseg_loss,
    memseg_simulated,
    nearest_memory,
    otsu,
    shuffled_tiles,
    spatial_attention,
    top_mean,
)

TEXTURES = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(9))


@pytest.fixture
def levels() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [torch.randn(3, c, s, s + 1) for c, s in ((4, 8), (6, 4), (8, 2))]


@pytest.fixture
def memory() -> list[torch.Tensor]:
    torch.manual_seed(1)
    return [torch.randn(5, c, s, s + 1) for c, s in ((4, 8), (6, 4), (8, 2))]


def test_nearest_memory_is_the_smallest_sum_of_mean_squares(levels, memory):
    for row, chosen in enumerate(nearest_memory(levels, memory).tolist()):
        totals = []
        for k in range(5):
            total = 0.0
            for m, n in zip(levels, memory, strict=True):
                total += float((m[row].double() - n[k].double()).square().mean())
            totals.append(total)
        assert chosen == min(range(5), key=totals.__getitem__)


def test_an_image_of_the_memory_has_no_difference(memory):
    assert nearest_memory([m[3:] for m in memory], memory).tolist() == [3, 4]
    assert all(d.abs().max() == 0 for d in difference_information([m[3:] for m in memory], memory))


def test_difference_information_is_the_square_from_one_image_for_all_levels(levels, memory):
    # Level by level the nearest images would differ: the choice is common.
    chosen = nearest_memory(levels, memory)
    for m, n, d in zip(levels, memory, difference_information(levels, memory), strict=True):
        for row, k in enumerate(chosen.tolist()):
            torch.testing.assert_close(d[row], (m[row] - n[k]) ** 2)


def test_concatenated_information_reaches_each_block(levels, memory):
    network = FusionDecoder((4, 6, 8, 5), (4, 6, 8)).eval()
    seen = []
    for block in network.blocks:
        block[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    differences = difference_information(levels, memory)
    network.fused(levels, differences)
    for found, m, d in zip(seen, levels, differences, strict=True):
        torch.testing.assert_close(found, torch.cat([m, d], dim=1))


def test_coordinate_attention_formula():
    torch.manual_seed(2)
    attention = CoordinateAttention(5).double().eval()
    batch_norm = attention.squeeze[1]
    batch_norm.running_mean.normal_()
    batch_norm.running_var.uniform_(0.5, 2)
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    found = attention(maps)

    def factor(z: torch.Tensor, last: torch.nn.Conv1d) -> torch.Tensor:
        y = attention.squeeze[0].weight[:, :, 0] @ z + attention.squeeze[0].bias
        y = (y - batch_norm.running_mean) / (batch_norm.running_var + batch_norm.eps).sqrt()
        y = y * (y + 3).clamp(0, 6) / 6
        return 1 / (1 + torch.exp(-(last.weight[:, :, 0] @ y + last.bias)))

    for b in range(2):
        for row in range(3):
            for column in range(4):
                rows = factor(maps[b, :, row].mean(dim=1), attention.rows)
                columns = factor(maps[b, :, :, column].mean(dim=1), attention.columns)
                expected = maps[b, :, row, column] * rows * columns
                torch.testing.assert_close(found[b, :, row, column], expected)


def test_spatial_attention_multiplies_levels():
    differences = [torch.full((1, c, s, s), value) for c, s, value in ((2, 8, 2.0), (3, 4, 3.0), (4, 2, 5.0))]
    means = [m.unique().tolist() for m in spatial_attention(differences)]
    assert means == [[30.0], [15.0], [5.0]]
    assert [tuple(m.shape) for m in spatial_attention(differences)] == [(1, 1, s, s) for s in (8, 4, 2)]


def test_without_difference_only_the_deepest_layer_speaks(levels):
    network = FusionDecoder((4, 6, 8, 5), (4, 6, 8)).eval()
    none = [torch.zeros_like(m) for m in levels]
    assert all(f.abs().max() == 0 for f in network.fused(levels, none))
    deepest = torch.randn(3, 5, 1, 1)
    logits = network([*levels, deepest], none)
    torch.testing.assert_close(logits, network([*(m + 1 for m in levels), deepest], none))
    assert logits.shape == (3, 16, 18)


@pytest.mark.parametrize("foreground", [False, True])
def test_masks_are_where_pixels_changed(foreground):
    torch.manual_seed(3)
    images = torch.rand(24, 3, 64, 64)
    before = images.clone()
    changed, masks = memseg_simulated(images, TEXTURES, foreground=foreground)
    assert torch.equal(images, before)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert masks.dtype == torch.bool and changed.min() >= 0 and changed.max() <= 1
    painted = masks.flatten(1).any(dim=1)
    assert 3 < painted.sum() < 20
    assert memseg_simulated(images, TEXTURES, share=0.0)[1].sum() == 0


def test_paint_stays_on_the_product():
    image = torch.full((1, 3, 64, 64), 0.1)
    image[..., 20:44, 20:44] = 0.8
    product = foreground_mask(image[0])
    assert torch.equal(product, image[0, 0] > 0.5)
    torch.manual_seed(4)
    masks = memseg_simulated(image.repeat(40, 1, 1, 1), TEXTURES, share=1.0, foreground=True)[1]
    assert masks.any() and not masks[:, ~product].any()


def test_otsu_against_every_split():
    torch.manual_seed(5)
    values = torch.cat([torch.randn(30), 4 + torch.randn(20)]).double()
    ordered = values.sort().values

    def between_groups(k: int) -> float:
        low, high = ordered[:k], ordered[k:]
        return float(k * (50 - k) * (low.mean() - high.mean()) ** 2)

    best = max(range(1, 50), key=between_groups)
    assert ordered[best - 1] <= otsu(values) <= ordered[best]
    assert (torch.full((9,), 0.3) > otsu(torch.full((9,), 0.3))).sum() == 0


def test_shuffled_tiles_keep_every_tile():
    torch.manual_seed(6)
    image = torch.rand(3, 35, 50)
    found = shuffled_tiles(image)
    tiles = [
        sorted(
            tuple(x[:, 4 * r : 4 * r + 4, 6 * c : 6 * c + 6].flatten().tolist())
            for r in range(8)
            for c in range(8)
        )
        for x in (image, found)
    ]
    assert tiles[0] == tiles[1]
    assert not torch.equal(image, found)
    assert torch.equal(image[:, 32:], found[:, 32:]) and torch.equal(image[..., 48:], found[..., 48:])


def test_loss_formula():
    torch.manual_seed(7)
    logits = torch.randn(2, 3, 4, dtype=torch.float64)
    masks = torch.rand(2, 3, 4) < 0.4
    distance = focal = 0.0
    for logit, mask in zip(logits.flatten().tolist(), masks.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        right = p if mask else 1 - p
        distance += abs(p - mask) / 24
        focal -= (1 - right) ** 4 * math.log(right) / 24
    assert float(memseg_loss(logits, masks)) == pytest.approx(0.6 * distance + 0.4 * focal)


def test_score_is_the_mean_of_the_highest_pixels():
    torch.manual_seed(8)
    maps = torch.rand(2, 256, 256)
    expected = maps.flatten(1).sort(dim=1).values[:, -100:].mean(dim=1)
    torch.testing.assert_close(top_mean(maps), expected)
    assert torch.equal(top_mean(maps[:, :4, :4]), maps[:, :4, :4].amax(dim=(1, 2)))


def test_only_fusion_and_decoder_are_trained():
    train = load("factory/steel", size=64).train.take(6)
    detector = MemSeg(memory=4, epochs=1, batch_size=4)
    before = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    detector.fit(train)
    clean = list(detector.extractor.extract(train).values())
    stock = detector.stock(train.images(), clean)
    assert [len(tensor) for tensor in stock] == [12] * 5
    normal = ~stock[-1].flatten(1).any(dim=1)
    assert 0 < normal.sum() < 12
    for new, old in zip(stock[:-1], clean, strict=True):
        assert torch.equal(new[normal], old.repeat(2, 1, 1, 1)[normal])
        assert not torch.equal(new[~normal], old.repeat(2, 1, 1, 1)[~normal])
    detector.network.train()
    detector.loss(*stock).backward()
    assert all(w.grad is not None and w.grad.abs().sum() > 0 for w in detector.network.last.parameters())
    assert all(block[0].weight.grad.abs().sum() > 0 for block in detector.network.blocks)
    assert all(w.grad is None for w in detector.extractor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in detector.extractor.state_dict().items())
    again = MemSeg(memory=4, epochs=1, batch_size=4).fit(train)
    assert torch.equal(again.history, MemSeg(memory=4, epochs=1, batch_size=4).fit(train).history)
    assert all(len(level) == 4 for level in again.remembered)


@pytest.mark.parametrize("wrong", [{"widths": (8, 16)}, {"memory": 0}, {"copies": 0}])
def test_bad_arguments(wrong):
    with pytest.raises(DataError):
        MemSeg(**wrong)
