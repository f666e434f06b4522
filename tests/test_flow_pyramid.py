"""PyramidFlow: inverses, volumes against autograd's Jacobian, loss and map against the paper's words."""

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve
from torch import nn

from adlearn.errors import DataError
from adlearn.methods.normalizing_flow import (
    InvertibleConv,
    PyramidCoupling,
    PyramidFlow,
    PyramidStack,
    VolumeNorm,
    blur,
    compose,
    fourier_loss,
    laplacian_pyramid,
    level_sizes,
    template_contrast,
)

SIZES = [(6, 5), (3, 3), (2, 2)]
NORMS = ["channel", "spatial", None]


def awaken(module: nn.Module, scale: float = 0.3) -> nn.Module:
    """Random weights everywhere: a flow that starts as a rotation can't fail."""
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale)
    for child in module.modules():
        if isinstance(child, VolumeNorm):
            nn.init.normal_(child.running_mean, std=scale)
    return module


def pyramid_of(sizes=SIZES, channels=3, batch=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(batch, channels, *size, dtype=dtype, generator=generator) for size in sizes]


def flat(pyramid):
    return torch.cat([level.flatten(1) for level in pyramid], dim=1)


def unflat(rows, like):
    parts = rows.split([level[0].numel() for level in like], dim=1)
    return [part.view(level.shape) for part, level in zip(parts, like, strict=True)]


def log_volume(module, pyramid):
    """log |det| of the whole batch's Jacobian, by autograd."""
    rows = flat(pyramid)
    jacobian = torch.autograd.functional.jacobian(lambda x: flat(module(unflat(x, pyramid))[0]), rows)
    return torch.linalg.slogdet(jacobian.reshape(rows.numel(), rows.numel()))[1]


def test_blur_is_scipys():
    x = torch.rand(1, 2, 11, 8, dtype=torch.float64)
    taps = np.array([1, 4, 6, 4, 1]) / 16
    expected = [convolve(channel.numpy(), np.outer(taps, taps), mode="constant") for channel in x[0]]
    torch.testing.assert_close(blur(x)[0], torch.from_numpy(np.stack(expected)))


