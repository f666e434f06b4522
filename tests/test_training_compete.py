"""Adversarial training: whose turn it is, whose weights move, what comes back."""

import math

import pytest
import torch
from torch import nn

from adlearn.errors import DataError
from adlearn.training import Player, TrainingError, compete, tensor_batches

DATA = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


def player(module: nn.Module, loss, rate: float = 0.1, clip: float | None = None) -> Player:
    return Player(module, loss, torch.optim.SGD(module.parameters(), lr=rate), clip)


class Game:
    """Two linear maps; each loss needs both, and notes who was frozen."""

    def __init__(self):
        torch.manual_seed(7)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 1)
        self.calls: list[str] = []
        self.trainable: list[tuple[bool, bool]] = []
        self.before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def noted(self, name: str) -> None:
        self.calls.append(name)
        self.trainable.append((self.first.weight.requires_grad, self.second.weight.requires_grad))
        self.before.append((self.first.weight.detach().clone(), self.second.weight.detach().clone()))

    def first_loss(self, batch) -> torch.Tensor:
        self.noted("first")
        return self.second(self.first(batch[0] + 0.1 * torch.randn_like(batch[0]))).square().mean()

    def second_loss(self, batch) -> torch.Tensor:
        self.noted("second")
        return (self.second(self.first(batch[0])) - 1).square().mean()

    def players(self, **options) -> list[Player]:
        return [
            player(self.first, self.first_loss, **options),
            player(self.second, self.second_loss, **options),
        ]

    def run(self, epochs: int = 2, seed: int = 0, **options) -> torch.Tensor:
        return compete(self.players(**options), tensor_batches(DATA, batch_size=5), epochs=epochs, seed=seed)


def test_players_take_turns_in_order_on_every_batch():
    game = Game()
    history = game.run(epochs=3)
    assert game.calls == ["first", "second"] * (3 * 4)
    assert history.shape == (3, 2) and torch.isfinite(history).all()


def test_the_same_player_may_have_several_turns_on_a_batch():
    game = Game()
    first, second = game.players()
    history = compete([first, first, second], tensor_batches(DATA, batch_size=10), epochs=1)
    assert game.calls == ["first", "first", "second"] * 2 and history.shape == (1, 3)
    assert not torch.equal(game.before[0][0], game.before[1][0])


def test_a_step_moves_only_the_players_own_weights():
    game = Game()
    game.run()
    for number, name in enumerate(game.calls[:-1]):
        moved = [
            not torch.equal(a, b) for a, b in zip(game.before[number], game.before[number + 1], strict=True)
        ]
        assert moved == [name == "first", name == "second"]


def test_a_frozen_opponent_gets_no_gradient():
    game = Game()
    stages = []
    original = game.second_loss

    def watched(batch):
        # The first player has just made its step: the second must not have got a gradient from it.
        stages.append(game.second.weight.grad)
        game.second.weight.grad = None
        return original(batch)

    game.second_loss = watched
    first, second = game.players()
    second.optimizer.zero_grad()
    compete([first, second], tensor_batches(DATA, batch_size=20), epochs=1)
    assert stages == [None]
    assert set(game.trainable) == {(True, False), (False, True)}


def test_everything_can_be_trained_again_afterwards():
    game = Game()
    game.run()
    assert all(p.requires_grad for module in (game.first, game.second) for p in module.parameters())
    assert not game.first.training and not game.second.training


def test_losses_are_means_over_batches():
    seen = {"first": [], "second": []}
    modules = {name: nn.Linear(1, 1, bias=False) for name in seen}

    def loss(name: str):
        def of_batch(batch):
            value = modules[name].weight.square().sum() + batch[0].mean()
            seen[name].append(value.item())
            return value

        return of_batch

    players = [player(modules[name], loss(name)) for name in seen]
    history = compete(players, tensor_batches(DATA, batch_size=5), epochs=1)
    expected = torch.tensor([[sum(values) / 4 for values in seen.values()]])
    torch.testing.assert_close(history, expected)


def test_one_seed_one_game():
    games = [Game(), Game(), Game()]
    histories = [game.run(seed=seed) for game, seed in zip(games, (0, 0, 1), strict=True)]
    assert torch.equal(histories[0], histories[1]) and torch.equal(
        games[0].first.weight, games[1].first.weight
    )
    assert not torch.equal(games[0].first.weight, games[2].first.weight)


def test_the_global_generator_is_given_back():
    torch.manual_seed(0)
    expected = torch.rand(3)
    game = Game()
    torch.manual_seed(0)
    game.run()
    assert torch.equal(torch.rand(3), expected)


def test_a_step_is_the_papers_gradient_step():
    game = Game()
    weight = game.first.weight.detach().clone()
    torch.manual_seed(0 * 100_003 + 0)
    game.first_loss = lambda batch: (game.first(batch[0])).square().sum()
    first = player(game.first, game.first_loss, rate=0.01)
    compete([first, game.players()[1]], lambda generator: [(DATA,)], epochs=1)
    outputs = DATA.double() @ weight.double().T + game.second.bias.new_zeros(1).double()
    bias = Game().first.bias.detach().double()
    expected = weight.double() - 0.01 * 2 * (outputs + bias).T @ DATA.double()
    torch.testing.assert_close(game.first.weight.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_clipping_is_each_players_own():
    game = Game()
    before = [game.first.weight.detach().clone(), game.second.weight.detach().clone()]
    first = player(game.first, lambda batch: 1e3 * game.first_loss(batch), rate=1.0, clip=1e-3)
    second = player(game.second, lambda batch: 1e3 * game.second_loss(batch), rate=1e-3)
    compete([first, second], lambda generator: [(DATA,)], epochs=1)
    assert (game.first.weight - before[0]).norm() <= 1e-3 * 1.001
    assert (game.second.weight - before[1]).norm() > 1e-2


@pytest.mark.parametrize("bad", ["first", "second"])
def test_nan_is_named_with_epoch_and_batch(bad: str):
    game, calls = Game(), []

    def loss(batch):
        calls.append(1)
        value = (game.first if bad == "first" else game.second).weight.square().sum()
        return value * math.nan if len(calls) == 4 + 3 else value

    players = game.players()
    index = ["first", "second"].index(bad)
    players[index] = player(players[index].module, loss)
    with pytest.raises(TrainingError, match="epoch 2, batch 3"):
        compete(players, tensor_batches(DATA, batch_size=5), epochs=3)
    assert all(torch.isfinite(p).all() for p in players[index].module.parameters())


def test_a_dry_run_stops_after_two_batches(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    game = Game()
    assert game.run(epochs=5).shape == (1, 2)
    assert game.calls == ["first", "second"] * 2


def test_no_batch_is_refused():
    with pytest.raises(DataError, match="no batch"):
        compete(Game().players(), lambda generator: [], epochs=1)
