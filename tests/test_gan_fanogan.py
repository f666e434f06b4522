"""f-AnoGAN: the Wasserstein game with its penalty, and the encoder's training."""

import math

import pytest
import torch
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.gan import AnoGAN, FAnoGAN, gradient_penalty, squared_mean

SIZES = {"size": 32, "code": 8, "width": 4, "epochs": 3, "batch_size": 4}
SMALL = SIZES | {"critic_steps": 2, "encoder_epochs": 4}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def fitted(tiny: Benchmark) -> FAnoGAN:
    return FAnoGAN(**SMALL).fit(tiny.train)


def test_penalty_of_a_quadratic_is_known():
    # D(x) = |x|^2 / 2 has the gradient x; between x and itself there is only x.
    points = torch.randn(5, 3, 2, 2, dtype=torch.float64)
    found = gradient_penalty(lambda x: x.square().flatten(1).sum(dim=1) / 2, points, points.clone())
    expected = sum((math.sqrt(p.square().sum()) - 1) ** 2 for p in points) / 5
    assert found.item() == pytest.approx(expected)


def test_penalty_is_taken_between_the_images():
    seen = []
    real, drawn = torch.zeros(50, 1, 2, 2), torch.ones(50, 1, 2, 2)
    gradient_penalty(lambda x: seen.append(x.detach()) or x.sum(), real, drawn)
    shares = seen[0].flatten(1)
    assert (shares == shares[:, :1]).all() and 0 <= shares.min() < 0.1 and 0.9 < shares.max() <= 1
    assert len(shares[:, 0].unique()) > 40


def test_penalty_trains_the_critic_and_nobody_else():
    critic = nn.Linear(4, 1, bias=False).double()
    drawn = torch.rand(6, 4, dtype=torch.float64, requires_grad=True)
    gradient_penalty(critic, torch.rand(6, 4, dtype=torch.float64), drawn).backward()
    weight = critic.weight.detach()
    expected = 2 * (weight.norm() - 1) * weight / weight.norm()
    torch.testing.assert_close(critic.weight.grad, expected)
    assert drawn.grad is None


def test_penalty_leads_the_slope_to_1():
    critic = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        gradient_penalty(critic, torch.rand(6, 4), torch.rand(6, 4)).backward()
        optimizer.step()
    assert critic.weight.norm().item() == pytest.approx(1.0, abs=1e-3)


def test_wasserstein_losses_are_the_papers():
    detector = FAnoGAN(**SMALL)
    detector.network.eval()
    images = torch.rand(3, 3, 32, 32)
    torch.manual_seed(1)
    found = detector.critic_loss(images)
    torch.manual_seed(1)
    critic, drawn = detector.network["D"], detector.network["G"](detector.codes(3))
    share = torch.rand(3, 1, 1, 1)
    expected = 0.0
    for image, fake, part in zip(images, drawn.detach(), share, strict=True):
        point = (part * image + (1 - part) * fake)[None].requires_grad_(True)
        critic.zero_grad()
        critic(point).sum().backward()
        penalty = (math.sqrt(point.grad.double().square().sum()) - 1) ** 2
        expected += (critic(fake[None]) - critic(image[None])).item() + 10 * penalty
    assert found.item() == pytest.approx(expected / 3, rel=1e-4)
    torch.manual_seed(1)
    assert detector.critics_opinion(images).item() == pytest.approx(-critic(drawn).mean().item(), rel=1e-5)


def test_the_critic_judges_each_image_alone():
    critic, images = FAnoGAN(**SMALL).network["D"].train(), torch.rand(4, 3, 32, 32)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone, rtol=1e-3, atol=1e-6)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in critic.modules())


def test_the_critic_has_its_turns_before_the_generator(tiny: Benchmark):
    calls = []

    class Watched(FAnoGAN):
        def critic_loss(self, images):
            calls.append("D")
            return super().critic_loss(images)

        def critics_opinion(self, images):
            calls.append("G")
            return super().critics_opinion(images)

    watched = Watched(**SMALL | {"critic_steps": 3, "epochs": 1, "encoder_epochs": 1}).fit(tiny.train)
    assert calls == ["D", "D", "D", "G"] * 2
    assert watched.history.shape == (1, 2)


def test_izi_f_is_the_papers(fitted: FAnoGAN, tiny: Benchmark):
    images = fitted.reduced(tiny.test.images()[:3])
    network = fitted.network
    expected = []
    with torch.no_grad():
        for image in images:
            drawn = network["G"](network["E"](image[None]))
            features = [network["D"][:-1](x).double().flatten() for x in (image[None], drawn)]
            residual = (image.double() - drawn[0].double()).flatten()
            term = residual.square().sum() / len(residual)
            term += fitted.kappa * (features[0] - features[1]).square().sum() / len(features[0])
            expected.append(term.item())
    assert fitted.predict(tiny.test.images()[:3]).score.tolist() == pytest.approx(expected, rel=1e-4)
    assert fitted.encoder_loss(images).item() == pytest.approx(sum(expected) / 3, rel=1e-4)


def test_squared_mean_is_a_loop():
    a, b = torch.rand(2, 3, 5, dtype=torch.float64)
    expected = [
        sum((x - y) ** 2 for x, y in zip(p, q, strict=True)) / 5
        for p, q in zip(a.tolist(), b.tolist(), strict=True)
    ]
    assert squared_mean(a, b).tolist() == pytest.approx(expected)


def test_the_second_training_changes_the_encoder_alone(tiny: Benchmark):
    game = FAnoGAN(**SMALL | {"encoder_epochs": 1})
    game.fit(tiny.train)
    before = {name: value.clone() for name, value in game.state_dict().items()}
    game.train_encoder(tiny.train.images())
    changed = {n for n, v in game.state_dict().items() if not torch.equal(v, before[n])}
    assert any(name.startswith("network.E") for name in changed)
    assert not any(name.startswith(("network.D", "network.G")) for name in changed)
    assert not any(module.training for name in "DGE" for module in game.network[name].modules())
    assert not any(p.requires_grad for name in "DG" for p in game.network[name].parameters())


def test_the_encoder_learns(tiny: Benchmark):
    longer = FAnoGAN(**SMALL | {"encoder_epochs": 20}).fit(tiny.train)
    assert longer.encoder_history.shape == (20,)
    assert longer.encoder_history[-1] < longer.encoder_history[0]


def test_in_the_plain_game_it_has_anogans_networks(tiny: Benchmark):
    plain = FAnoGAN(**SIZES, game="dcgan", critic_steps=1, encoder_epochs=1).fit(tiny.train)
    other = AnoGAN(**SIZES).fit(tiny.train)
    for name in "DG":
        pairs = zip(
            plain.network[name].state_dict().values(), other.network[name].state_dict().values(), strict=True
        )
        assert all(torch.equal(a, b) for a, b in pairs)
    assert torch.equal(plain.history, other.history)


@pytest.mark.parametrize("wrong", [{"game": "lsgan"}, {"critic_steps": 0}])
def test_unknown_games_are_refused(wrong: dict):
    with pytest.raises(DataError, match="wgan-gp"):
        FAnoGAN(**wrong)
