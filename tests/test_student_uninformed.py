"""Uninformed Students: losses in loops and float64, dense against patch by patch, what is trained."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.data.scenery import scenery
from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.student_teacher import (
    KERNELS,
    PatchDescriptor,
    StudentEnsemble,
    TeacherTraining,
    UninformedStudents,
    bordered,
    compactness_loss,
    distillation_loss,
    distilled_teacher,
    patch_targets,
    predictive_variance,
    random_windows,
    regression_error,
    scenery_patches,
    student_loss,
    train_students,
    triplet_loss,
)

SMALL = {"patch_sizes": (17,), "width": 4, "dimensions": 6}


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def network(patch_size: int, seed: int = 0) -> PatchDescriptor:
    torch.manual_seed(seed)
    net = PatchDescriptor(patch_size, 4, 6)
    for convolution in net.convolutions:
        nn.init.normal_(convolution.bias)
    return net.requires_grad_(False).double()


def ensemble(patch_size: int = 17, students: int = 3) -> StudentEnsemble:
    torch.manual_seed(0)
    return StudentEnsemble(patch_size, students, 4, 6)


def rows(values: torch.Tensor) -> list[list[float]]:
    return values.tolist()


def squared_distance(a: list[float], b: list[float]) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("patch_size", KERNELS)
def test_one_patch_gives_one_descriptor(patch_size: int):
    found = network(patch_size)(draws(2, 3, patch_size, patch_size))
    assert found.shape == (2, 6, 1, 1)


@pytest.mark.parametrize("patch_size", KERNELS)
def test_dense_is_patch_by_patch(patch_size: int):
    net, image = network(patch_size), draws(1, 3, patch_size + 11, patch_size + 13, seed=1)
    dense = net(image, stride=1)
    assert dense.shape[-2:] == (12, 14)
    for row, column in ((0, 0), (3, 5), (11, 13), (8, 1)):
        patch = image[:, :, row : row + patch_size, column : column + patch_size]
        torch.testing.assert_close(net(patch)[0, :, 0, 0], dense[0, :, row, column])


@pytest.mark.parametrize("patch_size", KERNELS)
def test_strides_are_rows_and_columns_of_the_dense_map(patch_size: int):
    net, image = network(patch_size), draws(1, 3, patch_size + 16, patch_size + 16, seed=2)
    dense, stride = net(image, stride=1), 1
    while stride <= net.stride:
        torch.testing.assert_close(net(image, stride), dense[:, :, ::stride, ::stride])
        stride *= 2
    torch.testing.assert_close(net(image), net(image, net.stride))


@pytest.mark.parametrize("patch_size", KERNELS)
def test_no_pixel_beyond_the_patch_matters(patch_size: int):
    net = network(patch_size)
    image = draws(1, 3, patch_size + 20, patch_size + 20, seed=3).requires_grad_()
    net(image, stride=1)[0, :, 10, 10].sum().backward()
    seen = image.grad[0].abs().sum(dim=0)
    outside = seen.clone()
    outside[10 : 10 + patch_size, 10 : 10 + patch_size] = 0
    assert outside.max() == 0 and seen.max() > 0


@pytest.mark.parametrize("patch_size", KERNELS)
def test_borders_centre_each_patch_on_its_cell(patch_size: int):
    """Patches begin half a patch before their cell's middle."""
    stride = network(patch_size).stride
    images = torch.arange(64 * 64, dtype=torch.float64).view(1, 1, 64, 64).expand(-1, 3, -1, -1)
    padded = bordered(images, patch_size, stride)
    assert padded.shape[-2:] == (64 + patch_size - stride,) * 2
    first = (patch_size - stride) // 2
    torch.testing.assert_close(padded[..., first : first + 64, first : first + 64], images)
    # Patch 0 begins at -first; its middle and that of its cell differ by half a pixel at most.
    assert abs((patch_size - 1) / 2 - first - (stride - 1) / 2) <= 0.5
    assert network(patch_size)(padded).shape[-2:] == (64 // stride,) * 2


def test_unknown_patch_size_is_refused():
    with pytest.raises(DataError, match="patch_size"):
        PatchDescriptor(16)


def test_distillation_loss_in_loops():
    decoded, target = draws(5, 7), draws(5, 7, seed=1)
    expected = sum(squared_distance(a, b) for a, b in zip(rows(decoded), rows(target), strict=True)) / 5
    assert distillation_loss(decoded, target).item() == pytest.approx(expected)


@pytest.mark.parametrize("margin", [0.5, 1.0, 10.0])
def test_triplet_loss_in_loops(margin: float):
    anchor, positive, negative = draws(9, 4), draws(9, 4, seed=1), draws(9, 4, seed=2)
    expected = 0.0
    for a, p, n in zip(rows(anchor), rows(positive), rows(negative), strict=True):
        hard = min(squared_distance(a, n), squared_distance(p, n))
        expected += max(0.0, margin + squared_distance(a, p) - hard) / 9
    assert triplet_loss(anchor, positive, negative, margin).item() == pytest.approx(expected)


def test_triplet_loss_takes_the_harder_negative():
    anchor, positive, negative = torch.zeros(1, 2), torch.tensor([[3.0, 0.0]]), torch.tensor([[4.0, 0.0]])
    assert triplet_loss(anchor, positive, negative).item() == pytest.approx(1 + 9 - 1)


def test_compactness_is_numpys_correlation():
    descriptors = draws(20, 5) @ draws(5, 5, seed=1) + 3
    correlation = np.corrcoef(descriptors.numpy(), rowvar=False)
    expected = sum(correlation[i, j] ** 2 for i in range(5) for j in range(5) if i != j)
    assert compactness_loss(descriptors).item() == pytest.approx(expected)


def test_compactness_of_copies_and_of_constants():
    copied = draws(30, 1).expand(-1, 4) * torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    assert compactness_loss(copied).item() == pytest.approx(12)
    assert compactness_loss(torch.ones(8, 3)).item() == 0


def test_student_loss_in_loops():
    prediction, target = draws(2, 3, 4, 5), draws(2, 3, 4, 5, seed=1)
    expected = 0.0
    for image, row, column in np.ndindex(2, 4, 5):
        difference = prediction[image, :, row, column] - target[image, :, row, column]
        expected += sum(value**2 for value in difference.tolist()) / (2 * 4 * 5)
    assert student_loss(prediction, target).item() == pytest.approx(expected)


def test_error_and_variance_are_the_papers_formulas():
    predictions, target = draws(3, 2, 4, 5, 6), draws(2, 4, 5, 6, seed=1)
    said, wanted = predictions.numpy(), target.numpy()
    for image, row, column in np.ndindex(2, 5, 6):
        answers = said[:, image, :, row, column]
        mean = answers.mean(axis=0)
        e = ((mean - wanted[image, :, row, column]) ** 2).sum()
        v = (answers**2).sum(axis=1).mean() - (mean**2).sum()
        assert regression_error(predictions, target)[image, row, column].item() == pytest.approx(e)
        assert predictive_variance(predictions)[image, row, column].item() == pytest.approx(v)


def test_one_student_has_no_variance():
    assert predictive_variance(draws(1, 2, 4, 3, 3)).abs().max() == 0


def test_teacher_moments_are_numpys():
    group, images = ensemble(), torch.rand(9, 3, 32, 32)
    group.measure_teacher(images)
    found = group.teacher(bordered(images, 17, 2)).transpose(0, 1).flatten(1).double().numpy()
    np.testing.assert_allclose(group.mean.numpy(), found.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(group.std.numpy(), found.std(axis=1), rtol=1e-3)


def test_constants_standardise_good_images():
    group, images = ensemble(), torch.rand(9, 3, 32, 32)
    group.measure_teacher(images)
    group.measure_errors(images)
    found = group.standardised(images)
    torch.testing.assert_close(found.mean(dim=(1, 2, 3)), torch.zeros(2), rtol=0, atol=1e-3)
    torch.testing.assert_close(found.std(dim=(1, 2, 3)), torch.ones(2), rtol=0, atol=1e-3)
    assert found.shape == (2, 9, 16, 16)


def test_map_is_the_sum_of_standardised_scores_averaged_over_sizes():
    torch.manual_seed(0)
    detector = UninformedStudents((17, 33), width=4, dimensions=6)
    detector.teach([e.teacher for e in detector.ensembles])
    detector.history = torch.zeros(1)
    images = torch.rand(2, 3, 64, 64)
    for group in detector.ensembles:
        group.measure_teacher(images)
        group.measure_errors(images)
    expected = 0
    for group in detector.ensembles:
        (e, v), ((me, se), (mv, sv)) = group.error_and_variance(images), group.constants
        grid = ((e - me) / se + (v - mv) / sv)[:, None]
        expected = expected + nn.functional.interpolate(grid, size=(64, 64), mode="bilinear")[:, 0] / 2
    found = detector.predict(images)
    torch.testing.assert_close(found.map, expected)
    torch.testing.assert_close(found.score, expected.amax(dim=(1, 2)))


def test_gradients_reach_the_students_only():
    group = ensemble()
    group.loss(torch.rand(2, 3, 48, 48), 16).backward()
    assert all(weights.grad is None for weights in group.teacher.parameters())
    assert all(weights.grad.abs().sum() > 0 for weights in group.students.parameters())


def test_training_leaves_the_teacher_and_lowers_the_loss():
    group, images = ensemble(), torch.rand(6, 3, 48, 48)
    before = {name: weights.clone() for name, weights in group.teacher.state_dict().items()}
    history = train_students(group, images, window=16, epochs=12)
    for name, weights in group.teacher.state_dict().items():
        assert torch.equal(weights, before[name])
    assert history.shape == (12,) and history[-1] < history[0]


def test_a_student_trains_as_if_alone():
    """The others of the ensemble change nothing: no shared clipping, no shared normalisation."""
    together, alone, images = ensemble(), ensemble(), torch.rand(6, 3, 48, 48)
    alone.students = alone.students[1:2]
    train_students(together, images, window=16, epochs=2)
    train_students(alone, images, window=16, epochs=2)
    for a, b in zip(together.students[1].parameters(), alone.students[0].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_students_start_apart():
    first, second, _ = ensemble().students
    assert not torch.equal(first.convolutions[0].weight, second.convolutions[0].weight)


def test_a_student_with_the_teachers_weights_makes_no_error():
    group = ensemble(students=1)
    group.students[0].load_state_dict(group.teacher.state_dict())
    assert group.error_and_variance(torch.rand(2, 3, 32, 32)).abs().max() < 1e-8


def test_windows_are_parts_of_their_image():
    images = torch.arange(2 * 10 * 12.0).view(2, 1, 10, 12)
    torch.manual_seed(0)
    for _ in range(20):
        for image, window in zip(images, random_windows(images, 7), strict=True):
            top, left = divmod(int(window[0, 0, 0] - image[0, 0, 0]), 12)
            assert torch.equal(window, image[:, top : top + 7, left : left + 7])


def test_teacher_loss_is_the_weighted_sum():
    torch.manual_seed(0)
    crops, targets = torch.rand(8, 3, 23, 23), torch.randn(8, 5)
    values = []
    for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.5, 2.0, 3.0)):
        torch.manual_seed(1)
        module = TeacherTraining(PatchDescriptor(17, 4, 6), 5, weights)
        values.append(module.loss(crops, targets).item())
    assert values[3] == pytest.approx(0.5 * values[0] + 2 * values[1] + 3 * values[2], rel=1e-5)
    anchor = module.network(crops[..., 3:-3, 3:-3]).flatten(1)
    assert values[0] == pytest.approx(distillation_loss(module.decoder(anchor), targets).item(), rel=1e-5)
    assert values[2] == pytest.approx(compactness_loss(anchor).item(), rel=1e-5)


def test_targets_are_standardised_and_of_one_patch_each():
    extractor, patches = FeatureExtractor(layers=(16,), pool=True), scenery_patches(9, 17, 40)
    targets = patch_targets(patches, extractor)
    assert targets.shape == (72, extractor.channels[0])
    torch.testing.assert_close(targets.mean(dim=0), torch.zeros(targets.shape[1]), rtol=0, atol=1e-4)
    enlarged = [nn.functional.interpolate(patch[None], scale_factor=2.0) for patch in patches]
    vectors = torch.cat([extractor(patch)[extractor.layers[0]].flatten(1) for patch in enlarged])
    expected = ((vectors - vectors.mean(dim=0)) / vectors.std(dim=0).clamp_min(1e-6))[:1]
    torch.testing.assert_close(targets[:1], expected, rtol=1e-3, atol=1e-3)


def test_scenery_patches_come_from_the_pictures():
    patches, pictures = scenery_patches(2, 9, 24, seed=3), scenery(2, 24, seed=3)
    assert patches.shape == (16, 3, 9, 9)
    windows = pictures.unfold(2, 9, 1).unfold(3, 9, 1).permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    for number, patch in enumerate(patches):
        assert (windows[number % 2] == patch).flatten(1).all(dim=1).any()


def test_a_distilled_teacher_is_frozen_repeatable_and_leaves_the_generator():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second = (distilled_teacher(17, 4, 6, num_images=4, epochs=1) for _ in range(2))
    assert torch.equal(torch.rand(1), expected)
    assert not any(weights.requires_grad for weights in first.parameters())
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_teach_copies():
    detector, teacher = UninformedStudents(**SMALL), PatchDescriptor(17, 4, 6)
    detector.teach([teacher])
    nn.init.zeros_(teacher.convolutions[0].weight)
    assert detector.ensembles[0].teacher.convolutions[0].weight.abs().sum() > 0


def test_the_wrong_number_of_teachers_is_refused():
    with pytest.raises(ValueError):
        UninformedStudents(**SMALL).teach([])


@pytest.mark.parametrize("arguments", [{"patch_sizes": ()}, {"num_students": 0}, {"patch_sizes": (20,)}])
def test_bad_arguments_are_refused(arguments: dict):
    with pytest.raises(DataError):
        UninformedStudents(**arguments)


def test_map_has_a_scale_that_does_not_depend_on_the_teachers():
    """Multiplying the teacher's last layer changes nothing: its descriptors are standardised."""
    group, images = ensemble(), torch.rand(4, 3, 32, 32)
    group.measure_teacher(images)
    before = group.target(bordered(images, 17, 2))
    last = group.teacher.convolutions[-1]
    last.weight.mul_(math.pi), last.bias.mul_(math.pi)
    group.measure_teacher(images)
    torch.testing.assert_close(group.target(bordered(images, 17, 2)), before, rtol=1e-3, atol=1e-3)
