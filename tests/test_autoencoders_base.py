"""Restorers: reducing, map, encoder and decoder; first weights, scaling and the plain autoencoder."""

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.autoencoders import (
    ConvolutionalAutoencoder,
    Restorer,
    convolutional_decoder,
    convolutional_encoder,
    he_weights,
    taps,
)

SMALL = {"size": 32, "width": 4, "code": 5, "epochs": 2, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Darker(Restorer):
    """Draws every image at half its brightness."""

    def __init__(self, size: int = 32, sigma: float = 2.0):
        super().__init__(size, sigma, epochs=1, batch_size=4, learning_rate=1e-3)
        self.history = torch.zeros(1)

    def build(self) -> nn.Module:
        return nn.Linear(1, 1)

    def restore(self, images: torch.Tensor) -> torch.Tensor:
        return images / 2


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))]


def test_images_of_the_right_size_are_not_touched():
    images = torch.rand(2, 3, 32, 32)
    assert Darker().reduced(images) is images


def test_others_are_reduced_without_aliasing():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    torch.testing.assert_close(Darker().reduced(stripes)[..., 2:-2], torch.full((1, 3, 32, 28), 0.5))


def test_map_is_the_smoothed_squared_difference():
    images = torch.rand(2, 3, 32, 32)
    expected = gaussian_filter((images / 2).square().mean(dim=1).numpy(), 2.0, axes=(1, 2))
    found = Darker().predict(images)
    np.testing.assert_allclose(found.map, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.score, found.map.amax(dim=(1, 2)))


def test_maps_come_back_at_the_images_size():
    assert Darker().predict(torch.rand(2, 3, 48, 40)).map.shape == (2, 48, 40)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_encoder_ends_in_one_column_and_decoder_in_an_image(size: int):
    code = convolutional_encoder(size, 7, width=4)(torch.rand(2, 3, size, size))
    assert code.shape == (2, 7, 1, 1)
    assert convolutional_decoder(size, 7, width=4)(code).shape == (2, 3, size, size)


def test_encoder_is_the_papers_table():
    layers = convolutions(convolutional_encoder(128, 100))
    assert [layer.out_channels for layer in layers] == [32, 32, 32, 64, 64, 128, 64, 32, 100]
    assert [layer.kernel_size[0] for layer in layers] == [4, 4, 3, 4, 3, 4, 3, 3, 8]
    assert [layer.stride[0] for layer in layers] == [2, 2, 1, 2, 1, 2, 1, 1, 1]


def test_decoder_mirrors_the_encoders_kernels_and_grids():
    encoder, decoder = convolutional_encoder(64, 9, width=4), convolutional_decoder(64, 9, width=4)
    down, up = convolutions(encoder), convolutions(decoder)
    assert [(d.kernel_size, d.stride) for d in down[::-1]] == [(u.kernel_size, u.stride) for u in up]
    sides: dict[str, list[int]] = {"down": [], "up": []}
    for name, layers in (("down", encoder), ("up", decoder)):
        values = torch.rand(1, 3, 64, 64) if name == "down" else torch.rand(1, 9, 1, 1)
        for layer in layers:
            sides[name] += [values.shape[-1]] if layer in convolutions(layers) else []
            values = layer(values)
        sides[name].append(values.shape[-1])
    assert sides["down"] == sides["up"][::-1]


@pytest.mark.parametrize("size", [8, 20, 100])
def test_sizes_that_cannot_be_halved_four_times_are_refused(size: int):
    with pytest.raises(DataError, match="multiple of 16"):
        convolutional_encoder(size, 4)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 4, 2, 1),
        nn.ConvTranspose2d(6, 2, 4, 2, 1),
        nn.ConvTranspose2d(5, 3, 8),
        nn.Conv2d(2, 7, 3),
    ],
)
def test_taps_are_what_the_gradient_reaches(layer: nn.Module):
    side = 1 if isinstance(layer, nn.ConvTranspose2d) and not layer.padding[0] else 12
    image = torch.rand(1, layer.in_channels, side, side, requires_grad=True)
    found = layer(image)
    found[0, 0, found.shape[2] // 2, found.shape[3] // 2].backward()
    assert (image.grad != 0).sum().item() == taps(layer)


def deep(transposed: bool) -> nn.Sequential:
    """Three layers with leaky ReLUs and one without; transposed ones double the grid."""
    layers: list[nn.Module] = []
    for _ in range(3):
        up, same = nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        layers += [up if transposed else same, nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(32, 32, 1))


@pytest.mark.parametrize("transposed", [False, True])
def test_he_weights_keep_the_signal(transposed: bool):
    network, images = deep(transposed), torch.randn(4, 32, 8 if transposed else 24, 8 if transposed else 24)
    with torch.no_grad():
        lost = network(images)[..., 6:-6, 6:-6].square().mean()
        kept = he_weights(network)(images)[..., 6:-6, 6:-6].square().mean()
    assert lost < 0.1 and 0.3 < kept < 3
    assert all((layer.bias == 0).all() for layer in convolutions(network))


def test_network_sees_scaled_images_and_draws_at_their_scale(tiny: Benchmark):
    detector, images = ConvolutionalAutoencoder(**SMALL).fit(tiny.train), tiny.train.images()
    reduced = detector.reduced(images)
    torch.testing.assert_close(detector.centre, images.mean(dim=(0, 2, 3), keepdim=True))
    torch.testing.assert_close(detector.spread, images.std(dim=(0, 2, 3), keepdim=True))
    detector.network = nn.Identity()
    torch.testing.assert_close(detector.restore(reduced), reduced)
    detector.network = nn.ReLU()
    torch.testing.assert_close(detector.restore(reduced), torch.maximum(reduced, detector.centre))


def test_loss_is_the_sum_over_pixels_and_reaches_every_weight(tiny: Benchmark):
    detector, images = ConvolutionalAutoencoder(**SMALL).fit(tiny.train), tiny.train.images()[:3]
    reduced = detector.reduced(images)
    with torch.no_grad():
        drawn = detector.restore(reduced).double().numpy()
    expected = sum(((x - y) ** 2).sum() / 3 for x, y in zip(reduced.double().numpy(), drawn, strict=True)) / 3
    loss = detector.loss(images)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in detector.network.parameters())


def test_the_drawing_depends_on_the_image(tiny: Benchmark):
    """It does not with a loss averaged over pixels, when weight decay shrinks every weight."""
    detector = ConvolutionalAutoencoder(**SMALL | {"epochs": 40}).fit(tiny.train)
    with torch.no_grad():
        drawn = detector.restore(detector.reduced(tiny.train.images()))
    assert drawn.std(dim=0).mean() > 0.2 * detector.reduced(tiny.train.images()).std(dim=0).mean()
    assert detector.history[-1] < 0.9 * detector.history[0]
