"""NSA: the Poisson equation against a sparse direct solve, what may change, the labels' formula."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fake_cuda import fake_cuda_loss
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dstn
from scipy.ndimage import median_filter
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from adlearn.data.base import Benchmark
from adlearn.errors import DataError
from adlearn.methods.synthetic_anomalies import (
    BLENDS,
    NSA,
    fitting_patch,
    gamma_side,
    local_median,
    map_logits,
    nsa_labels,
    nsa_network,
    poisson_blend,
    poisson_pasted,
    random_patch,
    random_place,
    solve_poisson,
    with_objects,
)

SMALL = {"epochs": 2, "width": 4, "pool": True}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def direct(source: np.ndarray, destination: np.ndarray, mixed: bool) -> np.ndarray:
    """Perez et al.'s equations for one channel (h, w), written down pixel by pixel."""
    height, width = source.shape
    inner = [(r, c) for r in range(1, height - 1) for c in range(1, width - 1)]
    number = {p: i for i, p in enumerate(inner)}
    matrix, right = lil_matrix((len(inner), len(inner))), np.zeros(len(inner))
    for (r, c), i in number.items():
        matrix[i, i] = 4
        for q in ((r - 1, c), (r + 1, c), (r, c - 1), (r, c + 1)):
            of_source, of_destination = source[r, c] - source[q], destination[r, c] - destination[q]
            use_destination = mixed and abs(of_destination) > abs(of_source)
            right[i] += of_destination if use_destination else of_source
            if q in number:
                matrix[i, number[q]] = -1
            else:
                right[i] += destination[q]
    found = destination.copy()
    found[1:-1, 1:-1] = spsolve(matrix.tocsr(), right).reshape(height - 2, width - 2)
    return found


@settings(max_examples=25, deadline=None)
@given(height=st.integers(3, 14), width=st.integers(3, 14), mixed=st.booleans(), seed=st.integers(0, 2**20))
def test_blending_solves_the_equation(height: int, width: int, mixed: bool, seed: int):
    generator = torch.Generator().manual_seed(seed)
    source, destination = torch.rand(2, 2, height, width, generator=generator, dtype=torch.float64)
    expected = [direct(s, d, mixed) for s, d in zip(source.numpy(), destination.numpy(), strict=True)]
    found = poisson_blend(source, destination, mixed)
    torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)))


def test_single_precision_is_enough():
    source, destination = torch.rand(2, 3, 90, 70)
    exact = poisson_blend(source.double(), destination.double())
    torch.testing.assert_close(poisson_blend(source, destination).double(), exact, rtol=0, atol=1e-4)


def test_the_solution_is_that_of_a_sine_transform():
    right = torch.rand(2, 7, 9, dtype=torch.float64)
    rows, columns = (2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in (7, 9))
    values = dstn(right.numpy(), type=1, axes=(1, 2), norm="ortho") / (rows[:, None] + columns)
    expected = dstn(values, type=1, axes=(1, 2), norm="ortho")
    torch.testing.assert_close(solve_poisson(right), torch.from_numpy(expected))


def test_without_guidance_the_inside_is_harmonic():
    destination = torch.rand(1, 12, 9, dtype=torch.float64)
    found = poisson_blend(torch.zeros_like(destination), destination)
    neighbours = F.avg_pool2d(found, 3, 1) * 9 - found[:, 1:-1, 1:-1]
    corners = found[:, :-2, :-2] + found[:, :-2, 2:] + found[:, 2:, :-2] + found[:, 2:, 2:]
    torch.testing.assert_close(found[:, 1:-1, 1:-1], (neighbours - corners) / 4)
    ring = torch.ones(12, 9, dtype=torch.bool)
    ring[1:-1, 1:-1] = False
    assert found.min() >= destination[:, ring].min() and found.max() <= destination[:, ring].max()


def test_the_source_brightness_does_not_matter():
    source, destination = torch.rand(2, 3, 10, 11, dtype=torch.float64)
    for mixed in (False, True):
        torch.testing.assert_close(
            poisson_blend(source + 0.7, destination, mixed), poisson_blend(source, destination, mixed)
        )


def test_a_linear_border_is_continued():
    rows, columns = torch.meshgrid(torch.arange(9.0), torch.arange(7.0), indexing="ij")
    ramp = (2 * rows - 3 * columns).double()
    torch.testing.assert_close(poisson_blend(torch.zeros_like(ramp), ramp), ramp)


def test_an_image_on_itself_stays_to_the_bit():
    image = torch.rand(3, 20, 30)
    for mixed in (False, True):
        assert torch.equal(poisson_blend(image, image, mixed), image)
    assert torch.equal(poisson_blend(torch.zeros_like(image), image, mixed=True), image)