@pytest.mark.parametrize("size", [(64, 64), (33, 50), (7, 5), (1, 9)])
@pytest.mark.parametrize("levels", [1, 2, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_composing_undoes_the_pyramid(size, levels, dtype, tolerance):
    x = torch.randn(2, 3, *size, dtype=dtype)
    pyramid = laplacian_pyramid(x, levels)
    if min(size) >= 2 ** (levels - 1) > 1:
        assert [tuple(level.shape[-2:]) for level in pyramid] == level_sizes(size, levels)
    torch.testing.assert_close(compose(pyramid), x, rtol=0, atol=tolerance)


def test_a_flat_image_has_no_detail_away_from_the_border():
    finest = laplacian_pyramid(torch.ones(1, 1, 32, 32, dtype=torch.float64), 2)[0]
    assert finest[..., 4:-4, 4:-4].abs().max() < 1e-12


def test_composing_is_linear_and_treats_channels_alike():
    pyramid = pyramid_of()
    mean_first = compose([level.mean(dim=1, keepdim=True) for level in pyramid])
    torch.testing.assert_close(compose(pyramid).mean(dim=1, keepdim=True), mean_first)


@pytest.mark.parametrize(("shape", "axes"), [((1, 1, 5, 4), (0, 1)), ((1, 3, 1, 1), (0, 2, 3))])
def test_volume_norm_centres_the_batch_and_remembers(shape, axes):
    norm, x = VolumeNorm(shape).double(), torch.randn(4, 3, 5, 4, dtype=torch.float64) + 2
    assert norm(x).mean(dim=axes).abs().max() < 1e-12
    mean = x.mean(dim=axes, keepdim=True)
    torch.testing.assert_close(norm.running_mean, 0.1 * mean)
    norm.eval()
    torch.testing.assert_close(norm(x), x - 0.1 * mean)
    torch.testing.assert_close(norm(x[:1]), norm(x)[:1])


@pytest.mark.parametrize("channels", [1, 3, 8])
def test_the_convolution_starts_as_a_rotation(channels):
    torch.manual_seed(0)
    weight = InvertibleConv(channels).weight()
    torch.testing.assert_close(weight @ weight.T, torch.eye(channels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("volume_norm", [True, False])
def test_the_convolutions_volume(volume_norm):
    conv = awaken(InvertibleConv(5, volume_norm)).double()
    volume = torch.linalg.slogdet(conv.weight())[1]
    torch.testing.assert_close(conv.logs().sum(), volume)
    assert (volume.abs() < 1e-12) == volume_norm
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64)
    torch.testing.assert_close(conv.inverse(conv(x)), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("volume_norm", NORMS)
def test_a_couplings_volume_is_autograds(level, volume_norm):
    coupling = awaken(PyramidCoupling(3, level, SIZES, volume_norm=volume_norm)).double()
    pyramid = pyramid_of()
    for mode in (True, False):
        coupling.train(mode)
        log_det = coupling(pyramid)[1]
        assert log_det.shape == (2,) and log_det.abs().min() > 1e-3, "one image alone keeps its own volume"
        torch.testing.assert_close(log_det.sum(), log_volume(coupling, pyramid), rtol=0, atol=1e-9)
        if mode:
            assert (log_det.sum().abs() < 1e-9) == (volume_norm is not None)


@pytest.mark.parametrize("volume_norm", NORMS)
def test_the_whole_flows_volume(volume_norm):
    flow = awaken(PyramidStack(3, SIZES, stacks=2, volume_norm=volume_norm)).double()
    pyramid = pyramid_of()
    for mode in (True, False):
        flow.train(mode)
        total = flow(pyramid)[1].sum()
        torch.testing.assert_close(total, log_volume(flow, pyramid), rtol=0, atol=1e-8)
        if mode:
            assert (total.abs() < 1e-8) == (volume_norm is not None)


@pytest.mark.parametrize("volume_norm", NORMS)
@pytest.mark.parametrize("sizes", [SIZES, [(8, 8), (4, 4)], [(21, 13), (11, 7), (6, 4), (3, 2), (2, 1)]])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_the_whole_flow_is_inverted(volume_norm, sizes, dtype, tolerance):
    flow = awaken(PyramidStack(4, sizes, stacks=2, volume_norm=volume_norm), 0.1).to(dtype).eval()
    pyramid = pyramid_of(sizes, channels=4, dtype=dtype)
    latents = flow(pyramid)[0]
    assert (latents[0] - pyramid[0]).abs().max() > 0.1
    torch.testing.assert_close(flat(flow.inverse(latents)), flat(pyramid), rtol=0, atol=tolerance)


def test_an_image_comes_back_from_its_latents():
    detector = PyramidFlow(size=21, channels=5, levels=3).double().eval()
    awaken(detector.flow, 0.1)
    images = torch.rand(2, 3, 21, 21, dtype=torch.float64)
    back = compose(detector.flow.inverse(detector.latents(images)))
    colours = torch.einsum("bkhw,ck->bchw", back, torch.linalg.pinv(detector.colours))
    torch.testing.assert_close(colours * 0.25 + 0.5, images, rtol=0, atol=1e-9)


def test_every_level_is_changed_once_a_stack_given_levels_of_the_other_kind():
    flow = PyramidStack(3, level_sizes((16, 16), 5), stacks=2)
    assert [c.level for c in flow.layers] == [1, 3, 0, 2, 4] * 2
    assert all((near - c.level) % 2 for c in flow.layers for near in c.neighbours)


def test_the_loss_is_the_papers():
    pyramid = pyramid_of()
    squared = compose([(level[0] - level[1])[None] ** 2 for level in pyramid])[0].mean(dim=0).numpy()
    expected = np.abs(np.fft.fft2(squared)).mean()
    assert fourier_loss(pyramid).item() == pytest.approx(expected, rel=1e-5)


def test_an_image_alone_costs_nothing_and_gives_finite_gradients():
    flow = PyramidStack(3, SIZES, stacks=1)
    loss = fourier_loss(flow(pyramid_of(batch=1, dtype=torch.float32))[0])
    loss.backward()
    assert loss == 0 and all(torch.isfinite(p.grad).all() for p in flow.parameters() if p.grad is not None)


def test_the_loss_survives_bfloat16():
    detector, batch = PyramidFlow(size=16, levels=2, stacks=1), (torch.rand(2, 3, 16, 16),)
    exact = detector.loss(batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(detector.loss(batch), exact)


def test_the_map_is_the_papers():
    latents, template = pyramid_of(), pyramid_of(batch=1)
    naive = compose([(a - b).abs() for a, b in zip(latents, template, strict=True)]).mean(dim=1)
    torch.testing.assert_close(template_contrast(latents, template), naive)


def test_the_template_is_the_mean_latent(tiny):
    detector = PyramidFlow(size=32, channels=3, levels=3, stacks=1, epochs=1).fit(tiny.train)
    one_by_one = [detector.latents(image[None]) for image in tiny.train.images()]
    for level, template in enumerate(detector.template):
        expected = torch.stack([latents[level] for latents in one_by_one]).mean(dim=0)
        torch.testing.assert_close(template, expected, rtol=1e-4, atol=1e-5)
    image = tiny.train.take(1).images()
    found = detector.predict(image)
    assert found.score == found.map.max() and not detector.flow.training


def test_maps_have_the_size_of_any_image(tiny):
    detector = PyramidFlow(size=32, channels=3, levels=3, stacks=1, epochs=1).fit(tiny.train)
    for size in [(64, 64), (37, 81), (9, 9)]:
        assert detector.predict(torch.rand(2, 3, *size)).map.shape == (2, *size)


@pytest.mark.parametrize("volume_norm", NORMS)
def test_training_lowers_the_loss(tiny, volume_norm):
    options = {"size": 32, "channels": 3, "levels": 3, "stacks": 1, "volume_norm": volume_norm}
    detector = PyramidFlow(**options, epochs=4).fit(tiny.train)
    assert detector.history.shape == (4,) and detector.history[-1] < detector.history[0]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"volume_norm": "batch"}, "volume_norm"),
        ({"levels": 1}, "levels"),
        ({"channels": 2}, "channels"),
        ({"size": 4, "levels": 5}, "size"),
        ({"kernel_size": 4}, "kernel_size"),
    ],
)
def test_impossible_arguments_are_refused(arguments, word):
    with pytest.raises(DataError, match=word):
        PyramidFlow(**arguments)
