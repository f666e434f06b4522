"""The bases of detectors that train one network."""

import pytest
import torch
from torch import nn

from adlearn.detector import Detector, Prediction
from adlearn.trained import FeatureNetwork, ImageNetwork


class Painter(ImageNetwork):
    """One convolution that learns the training images' mean, doubled by `factor`."""

    def __init__(self, factor: float = 2.0, **config):
        super().__init__(factor=factor, **{"epochs": 3, "batch_size": 4, "learning_rate": 0.1} | config)
        self.register_buffer("mean", torch.empty(0))

    def build(self):
        return nn.Conv2d(3, 1, 1)

    def prepare(self, images):
        assert not torch.is_grad_enabled() and not self.network.training
        self.mean = self.factor * images.mean()

    def loss(self, images):
        return (self.network(images) - self.mean).square().mean()

    @torch.no_grad()
    def predict(self, images):
        self.check(images)
        maps = (self.network(images)[:, 0] - self.mean).abs()
        return Prediction(maps.amax(dim=(1, 2)), maps)


class OnFeatures(FeatureNetwork):
    """One linear map of features of stride 8 to 0."""

    def __init__(self, layers=(8, 16)):
        super().__init__(
            backbone="tf_efficientnet_lite0", layers=layers, epochs=2, batch_size=4, learning_rate=1e-2
        )

    def build(self):
        return nn.Conv2d(self.extractor.channels[0], 1, 1)

    def loss(self, fine, coarse):
        assert fine.shape[-1] == 2 * coarse.shape[-1]
        return self.network(fine).square().mean()

    def score_features(self, features, size):
        return Prediction(self.network(next(iter(features.values()))).abs().amax(dim=(1, 2, 3)))


def test_arguments_become_attributes_and_are_saved(tiny, tmp_path):
    painter = Painter(factor=3.0, epochs=2).fit(tiny.train)
    assert (painter.factor, painter.epochs, painter.batch_size) == (3.0, 2, 4)
    painter.save(tmp_path / "painter.pt")
    loaded = Detector.load(tmp_path / "painter.pt")
    images = tiny.test.images()
    assert loaded.factor == 3.0 and torch.equal(loaded.predict(images).score, painter.predict(images).score)


def test_fit_starts_anew_from_the_weights_of_the_seed(tiny):
    painter = Painter()
    first = {name: value.clone() for name, value in painter.fit(tiny.train).state_dict().items()}
    again = painter.fit(tiny.train).state_dict()
    assert all(torch.equal(first[name], value) for name, value in again.items())
    other = Painter(seed=1).fit(tiny.train).state_dict()
    assert not torch.equal(first["network.weight"], other["network.weight"])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    Painter()
    assert torch.equal(torch.rand(3), expected)


def test_what_prepare_finds_is_there_before_the_first_step_and_the_loss_falls(tiny):
    painter = Painter(epochs=8).fit(tiny.train)
    torch.testing.assert_close(painter.mean, 2 * tiny.train.images().mean())
    assert painter.history.shape == (8,)
    assert painter.history[-1] < 0.1 * painter.history[0]


def test_each_epoch_is_announced_in_evaluation_mode_and_so_is_the_end(tiny):
    class Told(Painter):
        def begin_epoch(self, number, images):
            assert (
                not self.network.training and not torch.is_grad_enabled() and len(images) == len(tiny.train)
            )
            self.told = [*getattr(self, "told", []), number]

        def loss(self, images):
            assert self.network.training
            return super().loss(images)

    told = Told(epochs=3).fit(tiny.train)
    assert told.told == [0, 1, 2, 3]
    plain = Painter(epochs=3).fit(tiny.train)
    assert torch.equal(told.network.weight, plain.network.weight), "it must not disturb the order of batches"


@pytest.mark.parametrize("count", [1, 2])
def test_an_image_network_trains_on_the_threads_its_class_names(count, tiny, monkeypatch):
    class Narrow(Painter):
        num_threads = count

    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    Narrow().fit(tiny.train)
    assert asked[0] == count


def test_a_feature_network_sees_every_layer_and_no_image(tiny, monkeypatch):
    detector = OnFeatures()
    detector.extractor.extract(tiny.train)
    monkeypatch.setattr(detector.extractor, "forward", None)
    assert detector.fit(tiny.train).history[-1] < detector.history[0]


def test_a_feature_network_scores_images_as_it_scores_their_features(tiny):
    detector = OnFeatures().fit(tiny.train)
    alone = detector.predict(tiny.test.images()).score
    torch.testing.assert_close(alone, detector.predict_dataset(tiny.test).score, rtol=1e-4, atol=1e-5)
