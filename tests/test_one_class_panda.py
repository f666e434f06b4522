"""PANDA: loss, Fisher information, springs, neighbours and copies against the formulas written out."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import (
    PANDA,
    SteadyTail,
    centre_loss,
    elastic_penalty,
    fisher_diagonal,
    neighbour_ratios,
    neighbour_squares,
    tail_name,
    usual_distance,
)

SMALL = {"epochs": 2, "batch_size": 4}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_centre_loss_is_the_mean_squared_distance_per_dimension():
    points, centre = rows(5, 7), rows(7, seed=1)
    expected = np.mean([sum((p[d] - centre[d]).item() ** 2 for d in range(7)) / 7 for p in points])
    assert centre_loss(points, centre).item() == pytest.approx(expected)


def tiny_classifier() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers).double()


def test_fisher_diagonal_is_the_mean_squared_score_of_drawn_labels():
    classifier, images = tiny_classifier(), rows(6, 3, 8, 8)
    found = fisher_diagonal(classifier, images, seed=3)
    generator = torch.Generator().manual_seed(3)
    expected = {name: torch.zeros_like(p) for name, p in classifier.named_parameters()}
    for image in images:
        logits = classifier(image[None])[0]
        probability = logits.exp() / logits.exp().sum()
        label = torch.multinomial(probability.detach()[None], 1, generator=generator).item()
        classifier.zero_grad()
        probability[label].log().backward()
        for name, p in classifier.named_parameters():
            expected[name] += p.grad**2 / 6
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name])


def test_fisher_diagonal_asks_only_for_what_is_trained_and_works_without_gradients():
    classifier = tiny_classifier()
    classifier[0].requires_grad_(False)
    with torch.no_grad():
        found = fisher_diagonal(classifier, rows(2, 3, 8, 8))
    assert set(found) == {"4.weight", "4.bias"}
    assert all((values >= 0).all() and values.sum() > 0 for values in found.values())


def test_elastic_penalty_is_zero_at_the_start_and_pulls_back():
    network = nn.Linear(3, 2).double()
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    fisher = {name: torch.rand_like(p) for name, p in start.items()}
    penalty = elastic_penalty(network, start, fisher)
    penalty.backward()
    assert penalty == 0 and all((p.grad == 0).all() for p in network.parameters())
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn_like(p))
    network.zero_grad()
    penalty = elastic_penalty(network, start, fisher)
    penalty.backward()
    expected = 0.0
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, fisher[name] * (p.detach() - start[name]))
        moves = zip(fisher[name].flatten(), (p.detach() - start[name]).flatten(), strict=True)
        expected += sum(f.item() * d.item() ** 2 / 2 for f, d in moves)
    assert penalty.item() == pytest.approx(expected)


def test_every_weight_of_the_tail_has_its_spring(tiny: Benchmark):
    detector = PANDA(stiffness=1e4, num_scenery=2, **SMALL).fit(tiny.train)
    weights = dict(detector.network.named_parameters())
    assert {n: p.shape for n, p in weights.items()} == {n: f.shape for n, f in detector.fisher.items()}
    assert all(f.sum() > 0 for f in detector.fisher.values())
    assert len({tail_name(name) for name in weights}) == len(weights)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_neighbour_squares_are_scikit_learns(k: int):
    queries, memory = rows(6, 4), rows(9, 4, seed=1)
    distances, _ = NearestNeighbors(n_neighbors=k).fit(memory.numpy()).kneighbors(queries.numpy())
    torch.testing.assert_close(
        neighbour_squares(queries, memory, k), torch.from_numpy((distances**2).mean(axis=1))
    )


def test_usual_distance_leaves_the_row_itself_out():
    memory = rows(9, 4)
    others = [neighbour_squares(memory[i : i + 1], memory[torch.arange(9) != i], 2) for i in range(9)]
    torch.testing.assert_close(usual_distance(memory, 2), torch.stack(others).mean(), rtol=1e-6, atol=0)
    assert usual_distance(memory[:1], 2) > 0 and usual_distance(memory[:1].repeat(4, 1), 2) > 0


def test_neighbour_ratios_have_a_scale_for_each_network():
    queries, memory, usual = rows(3, 2, 4), rows(3, 5, 4, seed=1), torch.tensor([1.0, 2.0, 4.0]).double()
    found = neighbour_ratios(queries, memory, usual, 2)
    for t in range(3):
        torch.testing.assert_close(found[t], neighbour_squares(queries[t], memory[t], 2) / usual[t])


def test_the_tail_stays_in_evaluation_mode():
    tail = SteadyTail("tf_efficientnet_lite0", 8, (32,)).train()
    assert not any(module.training for module in tail.modules())
    assert all(p.requires_grad for p in tail.parameters())


@pytest.mark.parametrize("stiffness", [0.0, 1e4])
def test_only_weights_behind_the_stem_change(tiny: Benchmark, stiffness: float):
    detector = PANDA(stiffness=stiffness, num_scenery=2, **SMALL)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    after = detector.fit(tiny.train).state_dict()
    fitted = {name for name, value in before.items() if value.numel()}
    changed = {name for name in fitted if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("extractor") or "running" in name for name in changed)
    assert {f"network.{name}" for name, _ in detector.network.named_parameters()} <= changed


def test_the_centre_is_the_mean_before_training_and_never_moves(tiny: Benchmark):
    untrained = PANDA(**SMALL)
    (maps,) = untrained.extractor.extract(tiny.train).values()
    expected = untrained.embeddings(maps)[0].mean(dim=0)
    for epochs in (2, 4):
        detector = PANDA(epochs=epochs, batch_size=4, learning_rate=1e-3).fit(tiny.train)
        torch.testing.assert_close(detector.centre, expected)
        assert not torch.allclose(detector.memory[0].mean(dim=0), expected, rtol=1e-2, atol=1e-3)


def test_stopping_early_is_training_for_fewer_epochs(tiny: Benchmark):
    long = PANDA(epochs=4, checkpoints=2, batch_size=4).fit(tiny.train)
    short = PANDA(epochs=2, batch_size=4).fit(tiny.train)
    assert long.history.shape == (4,) and short.history.shape == (2,)
    torch.testing.assert_close(long.history[:2], short.history)
    torch.testing.assert_close(long.memory[0], short.memory[0])
    assert not torch.allclose(long.memory[1], short.memory[0])


def test_the_score_is_the_largest_ratio_of_all_copies(tiny: Benchmark):
    detector, images = PANDA(epochs=2, checkpoints=2, batch_size=4).fit(tiny.train), tiny.test.images()
    (maps,) = detector.extractor(images).values()
    ratios = torch.stack(
        [
            neighbour_squares(detector.embed(maps, network), memory, 2) / usual_distance(memory, 2)
            for network, memory in zip([*detector.earlier, detector.network], detector.memory, strict=True)
        ]
    )
    torch.testing.assert_close(detector.predict(images).score, ratios.detach().max(dim=0).values)


def test_springs_keep_the_weights_closer_to_their_start(tiny: Benchmark):
    def way(detector: PANDA) -> float:
        first = dict(PANDA().network.named_parameters())
        return sum((p - first[n]).square().sum().item() for n, p in detector.network.named_parameters())

    free, held = (
        PANDA(stiffness=s, num_scenery=2, epochs=4, batch_size=4, learning_rate=1e-3).fit(tiny.train)
        for s in (0.0, 1e6)
    )
    assert way(held) < way(free)


@pytest.mark.parametrize("checkpoints", [0, 3, 5])
def test_copies_must_divide_the_epochs(checkpoints: int):
    with pytest.raises(DataError, match="divisor"):
        PANDA(epochs=4, checkpoints=checkpoints)


def test_no_neighbours_are_refused():
    with pytest.raises(DataError, match="num_neighbors"):
        PANDA(num_neighbors=0)
