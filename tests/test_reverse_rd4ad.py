"""RD4AD: its losses and map against the paper's formulas, what is trained, sizes and refusals."""

import math

import pytest
import torch
from tiny import draw_benchmark

from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.maps import smooth, upsample
from adlearn.methods.reverse_distillation import (
    OneClassEmbedding,
    ResidualBlock,
    ReverseDecoder,
    ReverseDistillation,
    cosine_map,
    flat_loss,
    position_loss,
    summed_map,
)

SMALL = {"code": 8, "widths": (8, 8, 8), "epochs": 2}


def levels(seed: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((3, 8, 6), (5, 4, 3), (7, 2, 2))
    return [torch.randn(batch, *size, generator=generator, dtype=torch.float64) for size in sizes]


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def slow_map(teacher: torch.Tensor, student: torch.Tensor, image: int) -> torch.Tensor:
    """Eq. 1 of one image, position by position."""
    _, _, height, width = teacher.shape
    found = torch.empty(height, width, dtype=torch.float64)
    for i in range(height):
        for j in range(width):
            vectors = (maps[image, :, i, j].tolist() for maps in (teacher, student))
            found[i, j] = 1 - cosine(*vectors)
    return found


def test_position_loss_is_equation_2():
    teachers, students = levels(0), levels(1)
    expected = 0.0
    for teacher, student in zip(teachers, students, strict=True):
        images = [slow_map(teacher, student, image) for image in range(len(teacher))]
        expected += sum(m.sum().item() / m.numel() for m in images) / len(images)
    assert position_loss(teachers, students).item() == pytest.approx(expected, abs=1e-12)


def test_flat_loss_takes_one_cosine_a_map():
    teachers, students = levels(0), levels(1)
    expected = 0.0
    for teacher, student in zip(teachers, students, strict=True):
        pairs = zip(teacher, student, strict=True)
        cosines = [cosine(t.flatten().tolist(), s.flatten().tolist()) for t, s in pairs]
        expected += sum(1 - c for c in cosines) / len(cosines)
    assert flat_loss(teachers, students).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [flat_loss, position_loss])
def test_losses_are_zero_for_a_scaled_copy_and_two_a_level_for_the_opposite(loss):
    maps = levels(0)
    assert loss(maps, [3 * m for m in maps]).item() == pytest.approx(0, abs=1e-6)
    assert loss(maps, [-m for m in maps]).item() == pytest.approx(2 * len(maps), abs=1e-6)


def test_only_the_position_loss_forgets_lengths():
    """Scaling one position of both maps changes its weight in the flattened cosine alone."""
    teachers, students = levels(0)[:1], levels(1)[:1]
    weight = torch.ones(8, 6, dtype=torch.float64)
    weight[3, 2] = 50.0
    louder = [[m * weight for m in maps] for maps in (teachers, students)]
    torch.testing.assert_close(position_loss(*louder), position_loss(teachers, students))
    assert abs(flat_loss(*louder) - flat_loss(teachers, students)) > 0.05


def test_map_is_the_smoothed_sum_of_enlarged_distances():
    teachers, students = levels(0), levels(1)
    found = summed_map(teachers, students, (32, 24), 2.0)
    expected = torch.zeros(2, 32, 24, dtype=torch.float64)
    for teacher, student in zip(teachers, students, strict=True):
        distances = torch.stack([slow_map(teacher, student, image) for image in range(2)])
        expected += upsample(distances, (32, 24))
    torch.testing.assert_close(found, smooth(expected, 2.0))
    torch.testing.assert_close(summed_map(teachers, students, (32, 24), 0.0), expected)


def test_cosine_map_survives_vectors_of_zeros():
    zeros = torch.zeros(1, 4, 3, 3, requires_grad=True)
    found = cosine_map(torch.randn(1, 4, 3, 3), zeros)
    found.sum().backward()
    assert torch.isfinite(found).all() and torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize(("scale", "size"), [(0.5, (4, 3)), (2, (14, 12))])
