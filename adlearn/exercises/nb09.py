"""Checks of notebook 09."""

from collections.abc import Callable, Mapping

import torch

from . import exercise, require

Pair = tuple[torch.Tensor, torch.Tensor]


def _rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@exercise("09.1")
def put_on(answer: Callable[[torch.Tensor, torch.Tensor, int, int], Pair]) -> None:
    """a patch, and the mask of what it changed"""
    image, patch = _rand(3, 8, 10), _rand(3, 3, 4, seed=1)
    before = image.clone()
    found, mask = answer(image, patch, 2, 5)
    require(torch.equal(image, before), "the image itself must stay as it was: work on a copy")
    require(
        tuple(mask.shape) == (8, 10) and mask.dtype == torch.bool,
        "the mask is (H, W), bool, for all channels",
    )
    expected = image.clone()
    expected[:, 2:5, 5:9] = patch
    require(torch.equal(found, expected), "the patch's upper left pixel lies at (top, left), all else stays")
    require(
        int(mask.sum()) == 12 and bool(mask[2:5, 5:9].all()), "the mask is True on the patch, nowhere else"
    )
    _, nothing = answer(image, image[:, 1:4, 2:6], 1, 2)
    require(not bool(nothing.any()), "a patch put back where it came from changes nothing: an empty mask")
    cut, mask = answer(image, patch, 6, 8)
    require(
        torch.equal(cut[:, 6:, 8:], patch[:, :2, :2]) and int(mask.sum()) == 4,
        "what sticks out beyond the lower and right border is cut off",
    )


@exercise("09.2")
def melted_row(answer: Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]) -> None:
    """Poisson blending of one row of pixels"""
    row, source = _rand(12).double(), _rand(12, seed=1).double()
    found = answer(row, source, 3, 9)
    require(tuple(found.shape) == (12,), f"a row of the same length, (12,), not {tuple(found.shape)}")
    outside = torch.ones(12, dtype=torch.bool)
    outside[3:9] = False
    require(torch.equal(found[outside], row[outside]), "outside of start:stop the row stays as it was")
    bends, wanted = (values[1:-1] * 2 - values[:-2] - values[2:] for values in (found, source))
    require(
        torch.allclose(bends[2:8], wanted[2:8], atol=1e-6),
        "inside, 2 f(x) - f(x-1) - f(x+1) is that of the source: beside the region the row counts",
    )
    lifted = answer(row, source + 5, 3, 9)
    require(torch.allclose(lifted, found, atol=1e-6), "a brighter source blends to the same row")
    require(torch.allclose(answer(row, row, 3, 9), row, atol=1e-6), "the row blended with itself is the row")


@exercise("09.3")
def nearest_codes(answer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    """the nearest codeword, with a gradient that goes straight through"""
    vectors, codebook = _rand(6, 3).requires_grad_(), _rand(4, 3, seed=1)
    found = answer(vectors, codebook)
    require(tuple(found.shape) == (6, 3), f"a codeword for each vector, (6, 3), not {tuple(found.shape)}")
    rows = torch.cdist(vectors.detach(), codebook).argmin(dim=1)
    require(torch.allclose(found, codebook[rows], atol=1e-6), "the value is the nearest codeword")
    require(found.requires_grad, "no gradient reaches the vectors: argmin has none")
    (gradient,) = torch.autograd.grad((found * torch.arange(18.0).view(6, 3)).sum(), vectors)
    require(
        torch.allclose(gradient, torch.arange(18.0).view(6, 3)),
        "backwards the step is skipped: the vectors get the gradient of the codewords, unchanged",
    )


@exercise("09.4")
def own_paint(answer: Callable[[torch.Tensor], Pair]) -> None:
    """a paint of your own, with exact masks"""
    images = _rand(6, 3, 32, 32)
    before = images.clone()
    torch.manual_seed(0)
    found, masks = answer(images)
    require(torch.equal(images, before), "the images themselves must stay as they were")
    require(tuple(found.shape) == (6, 3, 32, 32), f"images (6, 3, 32, 32), not {tuple(found.shape)}")
    require(tuple(masks.shape) == (6, 32, 32) and masks.dtype == torch.bool, "masks (6, 32, 32), bool")
    require(bool(((found >= 0) & (found <= 1)).all()), "pixels stay between 0 and 1")
    moved = (found != images).any(dim=1)
    require(bool(moved.any()), "nothing has changed in any of six images")
    require(torch.equal(moved, masks), "a mask is True exactly where the image changed")
    require(float(masks.float().mean()) < 0.5, "more than half of all pixels: a defect is smaller")
    again, _ = answer(images)
    require(not torch.equal(again, found), "the same images twice give the same defects: draw them at random")
    torch.manual_seed(0)
    require(
        torch.equal(answer(images)[0], found), "torch.manual_seed does not decide: use torch's randomness"
    )
    answer(images[:1])


@exercise("09.5")
def found_by_paint(answer: Mapping[str, Mapping[str, float]]) -> None:
    """which paint finds which defect"""
    require(isinstance(answer, Mapping), "answer with a dict from the paint to a dict from defect to AUROC")
    require(len(answer) >= 3, f"at least three paints, got {list(answer)}")
    kinds = [set(row) for row in answer.values()]
    require(all(isinstance(row, Mapping) and len(row) >= 2 for row in answer.values()), "two kinds or more")
    require(all(kind == kinds[0] for kind in kinds), "every paint is tried on the same kinds of defects")
    values = [float(value) for row in answer.values() for value in row.values()]
    require(all(0 <= value <= 1 for value in values), f"an AUROC lies between 0 and 1, got {values}")
    require(len(set(values)) > len(values) // 2, "most values are equal: was the paint passed on?")
    require(max(values) > 0.7, "nothing is found at all: 1 = anomalous, trained on painted good images")
