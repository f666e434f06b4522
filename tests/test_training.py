import copy
import math

import pytest
import torch
from torch import nn

from adlearn import training
from adlearn.errors import DataError
from adlearn.training import TrainingError, image_batches, tensor_batches, train

INPUTS = torch.randn(40, 4, generator=torch.Generator().manual_seed(1))
TARGETS = INPUTS @ torch.tensor([[1.0], [-2.0], [0.5], [0.0]]) + 0.3


class Killed(Exception):
    """Stands for a process that ends."""


class Setup:
    """Dropout, noise in the loss, momentum and a schedule: all that a restart may lose."""

    def __init__(self, seed=0, lr=0.05):
        torch.manual_seed(7)
        self.module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.1), nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=lr)
        self.scheduler = torch.optim.lr_scheduler.StepLR(self.optimizer, 2, gamma=0.5)
        self.seed, self.steps, self.dies_at = seed, 0, None

    def loss(self, batch):
        self.steps += 1
        if self.steps == self.dies_at:
            raise Killed
        inputs, targets = batch
        return (self.module(inputs + 0.1 * torch.randn_like(inputs)) - targets).square().mean()

    def train(self, epochs=4, **options):
        batches = tensor_batches(INPUTS, TARGETS, batch_size=10)
        options |= {"optimizer": self.optimizer, "scheduler": self.scheduler, "seed": self.seed}
        return train(self.module, self.loss, batches, epochs=epochs, **options)


def equal_states(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.fixture
def linear():
    module = nn.Linear(1, 1)
    with torch.no_grad():
        module.weight.fill_(2.0)
        module.bias.fill_(0.0)
    return module


def test_a_linear_regression_is_solved():
    module = nn.Linear(4, 1)
    history = train(
        module,
        lambda batch: (module(batch[0]) - batch[1]).square().mean(),
        tensor_batches(INPUTS, TARGETS, batch_size=10),
        epochs=40,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
    )
    assert len(history) == 40 and history[-1] < 1e-4 * history[0]
    torch.testing.assert_close(module.weight[0], torch.tensor([1.0, -2.0, 0.5, 0.0]), rtol=0, atol=0.02)


def test_history_is_the_mean_loss_of_each_epoch(linear):
    data = torch.tensor([[1.0], [2.0], [3.0]])
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.0)
    history = train(
        linear,
        lambda batch: linear(batch[0]).mean(),
        tensor_batches(data, batch_size=1),
        epochs=2,
        optimizer=optimizer,
    )
    assert history == pytest.approx([4.0, 4.0])


def test_one_seed_gives_one_result_and_another_seed_another():
    first, second, other = Setup(), Setup(), Setup(seed=1)
    assert first.train() == second.train() != other.train()
    assert equal_states(first.module, second.module)


@pytest.mark.parametrize("dies_at", [3, 5, 9, 16])
def test_a_run_killed_at_any_step_ends_as_if_it_had_not_been(dies_at, tmp_path):
    whole = Setup()
    expected = whole.train()
    killed = Setup()
    killed.dies_at = dies_at
    with pytest.raises(Killed):
        killed.train(checkpoint=tmp_path / "c.pt")
    torch.rand(dies_at)
    again = Setup()
    assert again.train(checkpoint=tmp_path / "c.pt") == expected
    assert equal_states(again.module, whole.module)
    assert again.steps == 16 - (dies_at - 1) // 4 * 4


def test_a_finished_run_is_not_repeated(tmp_path):
    first = Setup()
    expected = first.train(checkpoint=tmp_path / "c.pt")
    again = Setup()
    assert again.train(checkpoint=tmp_path / "c.pt") == expected
    assert again.steps == 0 and equal_states(again.module, first.module)


def test_a_checkpoint_of_another_network_is_refused(tmp_path, linear):
    Setup().train(epochs=1, checkpoint=tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"(?s)c\.pt.*delete it"):
        train(
            linear,
            lambda batch: linear(batch[0]).mean(),
            tensor_batches(torch.ones(4, 1), batch_size=2),
            epochs=1,
            optimizer=torch.optim.SGD(linear.parameters(), lr=0.1),
            checkpoint=tmp_path / "c.pt",
        )


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_checkpoint_is_refused_with_its_name(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)c\.pt.*delete it"):
        Setup().train(checkpoint=tmp_path / "c.pt")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_no_number_names_epoch_and_batch(value):
    setup = Setup()
    good = setup.loss

    def loss(batch):
        return good(batch) * (value if setup.steps == 6 else 1)

    setup.loss = loss
    with pytest.raises(TrainingError, match=r"epoch 2, batch 2"):
        setup.train()
    assert all(torch.isfinite(p).all() for p in setup.module.parameters()), "the weights are lost, too"


def test_a_dry_run_takes_two_batches_and_leaves_no_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    setup = Setup()
    assert len(setup.train(epochs=100, checkpoint=tmp_path / "c.pt")) == 1
    assert setup.steps == 2 and not list(tmp_path.iterdir())


