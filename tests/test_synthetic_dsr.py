"""DSR: quantization, its losses and moving codebook against transcriptions; anomalies; what is frozen."""

import copy

import pytest
import torch
import torch.nn.functional as F

from adlearn.errors import DataError
from adlearn.methods import synthetic_anomalies as dsr
from adlearn.methods.synthetic_anomalies import (
    DSR,
    DiscreteAutoencoder,
    DSRNetwork,
    VectorQuantizer,
    codeword_order,
    codewords_at,
    general_autoencoder,
    latent_anomalies,
    pretraining_loss,
    quantize,
    smudged,
    spoilt,
    vq_loss,
)

SIZES = {"codewords": 20, "dimensions": 4, "width": 8}
PRETRAINING = {"count": 4, "size": 32, "patch": 32, "epochs": 2, "batch_size": 2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture
def autoencoder():
    return DiscreteAutoencoder(**SIZES)


def test_quantize_is_a_loop_over_codewords():
    features, codebook = torch.randn(2, 3, 4, 5), torch.randn(7, 3)
    quantized, indices = quantize(features, codebook)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                distances = [(features[b, :, i, j] - word).norm().item() for word in codebook]
                nearest = min(range(7), key=distances.__getitem__)
                assert indices[b, i, j] == nearest
                assert torch.equal(quantized[b, :, i, j], codebook[nearest])


def test_quantize_agrees_with_cdist_far_from_the_origin():
    features, codebook = torch.randn(2, 8, 6, 6) + 3, torch.randn(50, 8) + 3
    rows = features.movedim(1, -1).flatten(0, 2)
    expected = torch.cdist(rows.double(), codebook.double()).argmin(dim=1)
    assert torch.equal(quantize(features, codebook)[1].flatten(), expected)


def test_the_gradient_passes_straight_through():
    features, codebook = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(7, 3, requires_grad=True)
    quantized, _ = quantize(features, codebook)
    quantized.retain_grad()
    (quantized.sin() * torch.randn_like(quantized)).sum().backward()
    assert torch.equal(features.grad, quantized.grad)
    assert codebook.grad is None


def test_vq_loss_has_its_stop_gradients():
    features, words = (torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    loss = vq_loss(features, words, commitment=0.25)
    difference = (features - words).detach()
    assert loss.item() == pytest.approx(1.25 * difference.square().mean().item())
    loss.backward()
    torch.testing.assert_close(words.grad, -2 * difference / difference.numel())
    torch.testing.assert_close(features.grad, 0.25 * 2 * difference / difference.numel())


def averaged(book, features, indices):
    """One step of the moving averages, feature by feature, in float64; no codeword starts again."""
    counts, sums = book.counts.double() * book.decay, book.sums.double() * book.decay
    rows = features.movedim(1, -1).flatten(0, -2).double()
    for row, index in zip(rows, indices.flatten().tolist(), strict=True):
        counts[index] += 1 - book.decay
        sums[index] += (1 - book.decay) * row
    return counts, sums


def test_codewords_move_to_the_average_of_their_features():
    book = VectorQuantizer(5, 3, decay=0.9, smallest=0.0)
    book.counts.fill_(2.0)
    book.sums.copy_(2 * book.codebook)
    # Far away from everything: nobody's codeword.
    book.codebook[4], book.sums[4] = 100.0, 200.0
    for _ in range(3):
        features = torch.randn(2, 3, 4, 4)
        indices = quantize(features, book.codebook)[1]
        counts, sums = averaged(book, features, indices)
        book.learn(features, indices)
        torch.testing.assert_close(book.counts.double(), counts, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(book.codebook.double(), sums / counts[:, None], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(book.counts[4].item(), 2 * 0.9**3)
    torch.testing.assert_close(book.codebook[4], torch.full((3,), 100.0))


def test_unused_codewords_start_again_at_features_of_the_batch():
    book = VectorQuantizer(5, 3, decay=0.9, smallest=0.5)
    book.counts.copy_(torch.tensor([4.0, 4.0, 4.0, 0.5, 0.6]))
    book.sums.copy_(book.codebook * book.counts[:, None])
    features = torch.randn(2, 3, 4, 4)
    indices = torch.zeros(2, 4, 4, dtype=torch.long)
    counts, sums = averaged(book, features, indices)
    book.learn(features, indices)
    torch.testing.assert_close(book.codebook[:3].double(), (sums / counts[:, None])[:3], rtol=1e-4, atol=1e-5)
    rows = features.movedim(1, -1).flatten(0, -2)
    assert (book.codebook[3] == rows).all(dim=1).any() and book.counts[3] == 1
    # 0.6 * 0.9 is still enough.
    torch.testing.assert_close(book.counts[4].item(), 0.54)


def test_the_order_of_codewords_is_by_distance_and_starts_with_itself():
    codebook = torch.randn(30, 4)
    codebook[7] = codebook[3]
    order = codeword_order(codebook)
    assert torch.equal(order[:, 0], torch.arange(30))
    for i in range(30):
        assert sorted(order[i].tolist()) == list(range(30))
        distances = (codebook[order[i]] - codebook[i]).norm(dim=1)
        assert (distances.diff() >= -1e-6).all()


@pytest.mark.parametrize(("similar", "farthest"), [(0.05, 1.0), (0.1, 0.2), (0.5, 1.0), (0.0, 0.02)])
def test_wrong_words_are_inside_the_mask_and_of_the_right_rank(similar, farthest):
    order = codeword_order(torch.randn(100, 4))
    indices, masks = torch.randint(100, (8, 16, 16)), torch.rand(8, 16, 16) < 0.5
    wrong = latent_anomalies(indices, masks, order, similar, farthest)
    assert torch.equal(wrong[~masks], indices[~masks])
    ranks = (order[indices] == wrong[..., None]).long().argmax(dim=-1)
    inside = ranks[masks]
    assert inside.min() >= max(1, int(similar * 100)) and inside.max() < max(2, round(farthest * 100))


def test_bounds_differ_between_images_and_small_ranks_are_most_frequent():
    order = codeword_order(torch.randn(100, 4))
    indices = torch.randint(100, (400, 8, 8))
    wrong = latent_anomalies(indices, torch.ones_like(indices, dtype=torch.bool), order)
    ranks = (order[indices] == wrong[..., None]).long().argmax(dim=-1).double()
    # k ~ U[5, n), n ~ U[5, 100]: the largest of 64 ranks is near n, and small ranks are frequent.
    largest = ranks.amax(dim=(1, 2))
    assert largest.std() > 20 and abs(largest.mean() - 52) < 5
    histogram = torch.histc(ranks, 5, 0, 100)
    assert (histogram.diff() < 0).all()


@pytest.mark.parametrize(("similar", "farthest"), [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1), (0.5, 0.1)])
def test_impossible_ranks_are_refused(similar, farthest):
    indices = torch.zeros(1, 2, 2, dtype=torch.long)
    with pytest.raises(DataError, match="similar"):
        latent_anomalies(indices, indices.bool(), torch.zeros(1, 1, dtype=torch.long), similar, farthest)


def test_spoilt_codewords_differ_inside_the_label_only_where_nothing_else_changed(autoencoder, monkeypatch):
    regions = torch.zeros(32, 8, 8)
    regions[:, 1:4, 2:5] = 1
    monkeypatch.setattr(dsr, "perlin_regions", lambda *_: regions)
    books = autoencoder.low.codebook, autoencoder.high.codebook
    orders = tuple(map(codeword_order, books))
    right, wrong, masks = spoilt(autoencoder, torch.rand(32, 3, 32, 32), orders)
    assert torch.equal(torch.stack([r.isfinite().all() for r in right + wrong]), torch.ones(4).bool())
    for words, book in zip(wrong, books, strict=True):
        rows = words.movedim(1, -1).flatten(0, 2)
        assert (torch.cdist(rows, book).amin(dim=1) < 1e-3).all()
    changed = [(w != r).any(dim=1) for w, r in zip(wrong, right, strict=True)]
    coarse = regions.bool().unfold(1, 2, 2).unfold(2, 2, 2).flatten(-2).any(dim=-1)
    on_low = changed[0].any(dim=(1, 2))
    assert torch.equal(changed[0], coarse & on_low[:, None, None])
    only_high = ~on_low
    assert only_high.any() and torch.equal(changed[1][only_high], regions.bool()[only_high])
    assert torch.equal(masks[only_high], regions.bool()[only_high])
    enlarged = coarse.repeat_interleave(2, 1).repeat_interleave(2, 2)
    assert torch.equal(masks[on_low], enlarged[on_low])
    # Half of the images have both books spoilt, a quarter one of them only.
    only_low = on_low & ~changed[1].any(dim=(1, 2))
    assert 0 < only_low.sum() < 16 and 0 < only_high.sum() < 16


def test_the_codes_have_their_strides(autoencoder):
    low, high = autoencoder.encode(torch.rand(2, 3, 32, 48))
    assert low.shape == (2, 4, 4, 6) and high.shape == (2, 4, 8, 12)
    assert autoencoder(torch.rand(2, 3, 32, 48)).shape == (2, 3, 32, 48)


def test_pretraining_reaches_the_encoder_and_moves_both_books(autoencoder):
    before = copy.deepcopy(autoencoder.state_dict())
    loss = pretraining_loss(autoencoder, torch.rand(4, 3, 32, 32))
    loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in autoencoder.parameters())
    for name in ("low.codebook", "high.codebook"):
        assert not torch.equal(autoencoder.state_dict()[name], before[name])


def test_pretraining_is_deterministic_and_cached():
    first = general_autoencoder(20, 4, 8, **PRETRAINING)
    assert general_autoencoder(20, 4, 8, **PRETRAINING) is first
    general_autoencoder.cache_clear()
    torch.rand(3)
    again = general_autoencoder(20, 4, 8, **PRETRAINING)
    assert again is not first
    for name, weights in first.items():
        assert torch.equal(weights, again[name]), name


def small(**options):
    arguments = {"codewords": 20, "dimensions": 4, "hidden": 8, "width": 4, "epochs": 1, "refining": 1}
    return DSR(**arguments | {"pretraining": PRETRAINING} | options)


def test_the_second_stage_trains_all_but_the_autoencoder_and_the_refiner():
    detector, images = small(), torch.rand(4, 3, 64, 64)
    detector.prepare(images)
    detector.loss(images).backward()
    network: DSRNetwork = detector.network
    for name, part in network.named_children():
        found = [weight.grad is not None and bool(weight.grad.any()) for weight in part.parameters()]
        # A bias before a batch norm has no gradient to speak of, but it has one.
        assert any(found) == (name not in ("general", "refine")), name


def test_the_detectors_loss_does_not_reach_the_decoders():
    network, images = small().network, torch.rand(2, 3, 64, 64)
    network(images)[2].sum().backward()
    frozen = [*network.decode.parameters(), *network.restrict_low.parameters()]
    assert all(weight.grad is None for weight in frozen)
    assert any(weight.grad is not None for weight in network.detect.parameters())


def test_the_images_loss_reaches_the_restriction_through_the_codebook():
    network, images = small().network, torch.rand(2, 3, 64, 64)
    network.restore(*network.general.encode(images))[1].sum().backward()
    assert network.restrict_low.last.weight.grad.any() and network.restrict_high.last.weight.grad.any()


def test_fitting_leaves_the_pretrained_weights_as_they_are():
    detector = small().train_on(torch.rand(5, 3, 64, 64))
    for name, weights in general_autoencoder(20, 4, 8, **PRETRAINING).items():
        assert torch.equal(detector.network.general.state_dict()[name], weights), name


def test_the_third_stage_changes_the_refiner_only():
    images = torch.rand(5, 3, 64, 64)
    short, longer = (small(refining=epochs).train_on(images).network for epochs in (1, 3))
    for name, part in short.named_children():
        other = getattr(longer, name).state_dict()
        same = all(torch.equal(value, other[key]) for key, value in part.state_dict().items())
        assert same == (name != "refine"), name


def test_the_score_is_the_largest_average_of_the_unrefined_map():
    detector = small(window=5).train_on(torch.rand(4, 3, 64, 64))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        maps = detector.network(images)[2].sigmoid()[:, 0]
    padded = F.pad(F.interpolate(maps[:, None], (64, 64), mode="bilinear")[:, 0], (2, 2, 2, 2))
    places = [(i, j) for i in range(64) for j in range(64)]
    expected = [max(p[i : i + 5, j : j + 5].sum().item() / 25 for i, j in places) for p in padded]
    torch.testing.assert_close(detector.predict(images).score, torch.tensor(expected))


def test_refinement_starts_as_the_coarse_map():
    network, images = small().network.eval(), torch.rand(2, 3, 64, 64)
    maps = network.coarse_maps(images)
    torch.testing.assert_close(network.sharpen(images, maps).sigmoid(), maps)


def test_features_are_on_a_sphere(autoencoder):
    fine, low = autoencoder.low_features(torch.rand(2, 3, 32, 32))
    high = autoencoder.high_features(fine, autoencoder.low(low))
    for features in (low, high):
        torch.testing.assert_close(features.norm(dim=1), torch.full_like(features[:, 0], 2.0))


def test_smudges_change_what_the_masks_say():
    images = torch.rand(32, 3, 48, 48)
    changed, masks = smudged(images)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert 0 < masks.any(dim=(1, 2)).sum() < 32
    share = ((changed - images).abs().amax(dim=1))[masks]
    assert changed.min() >= 0 and changed.max() <= 1 and share.min() > 0
    assert smudged(images[:1])[0].shape == (1, 3, 48, 48)


def test_sides_that_are_no_multiples_of_8_are_refused():
    detector = small().train_on(torch.rand(2, 3, 64, 64))
    with pytest.raises(DataError, match="multiples of 8"):
        detector.predict(torch.rand(1, 3, 60, 64))
    with pytest.raises(DataError, match="multiples of 8"):
        small().train_on(torch.rand(2, 3, 60, 64))


def test_codewords_at_is_a_lookup():
    codebook, indices = torch.randn(5, 3), torch.randint(5, (2, 4, 6))
    found = codewords_at(indices, codebook)
    assert found.shape == (2, 3, 4, 6) and torch.equal(found[1, :, 2, 5], codebook[indices[1, 2, 5]])
