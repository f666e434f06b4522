import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import SIDE, draw_image

from adlearn import features
from adlearn.data.base import AnomalyDataset, Sample
from adlearn.errors import DataError
from adlearn.features import FeatureExtractor, FeatureStore, Tail, aggregate, pooled, untrained
from adlearn.weights import DEFAULT_BACKBONE, packaged_state


@pytest.fixture(scope="module")
def extractor():
    return FeatureExtractor(layers=(4, 8, 16))


@pytest.fixture(scope="module")
def images(tiny):
    return tiny.test.images()


@pytest.fixture
def computed(monkeypatch):
    """How many images went through a trunk."""
    counts = []
    original = FeatureExtractor.forward

    def counting(self, images):
        counts.append(len(images))
        return original(self, images)

    monkeypatch.setattr(FeatureExtractor, "forward", counting)
    return counts


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def close(a, b):
    """Within 1e-5 of the layer's largest value."""
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5 * b[name].abs().max().item())


# --- what the trunk computes


def test_features_are_those_of_timms_own_model(extractor, images):
    reference = timm.create_model(DEFAULT_BACKBONE, features_only=True, out_indices=(1, 2, 3)).eval()
    state = packaged_state()
    reference.load_state_dict({name: state[name] for name in reference.state_dict()})
    cfg = timm.get_pretrained_cfg(DEFAULT_BACKBONE)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (cfg.mean, cfg.std))
    with torch.no_grad():
        expected = reference((images - mean) / std)
    found = extractor(images)
    assert [f.shape[-1] for f in found.values()] == [SIDE // 4, SIDE // 8, SIDE // 16]
    for ours, theirs in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_it_says_about_layers_is_what_it_returns(extractor, images):
    found = extractor(images[:2])
    assert tuple(found) == extractor.layers
    assert tuple(f.shape[1] for f in found.values()) == extractor.channels
    assert tuple(SIDE // f.shape[-1] for f in found.values()) == extractor.strides == (4, 8, 16)


def test_nothing_behind_the_last_layer_is_kept():
    def size(layers):
        return sum(p.numel() for p in FeatureExtractor(layers=layers).parameters())

    assert size((8,)) < size((16,)) < size((32,))


def test_layers_come_shallow_first_and_once_whatever_the_order_asked_for(extractor):
    names = extractor.layers
    assert FeatureExtractor(layers=(16, 4, 8, 16)).layers == names
    assert FeatureExtractor(layers=(names[2], 4, names[1])).layers == names


def test_features_do_not_depend_on_the_batch(extractor, images):
    together = extractor(images[:7])
    alone = [extractor(image[None]) for image in images[:7]]
    close({name: torch.cat([a[name] for a in alone]) for name in together}, together)


def test_weights_stay_frozen_and_in_evaluation_mode(images):
    extractor = FeatureExtractor(layers=(8,))
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    wrapper = torch.nn.Sequential(extractor).train()
    assert not any(module.training for module in extractor.modules())
    assert not any(p.requires_grad for p in wrapper.parameters())
    assert not any(f.requires_grad for f in extractor(images.clone().requires_grad_()).values())
    assert all(torch.equal(before[name], value) for name, value in extractor.state_dict().items())


def test_a_vision_transformer_takes_images_of_any_size(monkeypatch, images):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    monkeypatch.setattr(features, "available", lambda backbone: False)
    found = FeatureExtractor("vit_tiny_patch16_224", layers=("blocks.1",))(images[:1])
    assert found["blocks.1"].shape == (1, 192, SIDE // 16, SIDE // 16)


@pytest.mark.parametrize("layers", [(8, 5), ("layer2",), (), (8, "")])
def test_unknown_layers_are_refused_with_those_there_are(layers):
    with pytest.raises(
        DataError, match=r"tf_efficientnet_lite0 has no layer.*\[2, 4, 8, 16, 32\].*blocks\.2"
    ):
        FeatureExtractor(layers=layers)


# --- extraction and its cache


@pytest.fixture
def dataset(tiny, tmp_path):
    """Five images in a folder of their own, free to be changed."""
    paths = [Path(shutil.copy(s.path, tmp_path)) for s in tiny.train.samples[:5]]
    return AnomalyDataset("copied", [Sample(path, 0) for path in paths], size=SIDE)


def test_extraction_equals_forward_in_the_datasets_order(extractor, dataset, own_cache):
    found = extractor.extract(dataset.select([3, 0, 4]), batch_size=2)
    close(found, extractor(dataset.select([3, 0, 4]).images()))


def test_cached_features_equal_computed_ones_bit_for_bit(extractor, dataset, own_cache, computed):
    plain = extractor.extract(dataset, cache=False)
    assert not own_cache.exists()
    written = extractor.extract(dataset)
    computed.clear()
    read = extractor.extract(dataset)
    assert computed == [] and same(plain, written) and same(plain, read)


def test_cached_features_do_not_depend_on_the_dataset_that_asked_first(
    extractor, dataset, own_cache, computed
):
    extractor.extract(dataset.select([1, 3]))
    computed.clear()
    mixed = extractor.extract(dataset)
    assert sum(computed) == 3
    close(mixed, extractor.extract(dataset, cache=False))


def test_features_can_be_differentiated_through(extractor, dataset, own_cache):
    for found in (extractor.extract(dataset), extractor.extract(dataset)):
        layer = torch.nn.Linear(found["blocks.1"].shape[1], 1)
        layer(found["blocks.1"].mean(dim=(2, 3))).sum().backward()


def test_changed_file_content_is_computed_anew(extractor, dataset, own_cache, computed):
    before = extractor.extract(dataset)
    Image.fromarray(draw_image(99, True)).save(dataset.samples[2].path)
    computed.clear()
    after = extractor.extract(dataset)
    assert sum(computed) == 1
    changed = [not torch.equal(a, b) for a, b in zip(before["blocks.1"], after["blocks.1"], strict=True)]
    assert changed == [False, False, True, False, False]


def test_a_moved_file_is_still_known(extractor, dataset, own_cache, computed, tmp_path):
    extractor.extract(dataset)
    (tmp_path / "moved").mkdir()
    paths = [s.path.rename(tmp_path / "moved" / f"{i}.png") for i, s in enumerate(dataset.samples)]
    computed.clear()
    extractor.extract(AnomalyDataset("moved", [Sample(p, 0) for p in paths], size=SIDE))
    assert computed == []


def test_size_layers_backbone_and_weights_have_files_of_their_own(dataset, monkeypatch):
    def folder(extractor, size=SIDE):
        return FeatureStore(extractor, dataset.resized(size)).folder

    base = FeatureExtractor(layers=(4, 8))
    other_weights = FeatureExtractor(layers=(4, 8))
    next(other_weights.parameters()).data[0, 0, 0, 0] += 1e-6
    other_mean = FeatureExtractor(layers=(4, 8))
    other_mean.mean.add_(0.1)
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    monkeypatch.setattr(features, "available", lambda backbone: False)
    variants = [
        folder(base),
        folder(base, 32),
        folder(base, (32, SIDE)),
        folder(base, None),
        folder(FeatureExtractor(layers=(4,))),
        folder(FeatureExtractor(layers=(8, 16))),
        folder(other_weights),
        folder(other_mean),
        folder(FeatureExtractor("resnet18", (4, 8))),
    ]
    assert len(set(variants)) == len(variants)


def test_a_choice_of_layers_is_read_from_files_with_more(dataset, own_cache, computed):
    deep, both = FeatureExtractor(layers=(8,)), FeatureExtractor(layers=(4, 8))
    deep.extract(dataset)
    computed.clear()
    whole = both.extract(dataset)
    assert sum(computed) == len(dataset), "a file without one of the layers is no use"
    computed.clear()
    part = deep.extract(dataset)
    assert computed == [] and list(part) == list(deep.layers)
    assert torch.equal(part[deep.layers[0]], whole[deep.layers[0]])


def test_the_same_extractor_built_again_finds_the_same_files(dataset):
    assert FeatureExtractor(layers=(8, 4)).fingerprint() == FeatureExtractor(layers=(4, 8)).fingerprint()


def test_other_versions_of_reading_have_files_of_their_own(extractor, dataset, monkeypatch):
    before = FeatureStore(extractor, dataset).folder
    monkeypatch.setattr(features, "_VERSION", features._VERSION + 1)
    assert FeatureStore(extractor, dataset).folder != before


def damage_cut(content):
    return content[: len(content) // 2]


def damage_empty(content):
    return b""


def damage_header(content):
    return b"\xff" * 64 + content[64:]


def damage_zeros(content):
    return bytes(len(content))


@pytest.mark.parametrize("damage", [damage_cut, damage_empty, damage_header, damage_zeros])
def test_a_damaged_file_is_computed_anew_and_replaced(damage, extractor, dataset, own_cache, computed):
    expected = extractor.extract(dataset)
    store = FeatureStore(extractor, dataset)
    store.paths[1].write_bytes(damage(store.paths[1].read_bytes()))
    computed.clear()
    close(extractor.extract(dataset), expected)
    assert sum(computed) == 1
    assert store.read(1) is not None


def test_a_file_with_other_layers_is_not_used(extractor, dataset, own_cache):
    store = FeatureStore(extractor, dataset)
    store.write(0, {"stranger": torch.zeros(1)})
    assert store.read(0) is None


def test_a_random_transform_is_never_cached(extractor, dataset, own_cache):
    augmented = AnomalyDataset("augmented", dataset.samples, SIDE, transform=lambda image: image.flip(-1))
    found = extractor.extract(augmented)
    close(found, extractor(dataset.images().flip(-1)))
    assert not own_cache.exists()


def test_duplicates_share_a_file(extractor, dataset, own_cache):
    found = extractor.extract(dataset.select([0, 0, 1]))
    assert torch.equal(found["blocks.1"][0], found["blocks.1"][1])
    assert len(list(own_cache.rglob("*.safetensors"))) == 2


# --- aggregation


def windows(array, size):
    """Mean of the neighbourhood of each position, with zeros beyond the border, with loops."""
    channels, height, width = array.shape
    half = size // 2
    out = np.empty_like(array)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                rows = slice(max(0, y - half), y + half + 1)
                out[c, y, x] = array[c, rows, max(0, x - half) : x + half + 1].sum() / size**2
    return out


def stretched(array, side, mode):
    """Resize (C, h, w) to (C, side, side) position by position."""
    channels, height, width = array.shape
    out = np.empty((channels, side, side))
    for y in range(side):
        for x in range(side):
            if mode == "nearest":
                out[:, y, x] = array[:, y * height // side, x * width // side]
                continue
            v = min(max((y + 0.5) * height / side - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / side - 0.5, 0), width - 1)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            top = (1 - u + x0) * array[:, y0, x0] + (u - x0) * array[:, y0, x1]
            bottom = (1 - u + x0) * array[:, y1, x0] + (u - x0) * array[:, y1, x1]
            out[:, y, x] = (1 - v + y0) * top + (v - y0) * bottom
    return out


@settings(max_examples=15, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.sampled_from(["nearest", "bilinear"]), st.integers(0, 1000))
def test_aggregate_equals_loops(patch_size, mode, seed):
    rng = np.random.default_rng(seed)
    maps = {"a": rng.normal(size=(2, 3, 8, 8)), "b": rng.normal(size=(2, 2, 4, 4))}
    found = aggregate({name: torch.from_numpy(m) for name, m in maps.items()}, patch_size, mode)
    for row in range(2):
        near = {name: windows(m[row], patch_size) for name, m in maps.items()}
        expected = np.concatenate([near["a"], stretched(near["b"], 8, mode)])
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-9)


def test_aggregate_of_one_layer_is_that_layer():
    maps = torch.rand(2, 3, 4, 4)
    assert torch.equal(aggregate({"a": maps}), maps)


def test_a_pooling_extractor_gives_the_means_and_keeps_them_in_files_of_their_own(dataset, images):
    plain, pooling = FeatureExtractor(layers=(8, 16)), FeatureExtractor(layers=(8, 16), pool=True)
    maps = plain(images)
    for name, means in pooling(images).items():
        assert means.shape == (len(images), maps[name].shape[1], 1, 1)
        torch.testing.assert_close(means[..., 0, 0], maps[name].mean(dim=(2, 3)))
    assert FeatureStore(pooling, dataset).folder != FeatureStore(plain, dataset).folder
    before, after = pooling.extract(dataset), pooling.extract(dataset)
    assert all(torch.equal(before[name], after[name]) for name in pooling.layers)


def test_pooled_is_the_mean_over_positions():
    maps = {"a": torch.rand(2, 3, 4, 4), "b": torch.rand(2, 5, 2, 2)}
    expected = torch.cat([F.adaptive_avg_pool2d(m, 1).flatten(1) for m in maps.values()], dim=1)
    torch.testing.assert_close(pooled(maps), expected)


def test_an_untrained_network_has_the_teachers_shape_and_random_weights(images):
    teacher = FeatureExtractor(DEFAULT_BACKBONE, (16, 4))
    torch.manual_seed(0)
    student = untrained(DEFAULT_BACKBONE, (16, 4))
    assert [m.shape for m in student(images)] == [m.shape for m in teacher(images).values()]
    ours, theirs = dict(student.named_parameters()), dict(teacher.trunk.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(p.requires_grad for p in ours.values())
    assert not torch.equal(ours["model.conv_stem.weight"], theirs["model.conv_stem.weight"])


# --- the rest of a network, to fine-tune


def test_extractor_and_tail_together_are_the_whole_network(images):
    whole = FeatureExtractor(layers=(8, 16, 32))(images)
    tail = Tail(DEFAULT_BACKBONE, 8, (32, 16))
    stem, *expected = whole.values()
    assert tail.channels == (112, 320)
    for found, maps in zip(tail(stem), expected, strict=True):
        torch.testing.assert_close(found, maps)


def test_a_tail_of_a_resnet_begins_behind_its_layer(monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    monkeypatch.setattr(features, "available", lambda backbone: False)
    (maps,) = Tail("resnet18", "layer2", ("layer4",))(torch.rand(1, 128, 8, 8))
    assert maps.shape == (1, 512, 2, 2)


def test_training_a_tail_leaves_the_packaged_weights_alone(images):
    before = {name: value.clone() for name, value in packaged_state().items()}
    tail = Tail(DEFAULT_BACKBONE, 8, (16,)).train()
    assert all(p.requires_grad for p in tail.parameters())
    tail(torch.rand(2, 40, 8, 8))[0].square().mean().backward()
    torch.optim.SGD(tail.parameters(), lr=0.1).step()
    assert all(torch.equal(before[name], value) for name, value in packaged_state().items())


@pytest.mark.parametrize(("at", "layers"), [(16, (8,)), (16, (16,)), (5, (16,)), (8, (5,)), (8, ())])
def test_a_tail_needs_layers_behind_its_cut(at, layers):
    with pytest.raises(DataError, match=r"can't be cut|has no layer"):
        Tail(DEFAULT_BACKBONE, at, layers)


def test_a_transformer_has_no_tail():
    with pytest.raises(DataError, match="can't be cut"):
        Tail("vit_tiny_patch16_224", "blocks.1", ("blocks.3",))