def test_the_border_stays():
    source, destination = torch.rand(2, 2, 3, 8, 9)
    found = poisson_blend(source, destination)
    assert torch.equal(found[..., 0, :], destination[..., 0, :])
    assert torch.equal(found[..., -1, :], destination[..., -1, :])
    assert torch.equal(found[..., [0, -1]], destination[..., [0, -1]])
    assert (found[..., 1:-1, 1:-1] != destination[..., 1:-1, 1:-1]).all()


def test_inside_the_laplacian_is_the_sources():
    source, destination = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).double()[None, None]
    found, expected = (F.conv2d(x[:, None], kernel) for x in (poisson_blend(source, destination), source))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shapes", [((3, 5, 5), (3, 5, 6)), ((3, 2, 5), (3, 2, 5))])
def test_unusable_rectangles_are_refused(shapes: tuple):
    with pytest.raises(DataError, match="3 x 3"):
        poisson_blend(*(torch.rand(shape) for shape in shapes))


@pytest.mark.parametrize("blend", BLENDS)
@pytest.mark.parametrize("shape", [(5, 3, 48, 64), (1, 3, 64, 64), (2, 3, 16, 16)])
def test_masks_are_what_changed(blend: str, shape: tuple):
    images = torch.rand(shape)
    before = images.clone()
    changed, masks = poisson_pasted(images, blend)
    assert torch.equal(images, before)
    assert torch.equal(masks, (changed != images).any(dim=1))
    assert masks.dtype == torch.bool and masks.any(dim=(1, 2)).all()
    assert changed.min() >= 0 and changed.max() <= 1


def test_constant_images_stay_as_they_are():
    images = torch.full((3, 3, 64, 64), 0.4)
    changed, _ = poisson_pasted(images)
    torch.testing.assert_close(changed, images)
    images[1] = 0.8
    changed, _ = poisson_pasted(images)
    # The gradient of a constant source is 0, whatever its brightness.
    torch.testing.assert_close(changed, images, rtol=0, atol=1e-5)
    assert not torch.allclose(poisson_pasted(images, "paste")[0], images)


def test_the_same_seed_gives_the_same_patches_for_every_blend():
    images, places = torch.rand(4, 3, 64, 64), []
    for blend in BLENDS:
        torch.manual_seed(3)
        places.append(poisson_pasted(images, blend, patches=2)[1])
    assert not (places[0] & ~places[2]).any() and not (places[1] & ~places[2]).any()


def test_pasting_leaves_a_seam_and_blending_does_not():
    images = torch.rand(6, 3, 64, 64) * 0.02 + torch.linspace(0.1, 0.8, 6).view(6, 1, 1, 1)
    steps = {}
    for blend in BLENDS:
        torch.manual_seed(0)
        changed, _ = poisson_pasted(images, blend, patches=1)
        steps[blend] = changed.diff(dim=-1).abs().amax()
    assert steps["paste"] > 0.1 > 2 * steps["poisson"] and steps["mixed"] < 0.05


def test_patches_follow_the_truncated_gamma_distribution():
    sides = torch.tensor([gamma_side(1000) for _ in range(4000)]).double()
    assert sides.min() >= 60 and sides.max() <= 800
    assert sides.mean().item() == pytest.approx(260, abs=8)
    assert sides.std().item() == pytest.approx(100 * math.sqrt(2), rel=0.08)


def test_resized_patches_fit():
    image = torch.rand(4, 100, 60)
    sizes = torch.tensor([random_patch(image, (0.5, 2.0)).shape for _ in range(200)])
    assert (sizes[:, 0] == 4).all() and sizes[:, 1:].min() >= 4
    assert sizes[:, 1].max() <= 40 and sizes[:, 2].max() <= 24


def test_places_lie_inside_and_everywhere():
    places = [random_place((2, 5), (4, 5)) for _ in range(60)]
    assert {(p.start, p.stop) for p, _ in places} == {(0, 2), (1, 3), (2, 4)}
    assert {(p.start, p.stop) for _, p in places} == {(0, 5)}


def with_disc() -> torch.Tensor:
    axis = torch.arange(64) - 32.0
    disc = axis[:, None].square() + axis.square() < 20**2
    return torch.where(disc, 0.8, 0.1).expand(2, 3, 64, 64) + 0.02 * torch.rand(2, 3, 64, 64)


def test_objects_are_what_differs_from_the_background():
    images = with_disc()
    found = with_objects(images, (0.1, 0.2))
    assert torch.equal(found[:, :3], images)
    assert ((found[:, 3] > 0.5) != (images.mean(dim=1) > 0.5)).float().mean() < 0.02
    assert (with_objects(images, None)[:, 3] == 1).all()


