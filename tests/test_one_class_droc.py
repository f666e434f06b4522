"""DROC: the one-class SVM in tensors is scikit-learn's, pretext tasks do what their labels say."""

import pytest
import torch
from sklearn.neighbors import KernelDensity
from sklearn.svm import OneClassSVM

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.one_class import DROC, cut_pasted, kernel_width, one_class_svm, outside, turned

SMALL = {"epochs": 2, "batch_size": 4}


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_one_class_svm_scores_like_scikit_learns():
    points, queries = rows(30, 5), rows(12, 5, seed=1)
    gamma = kernel_width(points) / 10
    support, weights, offset = one_class_svm(points, gamma.item())
    theirs = OneClassSVM(kernel="rbf", gamma=gamma.item()).fit(points.numpy())
    found = outside(queries, support, weights, gamma)
    torch.testing.assert_close(offset + found, -torch.from_numpy(theirs.decision_function(queries.numpy())))
    torch.testing.assert_close(found, -torch.from_numpy(theirs.score_samples(queries.numpy())))


def test_gamma_is_the_official_codes():
    points = rows(30, 5)
    assert kernel_width(points).item() == pytest.approx(10 / (5 * points.numpy().var()))
    assert torch.isfinite(kernel_width(points[:1] * 0))


def test_equal_weights_are_a_kernel_density():
    points, queries = rows(30, 3), rows(12, 3, seed=1)
    found = outside(queries, points, torch.full((30,), 1 / 30).double(), torch.tensor(0.7).double())
    density = KernelDensity(bandwidth=(2 * 0.7) ** -0.5).fit(points.numpy()).score_samples(queries.numpy())
    torch.testing.assert_close(
        (-found).log() - torch.from_numpy(density), torch.full((12,), (-found).log()[0] - density[0]).double()
    )


def test_turned_images_turned_back_are_the_images():
    images = torch.rand(16, 3, 8, 8)
    found, quarters = turned(images)
    assert set(quarters.tolist()) == {0, 1, 2, 3}
    for image, turn, quarter in zip(images, found, quarters.tolist(), strict=True):
        assert torch.equal(turn.rot90(-quarter, (1, 2)), image)
    with pytest.raises(DataError, match="square"):
        turned(torch.rand(2, 3, 8, 6))


def test_cut_paste_changes_what_it_says():
    images = torch.rand(64, 3, 32, 32)
    before = images.clone()
    found, labels = cut_pasted(images)
    assert torch.equal(images, before)
    changed = (found != images).any(dim=1).float().mean(dim=(1, 2))
    assert (changed[labels == 0] == 0).all() and 16 < labels.sum() < 48
    assert (changed[labels == 1] > 0).float().mean() > 0.9 and changed.max() <= 0.16


@pytest.mark.parametrize("second", ["svm", "kde"])
def test_the_second_stage_describes_unit_vectors_of_the_images(tiny: Benchmark, second: str):
    detector, images = DROC(second=second, **SMALL).fit(tiny.train), tiny.test.images()
    torch.testing.assert_close(detector.support.norm(dim=1), torch.ones(len(detector.support)))
    with torch.no_grad():
        good, tested = (
            detector.network.direction(*detector.extractor(x).values()) for x in (tiny.train.images(), images)
        )
    gamma = kernel_width(good).item()
    if second == "svm":
        expected = -OneClassSVM(kernel="rbf", gamma=gamma).fit(good.numpy()).score_samples(tested.numpy())
    else:
        expected = -torch.exp(-gamma * torch.cdist(tested, good).square()).mean(dim=1).numpy()
    torch.testing.assert_close(
        detector.predict(images).score, torch.as_tensor(expected).float(), rtol=1e-2, atol=1e-3
    )


def test_the_head_is_for_the_pretext_task_only(tiny: Benchmark):
    detector, images = DROC(**SMALL).fit(tiny.train), tiny.test.images()
    before = detector.predict(images).score
    with torch.no_grad():
        detector.network.head[0].weight.zero_()
    assert torch.equal(detector.predict(images).score, before)


def test_gradients_reach_tail_and_head_only(tiny: Benchmark):
    detector = DROC()
    detector.loss(tiny.train.images()[:4]).backward()
    assert all(p.grad is not None for p in detector.network.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


@pytest.mark.parametrize("arguments", [{"pretext": "jigsaw"}, {"second": "gmm"}])
def test_unknown_stages_are_refused(arguments: dict[str, str]):
    with pytest.raises(DataError, match="rotation or cutpaste"):
        DROC(**arguments)
