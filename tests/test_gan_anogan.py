"""AnoGAN: the game's losses, networks, the search, and what the base of adversarial networks promises."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.gan import (
    AnoGAN,
    absolute_sum,
    dcgan_discriminator,
    dcgan_generator,
    dcgan_widths,
    descend_codes,
    diversity,
    fake_loss,
    real_loss,
)

SMALL = {"size": 32, "code": 8, "width": 4, "steps": 10, "epochs": 3, "batch_size": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def fitted(tiny: Benchmark) -> AnoGAN:
    return AnoGAN(**SMALL | {"epochs": 25, "learning_rate": 2e-3}).fit(tiny.train)


def test_game_losses_are_goodfellows():
    logits = torch.randn(3, 1, 2, dtype=torch.float64) * 4
    chances = [1 / (1 + math.exp(-v)) for v in logits.flatten().tolist()]
    assert real_loss(logits).item() == pytest.approx(-sum(math.log(p) for p in chances) / 6)
    assert fake_loss(logits).item() == pytest.approx(-sum(math.log(1 - p) for p in chances) / 6)


def test_game_losses_stay_finite_with_gradients_where_one_side_has_won():
    logits = torch.tensor([-200.0, 200.0], requires_grad=True)
    (real_loss(logits) + fake_loss(logits)).backward()
    assert torch.isfinite(logits.grad).all()
    # The generator's loss does not saturate: a drawn image taken for drawn still has a slope.
    drawn = torch.tensor([-20.0], requires_grad=True)
    real_loss(drawn).backward()
    assert drawn.grad.item() == pytest.approx(-1.0, abs=1e-6)


def test_at_equilibrium_the_losses_are_logarithms_of_2():
    assert (real_loss(torch.zeros(4)) + fake_loss(torch.zeros(4))).item() == pytest.approx(2 * math.log(2))


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_network_shapes(size: int):
    generator, judge = dcgan_generator(6, 2, size).eval(), dcgan_discriminator(2, size).eval()
    images = generator(torch.rand(3, 6, 1, 1))
    assert images.shape == (3, 3, size, size) and images.min() >= 0 and images.max() <= 1
    assert judge(images).shape == (3, 1, 1, 1) and judge[:-1](images).shape == (
        3,
        dcgan_widths(2, size)[-1],
        4,
        4,
    )
    assert dcgan_discriminator(2, size, outputs=5).eval()(images).shape == (3, 5, 1, 1)


def test_widths_double_down_to_4_px():
    assert dcgan_widths(16, 64) == [16, 32, 64, 128]


@pytest.mark.parametrize("size", [0, 8, 48, 100])
def test_sizes_that_are_no_power_of_two_are_refused(size: int):
    with pytest.raises(DataError, match="power of two"):
        AnoGAN(size=size)


def test_first_weights_are_the_dcgans():
    weights = torch.cat(
        [m.weight.flatten() for m in dcgan_generator(32, 16).modules() if hasattr(m, "stride")]
    )
    assert weights.mean().abs() < 1e-3 and weights.std().item() == pytest.approx(0.02, rel=0.02)


def test_absolute_sum_is_a_loop():
    a, b = torch.rand(2, 2, 3, 4, dtype=torch.float64)[:, None].expand(2, 2, 2, 3, 4)
    expected = [sum(abs(a[i][p].item() - b[i][p].item()) for p in np.ndindex(2, 3, 4)) for i in range(2)]
    torch.testing.assert_close(absolute_sum(a, b), torch.tensor(expected, dtype=torch.float64))


def test_diversity_is_a_loop():
    images = torch.rand(4, 3, 2, 2, dtype=torch.float64)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    expected = sum(math.sqrt((images[i] - images[j]).square().mean()) for i, j in pairs) / len(pairs)
    assert diversity(images).item() == pytest.approx(expected)
    assert diversity(images[:1]) == 0 and diversity(images[:1].expand(40, -1, -1, -1)) == 0


def adam(gradient, value: float, steps: int, rate: float) -> float:
    """Adam as Kingma and Ba write it."""
    m = v = 0.0
    for t in range(1, steps + 1):
        g = gradient(value)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        value -= rate * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return value


def test_descent_is_adam_on_each_code_alone():
    bottoms = torch.tensor([[1.0, -3.0], [0.2, 1e3]], dtype=torch.float64)
    codes, curve = descend_codes(
        lambda z: (z - bottoms).square().sum(dim=1), torch.zeros(2, 2, dtype=torch.float64), 7, 0.1
    )
    for position in np.ndindex(2, 2):
        bottom = bottoms[position].item()
        expected = adam(lambda value, b=bottom: 2 * (value - b), 0.0, 7, 0.1)
        assert codes[position].item() == pytest.approx(expected, rel=1e-6)
    assert curve.shape == (8, 2)
    torch.testing.assert_close(curve[0], bottoms.square().sum(dim=1))
    torch.testing.assert_close(curve[-1], (codes - bottoms).square().sum(dim=1))


def test_descent_works_without_gradients_around_and_without_steps():
    start = torch.ones(2, 3)
    with torch.no_grad():
        codes, curve = descend_codes(lambda z: z.square().sum(dim=1), start, 3, 0.1)
        untouched, _ = descend_codes(lambda z: z.square().sum(dim=1), start, 0, 0.1)
    assert (codes < 1).all() and not codes.requires_grad and (curve.diff(dim=0) < 0).all()
    assert torch.equal(untouched, start) and torch.equal(start, torch.ones(2, 3))


def grads(module: nn.Module) -> list[bool]:
    return [p.grad is not None and bool(p.grad.abs().sum() > 0) for p in module.parameters()]


def test_each_loss_reaches_every_weight_of_its_network():
    detector = AnoGAN(**SMALL)
    detector.network.train()
    images = torch.rand(4, 3, 32, 32)
    for name, loss in detector.losses().items():
        detector.network.zero_grad()
        loss(images).backward()
        assert all(grads(detector.network[name]))


def test_a_generators_step_leaves_the_discriminator_and_the_other_way_round(tiny: Benchmark):
    weights = {}

    class Watched(AnoGAN):
        def noted(self, name):
            state = {k: [p.detach().clone() for p in self.network[k].parameters()] for k in "DG"}
            weights.setdefault("seen", []).append((name, state))

        def discriminator_loss(self, images):
            self.noted("D")
            return super().discriminator_loss(images)

        def generator_loss(self, images):
            self.noted("G")
            return super().generator_loss(images)

    Watched(**SMALL).fit(tiny.train)
    seen = weights["seen"]
    assert [name for name, _ in seen] == ["D", "G"] * (len(seen) // 2)
    for (mover, old), (_, new) in pairwise(seen):
        for name in "DG":
            same = all(torch.equal(a, b) for a, b in zip(old[name], new[name], strict=True))
            assert same == (name != mover)


def test_history_has_a_column_for_each_network_and_spread_an_entry_more(fitted: AnoGAN):
    assert fitted.history.shape == (25, 2) and fitted.spread.shape == (26,)
    assert torch.isfinite(fitted.history).all() and fitted.spread[-1] > fitted.spread[0]


def test_two_fits_are_one(tiny: Benchmark):
    first, again = AnoGAN(**SMALL).fit(tiny.train), AnoGAN(**SMALL).fit(tiny.train)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
    )
    other = AnoGAN(**SMALL | {"seed": 1}).fit(tiny.train)
    assert not torch.equal(first.start, other.start)


def eq5(detector: AnoGAN, images: torch.Tensor, codes: torch.Tensor) -> list[float]:
    """AnoGAN's loss as the paper writes it, image by image."""
    generator, judge = detector.network["G"], detector.network["D"]
    found = []
    with torch.no_grad():
        for image, code in zip(images, codes, strict=True):
            drawn = generator(code[None])[0]
            features = [judge[:-1](x[None])[0].double() for x in (image, drawn)]
            residual = (image.double() - drawn.double()).abs().sum()
            matching = (features[0] - features[1]).abs().sum()
            found.append(((1 - detector.balance) * residual + detector.balance * matching).item())
    return found


