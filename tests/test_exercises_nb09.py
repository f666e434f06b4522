"""Each check of notebook 09 accepts a right answer and rejects wrong ones with a hint."""

import pytest
import torch

from adlearn.exercises import Wrong, check


def rejects(number, answer, hint):
    with pytest.raises(Wrong, match=hint):
        check(number, answer)


@pytest.mark.parametrize("number", [f"09.{k}" for k in range(1, 6)])
def test_an_untried_answer_is_only_noted(number):
    assert check(number, ...) is False


def laid(image, patch, top, left):
    changed = image.clone()
    region = changed[:, top : top + patch.shape[1], left : left + patch.shape[2]]
    region.copy_(patch[:, : region.shape[1], : region.shape[2]])
    return changed, (changed != image).any(dim=0)


def in_place(image, patch, top, left):
    changed, mask = laid(image, patch, top, left)
    image.copy_(changed)
    return image, mask


def whole_patch(image, patch, top, left):
    changed, _ = laid(image, patch, top, left)
    mask = torch.zeros(image.shape[1:], dtype=torch.bool)
    mask[top : top + patch.shape[1], left : left + patch.shape[2]] = True
    return changed, mask


def pushed_in(image, patch, top, left):
    return laid(image, patch, min(top, 8 - patch.shape[1]), min(left, 10 - patch.shape[2]))


def test_09_1_accepts_the_patch():
    assert check("09.1", laid)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (in_place, "work on a copy"),
        (lambda i, p, *at: (laid(i, p, *at)[0], laid(i, p, *at)[0] != i), "for all channels"),
        (lambda i, p, top, left: laid(i, p, left, top), "top, left"),
        (lambda i, p, *at: (laid(i, p, *at)[0], ~laid(i, p, *at)[1]), "nowhere else"),
        (whole_patch, "empty mask"),
        (pushed_in, "cut off"),
    ],
)
def test_09_1_rejects(answer, hint):
    rejects("09.1", answer, hint)


def melted(row, source, start, stop):
    line = torch.linspace(0, 1, stop - start + 2, dtype=row.dtype)
    first, last = row[start - 1] - source[start - 1], row[stop] - source[stop]
    blended = row.clone()
    blended[start:stop] = source[start:stop] + torch.lerp(first, last, line)[1:-1]
    return blended


def pasted(row, source, start, stop):
    blended = row.clone()
    blended[start:stop] = source[start:stop]
    return blended


def test_09_2_accepts_the_blend():
    assert check("09.2", melted)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda r, s, a, b: melted(r, s, a, b)[a:b], "same length"),
        (lambda r, s, a, b: s, "outside of start:stop"),
        (pasted, "2 f\\(x\\)"),
        (lambda r, s, a, b: melted(r, s * 0, a, b), "2 f\\(x\\)"),
    ],
)
def test_09_2_rejects(answer, hint):
    rejects("09.2", answer, hint)


def coded(vectors, codebook):
    nearest = codebook[torch.cdist(vectors, codebook).argmin(dim=1)]
    return vectors + (nearest - vectors).detach()


def without_gradient(vectors, codebook):
    return codebook[torch.cdist(vectors, codebook).argmin(dim=1)]


def doubled_gradient(vectors, codebook):
    return 2 * vectors - vectors.detach() + (coded(vectors, codebook) - vectors).detach()


def test_09_3_accepts_straight_through():
    assert check("09.3", coded)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda v, c: coded(v, c)[:1], "for each vector"),
        (lambda v, c: v, "nearest codeword"),
        (without_gradient, "no gradient"),
        (doubled_gradient, "unchanged"),
    ],
)
def test_09_3_rejects(answer, hint):
    rejects("09.3", answer, hint)


def dots(images):
    changed = images.clone()
    for image in changed:
        row, column = torch.randint(images.shape[-1] - 3, (2,)).tolist()
        image[:, row : row + 3, column : column + 3] = 1
    return changed, (changed != images).any(dim=1)


def fixed(images):
    changed = images.clone()
    changed[:, :, 3:6, 3:6] = 1
    return changed, (changed != images).any(dim=1)


def unseeded(images):
    changed = images.clone()
    changed[:, :, 3:6, 3:6] = torch.rand(1, generator=torch.Generator().manual_seed(torch.seed() % 2**31))
    return changed, (changed != images).any(dim=1)


def frame(images):
    changed, mask = fixed(images)
    return changed, mask | (torch.arange(32) == 0)


def test_09_4_accepts_dots():
    assert check("09.4", dots)


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (lambda i: (i.mul_(0.5), (i > 0).any(dim=1)), "must stay"),
        (lambda i: (dots(i)[0][:, :1], dots(i)[1]), "images \\(6"),
        (lambda i: (dots(i)[0], dots(i)[1].float()), "bool"),
        (lambda i: (i + 1, torch.ones(6, 32, 32).bool()), "between 0 and 1"),
        (lambda i: (i.clone(), torch.zeros(6, 32, 32).bool()), "nothing has changed"),
        (frame, "exactly where"),
        (lambda i: (1 - i, torch.ones(6, 32, 32).bool()), "more than half"),
        (fixed, "at random"),
        (unseeded, "manual_seed"),
    ],
)
def test_09_4_rejects(answer, hint):
    rejects("09.4", answer, hint)


def test_09_5():
    good = {"cut": {"a": 0.8, "b": 0.6}, "melt": {"a": 0.7, "b": 0.9}, "noise": {"a": 0.55, "b": 0.5}}
    assert check("09.5", good)
    rejects("09.5", [0.5], "dict")
    rejects("09.5", {"cut": {"a": 0.8, "b": 0.6}}, "three paints")
    rejects("09.5", good | {"noise": {"a": 0.5}}, "two kinds")
    rejects("09.5", good | {"noise": {"a": 0.5, "c": 0.5}}, "same kinds")
    rejects("09.5", good | {"noise": {"a": 1.5, "b": 0.5}}, "between 0 and 1")
    rejects("09.5", {name: {"a": 0.8, "b": 0.8} for name in "xyz"}, "passed on")
    rejects("09.5", {n: {"a": 0.5 + k / 100, "b": 0.4 + k / 100} for k, n in enumerate("xyz")}, "nothing is")