def test_no_batches_is_an_error(linear):
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.1)
    with pytest.raises(DataError, match="no batch"):
        train(linear, lambda batch: linear(batch).sum(), lambda generator: [], epochs=1, optimizer=optimizer)


def test_the_scheduler_steps_once_an_epoch():
    setup = Setup(lr=0.08)
    setup.train(epochs=4)
    assert setup.optimizer.param_groups[0]["lr"] == pytest.approx(0.02)


@pytest.mark.parametrize(("clip", "moved"), [(None, 300.0), (0.5, 0.5)])
def test_clip_limits_the_gradients_norm(clip, moved, linear):
    linear.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(linear.parameters(), lr=1.0)
    batches = tensor_batches(torch.full((1, 1), 300.0), batch_size=1)
    train(linear, lambda batch: linear(batch[0]).sum(), batches, epochs=1, optimizer=optimizer, clip=clip)
    assert 2.0 - linear.weight.item() == pytest.approx(moved, rel=1e-4)


def test_global_random_numbers_go_on_as_if_nothing_had_been_trained():
    setup = Setup()
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    setup.train()
    assert torch.equal(torch.rand(4), expected)


def test_they_go_on_after_an_error_too():
    setup = Setup()
    setup.dies_at = 2
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    with pytest.raises(Killed):
        setup.train()
    assert torch.equal(torch.rand(4), expected)


def test_the_module_trains_in_training_mode_and_ends_in_evaluation_mode():
    setup, modes = Setup(), []
    good = setup.loss
    setup.loss = lambda batch: (modes.append(setup.module.training), good(batch))[1]
    setup.module.eval()
    setup.train(epochs=1)
    assert set(modes) == {True} and not setup.module.training


def test_tensor_batches_give_every_row_once_in_a_new_order():
    batches = tensor_batches(torch.arange(10), 10 * torch.arange(10), batch_size=4)
    first, second = ([list(batches(torch.Generator().manual_seed(seed)))] for seed in (0, 1))
    for (parts,) in (first, second):
        assert [len(a) for a, _ in parts] == [4, 4, 2]
        assert all(torch.equal(10 * a, b) for a, b in parts)
        assert sorted(torch.cat([a for a, _ in parts]).tolist()) == list(range(10))
    assert not torch.equal(first[0][0][0], second[0][0][0])


def test_tensors_of_different_lengths_are_refused():
    with pytest.raises(DataError, match=r"\[3, 4\]"):
        tensor_batches(torch.ones(3), torch.ones(4), batch_size=2)


def test_image_batches_give_every_image_once_in_a_new_order(tiny):
    batches = image_batches(tiny.train, batch_size=3)
    orders = [
        torch.cat([b.indices for b in batches(torch.Generator().manual_seed(s))]).tolist() for s in (0, 1)
    ]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(len(tiny.train)))
    assert orders[0] != orders[1]


def test_training_on_images_is_repeatable(tiny):
    def result():
        torch.manual_seed(0)
        module = nn.Conv2d(3, 1, 3)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        batches = image_batches(tiny.train, batch_size=3)
        return train(
            module, lambda b: module(b.images).square().mean(), batches, epochs=2, optimizer=optimizer
        )

    assert result() == result()


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices_whose_random_state_is_kept(device):
    device = torch.device(device)
    expected = [] if device.type == "cpu" else [device.index or 0]
    assert training._rng_devices(device) == expected
    assert hasattr(getattr(torch, training._rng_type(device)), "get_rng_state")


def test_descend_is_adam_along_a_cosine_with_clipped_gradients(linear):
    """Against the same three steps written out, on one batch an epoch."""
    x, y = torch.randn(8, 1), 50 * torch.randn(8, 1)
    own, theirs = linear, copy.deepcopy(linear)
    history = training.descend(
        own,
        lambda batch: (own(batch[0]) - batch[1]).square().mean(),
        lambda generator: [(x, y)],
        epochs=3,
        learning_rate=0.1,
        weight_decay=0.01,
    )
    optimizer = torch.optim.Adam(theirs.parameters(), weight_decay=0.01)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / 3))
        optimizer.zero_grad()
        loss = (theirs(x) - y).square().mean()
        torch.testing.assert_close(history[epoch], loss.detach())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
    torch.testing.assert_close(own.weight, theirs.weight)


def test_descend_leaves_frozen_parameters_alone(linear):
    module = nn.Sequential(linear, nn.Linear(1, 1))
    module[0].requires_grad_(False)
    before = linear.weight.clone()
    batches = training.tensor_batches(torch.randn(4, 1), batch_size=2)
    training.descend(
        module, lambda b: module(b[0]).square().mean(), batches, epochs=1, learning_rate=0.1, clip=None
    )
    assert torch.equal(linear.weight, before)