def test_the_search_goes_down_eq_5(fitted: AnoGAN, tiny: Benchmark):
    images = fitted.reduced(tiny.test.images())
    codes, curve = fitted.search(images)
    assert curve[0].tolist() == pytest.approx(
        eq5(fitted, images, fitted.start.expand(len(images), -1, -1, -1)), rel=1e-4
    )
    assert curve[-1].tolist() == pytest.approx(eq5(fitted, images, codes), rel=1e-4)
    assert (curve[-1] < curve[0]).all()
    torch.testing.assert_close(fitted.predict(tiny.test.images()).score, curve[-1])


def test_the_search_leaves_networks_and_their_gradients_alone(fitted: AnoGAN, tiny: Benchmark):
    before = {name: value.clone() for name, value in fitted.state_dict().items()}
    fitted.network.zero_grad(set_to_none=True)
    fitted.predict(tiny.test.images())
    assert all(torch.equal(before[name], value) for name, value in fitted.state_dict().items())
    assert all(p.grad is None for p in fitted.network.parameters())


def test_an_image_is_searched_alike_in_any_company(fitted: AnoGAN, tiny: Benchmark):
    images = fitted.reduced(tiny.test.images())
    together, _ = fitted.search(images)
    alone = torch.cat([fitted.search(image[None])[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_own_drawings_are_found_better_than_foreign_images(fitted: AnoGAN):
    with torch.no_grad():
        own = fitted.network["G"](fitted.codes(6))
    foreign = torch.rand(6, 3, 32, 32)
    assert fitted.search(own)[1][-1].max() < fitted.search(foreign)[1][-1].min()


def test_map_is_the_residual(tiny: Benchmark, fitted: AnoGAN):
    detector = AnoGAN(**SMALL | {"sigma": 1e-3})
    detector.load_state_dict(fitted.state_dict())
    images = F.interpolate(tiny.test.images(), (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        drawn = detector.eval().network["G"](detector.search(images)[0])
    torch.testing.assert_close(
        detector.predict(images).map, (images - drawn).abs().mean(dim=1), rtol=1e-4, atol=1e-5
    )