def test_patches_keep_to_the_object():
    layers = with_objects(with_disc(), (0.1, 0.2))
    for _ in range(30):
        found = fitting_patch(layers[0], layers[1, 3], (0.7, 1.3), (0.6, 0.5))
        assert found is not None
        patch, place = found
        assert (patch.mean(dim=0) > 0.4).float().mean() > 0.5
        assert layers[1, 3][place].sum() > 0


def test_without_an_object_nothing_is_pasted():
    images = torch.full((2, 3, 32, 32), 0.1)
    changed, masks = poisson_pasted(images, background=(0.1, 0.2))
    assert torch.equal(changed, images) and not masks.any()


def test_unknown_blends_are_refused():
    with pytest.raises(DataError, match="poisson"):
        poisson_pasted(torch.rand(1, 3, 32, 32), "alpha")


def test_local_median_is_scipys():
    values, places = torch.rand(2, 20, 15), torch.rand(2, 20, 15) < 0.3
    expected = [median_filter(v, size=5, mode="nearest") for v in values.numpy()]
    expected = torch.where(places, torch.from_numpy(np.stack(expected)), 0.0)
    torch.testing.assert_close(local_median(values, places, 5), expected)
    assert (local_median(values, torch.zeros_like(places), 5) == 0).all()


def test_labels_are_logistic_in_grey_levels():
    images = torch.full((4, 3, 256, 256), 0.2)
    changed = images.clone()
    for row, levels in enumerate((7, 1 / 2, 21, -10)):
        changed[row, :, 50:150, 60:170] += levels / 255
    found = nsa_labels(images, changed, steepness=0.25, midpoint=8.0)
    inside = found[:, 60:140, 70:160]
    expected = [1 / (1 + math.exp(-0.25 * (level - 8))) for level in (7, 21, 10)]
    torch.testing.assert_close(inside[[0, 2, 3]].mean(dim=(1, 2)), torch.tensor(expected), rtol=1e-4, atol=0)
    assert (found[1] == 0).all() and (found[:, :45] == 0).all()


def test_labels_are_written_down_pixel_by_pixel():
    images, grain = torch.rand(1, 3, 128, 128) * 0.5, torch.rand(1, 3, 128, 128) * 0.2
    changed = images.clone()
    changed[..., 30:60, 40:90] += grain[..., 30:60, 40:90]
    change = 255 * (changed - images).abs().mean(dim=1)[0].numpy()
    where = median_filter((change > 1).astype(np.uint8), size=3, mode="constant")
    level = median_filter(change, size=2 * round(2.5) + 1, mode="nearest")
    expected = where / (1 + np.exp(-(level - 7) / 3))
    torch.testing.assert_close(nsa_labels(images, changed)[0], torch.from_numpy(expected).float())


@pytest.mark.parametrize("pool", [False, True])
def test_the_network_keeps_the_size(pool: bool):
    images = torch.rand(2, 3, 96, 64)
    assert nsa_network(8, pool)(images).shape == (2, 1, 96, 64)


def test_odd_sizes_are_brought_back(tiny: Benchmark):
    found = NSA(**SMALL).fit(tiny.train).predict(torch.rand(2, 3, 50, 71))
    assert found.map.shape == (2, 50, 71)


def test_gradients_reach_every_weight():
    detector = NSA(width=8)
    detector.network.train()
    detector.loss(torch.rand(4, 3, 64, 64)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.network.parameters())


def test_the_loss_is_cross_entropy_with_soft_labels():
    images, detector = torch.rand(3, 3, 64, 64), NSA(width=8)
    torch.manual_seed(1)
    changed, labels = detector.painted(images)
    p = map_logits(detector.network, changed).sigmoid().double()
    expected = -(labels * p.log() + (1 - labels) * (1 - p).log()).mean()
    torch.manual_seed(1)
    assert detector.loss(images).item() == pytest.approx(expected.item(), rel=1e-5)
    assert ((labels > 0) & (labels < 1)).any()


def test_binary_labels_are_binary():
    _, labels = NSA(binary=True).painted(torch.rand(3, 3, 64, 64))
    assert set(labels.unique().tolist()) == {0.0, 1.0}


def test_the_score_is_the_mean_of_the_map(tiny: Benchmark):
    found = NSA(**SMALL).fit(tiny.train).predict(tiny.test.images())
    torch.testing.assert_close(found.score, found.map.mean(dim=(1, 2)))
    assert found.map.min() >= 0 and found.map.max() <= 1


def test_labels_and_network_on_cuda():
    def loss(network: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        source, destination = batch
        changed = poisson_blend(source, destination, mixed=True)
        return F.binary_cross_entropy_with_logits(network(changed)[:, 0], changed.mean(dim=1))

    fake_cuda_loss(lambda: nsa_network(8, True), loss, lambda: tuple(torch.rand(2, 2, 3, 64, 64)))