def test_residual_block_scales(scale: float, size: tuple[int, int]):
    assert ResidualBlock(5, 9, scale)(torch.randn(2, 5, 7, 6)).shape == (2, 9, *size)


def test_residual_block_refuses_other_scales():
    with pytest.raises(DataError, match="scale"):
        ResidualBlock(5, 9, 3)


@pytest.mark.parametrize("sizes", [((16, 16), (8, 8), (4, 4)), ((25, 13), (13, 7), (7, 4))])
def test_code_and_restored_maps_have_the_right_sizes(sizes):
    channels = (3, 5, 7)
    maps = [torch.randn(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    code = OneClassEmbedding(channels, (8, 10, 12), 6)(maps)
    assert code.shape == (2, 6, math.ceil(sizes[2][0] / 2), math.ceil(sizes[2][1] / 2))
    restored = ReverseDecoder(6, (8, 10, 12), channels)(code, maps)
    assert [r.shape for r in restored] == [m.shape for m in maps]


def test_every_level_reaches_the_code_and_every_head_learns():
    channels, maps = (3, 5, 7), [m.float().requires_grad_() for m in levels(3)]
    bottleneck, decoder = (
        OneClassEmbedding(channels, (8, 10, 12), 6),
        ReverseDecoder(6, (8, 10, 12), channels),
    )
    restored = decoder(bottleneck(maps), maps)
    position_loss([m.detach() for m in maps], restored).backward()
    assert all(m.grad.abs().sum() > 0 for m in maps)
    trained = [*bottleneck.parameters(), *decoder.parameters()]
    assert all(weights.grad is not None for weights in trained)


def test_decoder_sees_the_maps_only_through_the_code():
    """The reason why a defect can't be copied: with one code, other maps change nothing."""
    channels = (3, 5, 7)
    decoder = ReverseDecoder(6, (8, 10, 12), channels).eval()
    code = torch.randn(2, 6, 1, 1)
    first, second = ([m.float() for m in levels(seed)] for seed in (3, 4))
    for a, b in zip(decoder(code, first), decoder(code, second), strict=True):
        assert torch.equal(a, b)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return draw_benchmark(tmp_path_factory.mktemp("tiny"))


def test_fit_changes_the_student_and_nothing_else(tiny):
    torch.manual_seed(0)
    detector = ReverseDistillation(**SMALL)
    teacher = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    student = {name: value.clone() for name, value in detector.student.state_dict().items()}
    detector.fit(tiny.train)
    after = detector.extractor.state_dict()
    assert all(torch.equal(after[name], value) for name, value in teacher.items())
    assert all(weights.grad is None for weights in detector.extractor.parameters())
    changed = detector.student.named_parameters()
    assert all(not torch.equal(weights, student[name]) for name, weights in changed)
    assert not detector.student.training


def test_fit_lowers_the_loss_of_both_kinds(tiny):
    for flat in (True, False):
        history = ReverseDistillation(**SMALL | {"epochs": 8, "flat": flat}).fit(tiny.train).history
        assert history.shape == (8,) and history[-1] < history[0]


def test_images_of_an_odd_size_are_scored(tiny):
    detector = ReverseDistillation(**SMALL).fit(tiny.train)
    found = detector.predict(torch.rand(2, 3, 75, 101))
    assert found.map.shape == (2, 75, 101) and torch.equal(found.score, found.map.amax(dim=(1, 2)))


def test_widths_must_fit_the_layers():
    with pytest.raises(DataError, match="width"):
        ReverseDistillation(layers=(8, 16))


def test_loss_uses_the_features_of_the_layers():
    detector = ReverseDistillation(**SMALL)
    extractor = FeatureExtractor(layers=(4, 8, 16))
    features = list(extractor(torch.rand(2, 3, 64, 64)).values())
    detector.student.eval()
    expected = flat_loss(features, detector.student(features))
    torch.testing.assert_close(detector.loss(*features), expected)
