"""Variations of reverse distillation: each paper's change against a loop, and what it leaves alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.reverse_distillation import (
    AEKD,
    EMMRKD,
    GNL,
    MemKD,
    MutualMapping,
    ReverseDistillation,
    augmix,
    changed_outputs,
    flat_loss,
    matched,
    position_loss,
    recall,
)

SMALL = {"epochs": 2, "code": 16, "widths": (8, 8, 8), "batch_size": 2}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_recall_by_loops():
    maps, memory = noise(2, 3, 2, 4), noise(5, 3, seed=1)
    found = recall(maps, memory, 0.3)
    for image, row, column in np.ndindex(2, 2, 4):
        query = maps[image, :, row, column].numpy()
        likes = [query @ m / np.linalg.norm(query) / np.linalg.norm(m) for m in memory.numpy()]
        weights = np.exp(np.array(likes) / 0.3)
        expected = (weights / weights.sum()) @ memory.numpy()
        np.testing.assert_allclose(found[image, :, row, column].numpy(), expected, rtol=1e-10)


def test_recall_stays_inside_the_memory():
    memory = noise(4, 3)
    found = recall(100 * noise(1, 3, 6, 6, seed=2), memory)
    assert (found.amax(dim=(0, 2, 3)) <= memory.amax(dim=0) + 1e-9).all()
    (one,) = recall(noise(1, 3, 1, 1), memory[:1]).flatten(1)
    torch.testing.assert_close(one, memory[0])


def test_exemplars_teach_the_memory(tiny):
    detector = MemKD(**SMALL, items=6, exemplars=3)
    features = detector.extractor.extract(tiny.train)
    detector.fit_features(features)
    assert not hasattr(detector, "normals")
    maps = list(features.values())
    detector.normals = [m[:3] for m in maps]
    answers = [
        recall(m, memory) for m, memory in zip(detector.normals, detector.student.memories, strict=True)
    ]
    base = flat_loss(maps, detector.student(maps))
    torch.testing.assert_close(detector.loss(*maps), base + position_loss(detector.normals, answers))
    grads = torch.autograd.grad(position_loss(detector.normals, answers), list(detector.student.memories))
    assert all(g.abs().sum() > 0 for g in grads)


def test_restored_maps_are_the_decoders_plus_what_they_recall(tiny):
    network = MemKD(**SMALL, items=6).student.eval()
    maps = list(FeatureExtractor(layers=(4, 8, 16))(tiny.train.images()[:2]).values())
    plain = network.decoder(network.bottleneck(maps), maps)
    for found, p, memory in zip(network(maps), plain, network.memories, strict=True):
        torch.testing.assert_close(found, p + recall(p, memory))


@pytest.mark.parametrize("arguments", [{"items": 0}, {"exemplars": 0}])
def test_empty_memory_is_refused(arguments: dict):
    with pytest.raises(DataError):
        MemKD(**SMALL, **arguments)


def test_every_level_sees_every_other():
    mapping = MutualMapping((3, 4, 5)).eval()
    maps = [torch.randn(1, c, n, n, requires_grad=True) for c, n in ((3, 8), (4, 4), (5, 2))]
    mixed = mapping(maps)
    assert [m.shape for m in mixed] == [m.shape for m in maps]
    for out in mixed:
        gradients = torch.autograd.grad(out.square().sum(), maps, retain_graph=True)
        assert all(g.abs().sum() > 0 for g in gradients)


def test_mutual_mapping_by_hand():
    mapping = MutualMapping((2, 3)).eval()
    fine, coarse = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 2, 2)
    weights = [[m.weight[:, :, 0, 0] for m in row] for row in mapping.mappings]
    enlarged = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = fine + torch.einsum("oi,bihw->bohw", weights[0][0], fine)
    expected = expected + torch.einsum("oi,bihw->bohw", weights[0][1], enlarged)
    found = mapping([fine, coarse])[0]
    torch.testing.assert_close(found, expected / (1 + mapping.norms[0].eps) ** 0.5)


def test_the_mapping_is_before_the_bottleneck_only():
    plain, mixed = ReverseDistillation(**SMALL), EMMRKD(**SMALL)
    names = set(dict(mixed.student.decoder.named_parameters()))
    assert names == set(dict(plain.student.decoder.named_parameters()))
    assert isinstance(mixed.student.bottleneck[0], MutualMapping)


def test_the_autoencoder_sees_the_image_alone(tiny):
    detector = AEKD(**SMALL).fit(tiny.train.take(4))
    images = tiny.test.images()[:2]
    targets = list(detector.teacher(images).values())
    restored = detector.student(detector.normalised(images))
    assert [r.shape for r in restored] == [t.shape for t in targets]
    before = {n: p.clone() for n, p in detector.teacher.state_dict().items()}
    detector.fit(tiny.train.take(4))
    assert all(torch.equal(p, before[n]) for n, p in detector.teacher.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_matching_by_loops(share: float):
    maps, reference = noise(2, 3, 4, 5), noise(3, 20, seed=1).sort(dim=1).values
    found = matched(maps, reference, share)
    for image, channel in np.ndindex(2, 3):
        values = maps[image, channel].numpy().ravel()
        ranks = values.argsort().argsort()
        expected = [
            v + share * (reference[channel, r].item() - v) for v, r in zip(values, ranks, strict=True)
        ]
        np.testing.assert_allclose(found[image, channel].numpy().ravel(), expected, rtol=1e-10)


def test_full_matching_gives_the_reference_distribution_at_any_size():
    reference = noise(3, 16).sort(dim=1).values
    found = matched(noise(1, 3, 8, 8, seed=3), reference, 1.0).flatten(2)[0]
    torch.testing.assert_close(found.amin(dim=1), reference[:, 0])
    torch.testing.assert_close(found.amax(dim=1), reference[:, -1])


def test_injection_reaches_the_deeper_levels_and_ends_with_the_block(tiny):
    extractor = FeatureExtractor(layers=(4, 8, 16))
    images = tiny.test.images()[:2]
    plain = extractor(images)
    with changed_outputs(extractor.trunk.model, {extractor.layers[0]: lambda m: m + 1}):
        inside = extractor(images)
    torch.testing.assert_close(inside[extractor.layers[0]], plain[extractor.layers[0]] + 1)
    assert not torch.allclose(inside[extractor.layers[2]], plain[extractor.layers[2]])
    after = extractor(images)
    assert all(torch.equal(after[name], plain[name]) for name in plain)


def test_hooks_are_removed_when_the_block_fails(tiny):
    extractor = FeatureExtractor(layers=(4, 8, 16))
    with (
        pytest.raises(ZeroDivisionError),
        changed_outputs(extractor.trunk.model, {extractor.layers[0]: lambda m: 1 / 0}),
    ):
        extractor(tiny.test.images()[:1])
    assert torch.isfinite(extractor(tiny.test.images()[:1])[extractor.layers[0]]).all()


def test_nothing_injected_is_reverse_distillation(tiny):
    detector = GNL(**SMALL, injection=0.0).fit(tiny.train)
    images = tiny.test.images()[:3]
    expected = detector.score_features(detector.extractor(images), images.shape[-2:])
    torch.testing.assert_close(detector.predict(images).score, expected.score)
    detector.injection = 0.5
    assert not torch.allclose(detector.predict(images).score, expected.score)


def test_invariance_loss_is_the_papers(tiny):
    detector = GNL(**SMALL)
    detector.student.eval()
    images = tiny.train.images()[:2]
    views = [detector.features_of(v) for v in (images, images.flip(3), 1 - images)]
    codes = [detector.student.bottleneck(v) for v in views]
    restored = [detector.student.decoder(c, v) for c, v in zip(codes, views, strict=True)]

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (1 - F.cosine_similarity(a.flatten(1), b.flatten(1))).mean()

    normal = sum(distance(t, r) for t, r in zip(views[0], restored[0], strict=True))
    code = distance(codes[0], codes[1]) + distance(codes[0], codes[2])
    last = distance(restored[0][0], restored[1][0]) + distance(restored[0][0], restored[2][0])
    found = detector.loss(*(m for view in views for m in view))
    torch.testing.assert_close(found, 0.9 * normal + 0.05 * code + 0.05 * last)


def test_styles_are_images_and_repeat_with_their_generator():
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    styled = [augmix(image, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(styled[0], styled[1]) and not torch.equal(styled[0], styled[2])
    for other in styled:
        assert other.shape == image.shape and other.min() >= 0 and other.max() <= 1
        assert not torch.equal(other, image)


@pytest.mark.parametrize("arguments", [{"invariance": 0.6}, {"invariance": -0.1}, {"injection": 1.5}])
def test_gnl_refuses_shares_out_of_range(arguments: dict):
    with pytest.raises(DataError):
        GNL(**SMALL, **arguments)


@pytest.mark.parametrize("cls", [MemKD, EMMRKD, GNL, AEKD])
def test_widths_must_match_layers(cls: type):
    with pytest.raises(DataError):
        cls(**SMALL | {"widths": (8, 8)})
