"""AST: parts against loops in float64, two trainings that keep apart, scores and refusals."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from adlearn.errors import DataError
from adlearn.methods.normalizing_flow import position_code
from adlearn.methods.student_teacher import (
    AST,
    ResidualBlock,
    ResidualStudent,
    beside,
    code_map,
    placed_flow,
    surprise,
    unshuffled,
)

SMALL = {"kernels": (3, 3), "hidden": 16, "teacher_epochs": 2, "epochs": 2}


def shaken(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """Random weights everywhere: as built, a flow is the identity and can fail no test."""
    generator = torch.Generator().manual_seed(1)
    for weights in module.parameters():
        nn.init.normal_(weights, std=scale, generator=generator)
    return module.eval()


def some_maps(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def fitted(tiny):
    return AST(**SMALL).fit(tiny.train)


def test_a_code_map_is_the_position_code_of_each_place():
    found = code_map(some_maps(3, 5, 4, 6), 8)
    rows = position_code(some_maps(1, 4, 6, 5), 8)
    assert found.shape == (1, 8, 4, 6) and found.dtype == torch.float64
    for row, column in np.ndindex(4, 6):
        torch.testing.assert_close(found[0, :, row, column], rows[6 * row + column])
    places = found[0].flatten(1).T
    assert torch.cdist(places, places).fill_diagonal_(1).min() > 0.1


def test_every_image_gets_the_code():
    maps, code = some_maps(3, 5, 4, 6), code_map(some_maps(1, 5, 4, 6), 8)
    found = beside(maps, code)
    assert torch.equal(found[:, :5], maps)
    assert all(torch.equal(image[5:], code[0]) for image in found)


@pytest.mark.parametrize(("channels", "kernels"), [(2, (1,)), (5, (3, 1)), (4, (3, 3, 5))])
def test_log_determinant_is_that_of_the_full_jacobian(channels, kernels):
    flow = shaken(placed_flow(channels, kernels, code_size=4, hidden_ratio=1.0)).double()
    x = some_maps(1, channels, 3, 4)
    code = code_map(x, 4)
    jacobian = torch.autograd.functional.jacobian(
        lambda v: flow(v.view_as(x), code)[0].flatten(), x.flatten()
    )
    log_det = flow(x, code)[1]
    assert log_det.sum().item() == pytest.approx(torch.linalg.slogdet(jacobian).logabsdet.item(), abs=1e-9)
    assert abs(log_det.sum().item()) > 0.1
    torch.testing.assert_close(flow.inverse(flow(x, code)[0], code), x)


def test_the_flow_knows_where_it_is():
    flow = shaken(placed_flow(6, (1, 1), code_size=8)).double()
    same = some_maps(1, 6, 1, 1).expand(1, 6, 5, 5).contiguous()
    z = flow(same, code_map(same, 8))[0].flatten(2)[0].T
    assert torch.cdist(z, z).fill_diagonal_(1).min() > 1e-4


def test_two_flows_permute_alike_and_differ_in_weights():
    first, second = placed_flow(9), placed_flow(9)
    orders = [[m.order for m in flow.layers if hasattr(m, "order")] for flow in (first, second)]
    assert len(orders[0]) == 4 and all(torch.equal(a, b) for a, b in zip(*orders, strict=True))
    assert len({tuple(order.tolist()) for order in orders[0]}) == 4
    kernels = [next(p for p in flow.parameters() if p.ndim == 4) for flow in (first, second)]
    assert not torch.equal(*kernels)


def test_unshuffling_keeps_every_value_of_a_cell_in_its_cell():
    fine, coarse = some_maps(2, 3, 8, 12), some_maps(2, 5, 2, 3)
    found = unshuffled([fine, coarse])
    assert found.shape == (2, 3 * 16 + 5, 2, 3)
    assert torch.equal(found[:, -5:], coarse)
    for row, column in np.ndindex(2, 3):
        cell = fine[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4].flatten(1)
        assert torch.equal(found[:, :48, row, column].sort().values, cell.sort().values)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 3, 8, 4), (2, 3, 7, 7)])
def test_grids_that_do_not_fit_are_refused(shape):
    with pytest.raises(DataError, match="multiples of the stride"):
        unshuffled([torch.zeros(shape), torch.zeros(2, 5, 4, 4)])


def test_image_sides_that_do_not_fit_are_refused(fitted):
    with pytest.raises(DataError, match="multiples of the stride"):
        fitted.predict(torch.rand(1, 3, 72, 72))


def conv(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A 3 x 3 convolution with zeros beyond the border, by loops."""
    weight = layer.weight.detach().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().numpy()
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    found = np.zeros((len(weight), *x.shape[1:]))
    for out, row, column in np.ndindex(*found.shape):
        found[out, row, column] = (weight[out] * padded[:, row : row + 3, column : column + 3]).sum() + bias[
            out
        ]
    return found


def norm(x: np.ndarray, layer: nn.BatchNorm2d) -> np.ndarray:
    mean, variance = layer.running_mean.numpy(), layer.running_var.numpy()
    found = (x - mean[:, None, None]) / np.sqrt(variance + layer.eps)[:, None, None]
    if layer.affine:
        found = (
            found * layer.weight.detach().numpy()[:, None, None] + layer.bias.detach().numpy()[:, None, None]
        )
    return found


def leaky(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, 0.01 * x)


def test_student_is_the_papers_residual_network():
    """Convolution, x + twice (convolution, norm, leaky ReLU), convolution, with loops in float64."""
    student = shaken(ResidualStudent(3, 4, 1, code_size=4)).double()
    for layer in student.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-1, 1)
            layer.running_var.uniform_(0.5, 2)
    maps = some_maps(1, 3, 4, 5)
    code = code_map(maps, 4)
    first, _, block, last = student.layers
    x = np.concatenate([norm(maps[0].numpy(), student.norm), code[0].numpy()])
    x = leaky(conv(x, first))
    a, norm_a, _, b, norm_b, _ = block.layers
    x = x + leaky(norm(conv(leaky(norm(conv(x, a), norm_a)), b), norm_b))
    np.testing.assert_allclose(student(maps, code)[0].detach().numpy(), conv(x, last), rtol=0, atol=1e-10)


def test_a_block_starts_as_the_identity():
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(ResidualBlock(6)(x), x)


def test_losses_are_the_papers(fitted):
    """Eqs. of teacher and student at each position, summed over channels, in float64."""
    detector = AST(**SMALL)
    detector.load_state_dict(fitted.state_dict())
    detector.double().eval()
    maps = 5 * some_maps(2, detector.channels, 3, 3)
    code = code_map(maps, 32)
    with torch.no_grad():
        z, log_det = detector.teacher(maps, code)
        answer = detector.student(maps, code)
        found, loss = surprise(detector.teacher, maps), detector.loss(maps, z)
    distance, count = 0.0, detector.channels
    for image, row, column in np.ndindex(2, 3, 3):
        vector = z[image, :, row, column].numpy()
        nll = vector @ vector / 2 - log_det[image, row, column].item() + count / 2 * math.log(2 * math.pi)
        assert found[image, row, column].item() == pytest.approx(nll / count)
        distance += ((answer[image, :, row, column].numpy() - vector) ** 2).sum()
    assert loss.item() == pytest.approx(distance / (2 * 9 * count))


def test_map_and_score(fitted, tiny):
    images = tiny.test.take(2).images()
    found = fitted.predict(images)
    maps = unshuffled(list(fitted.extractor(images).values()))
    with torch.no_grad():
        gap = fitted.student(maps, code_map(maps, 32)) - fitted.teacher(maps, code_map(maps, 32))[0]
    grid = gap.square().mean(dim=1)
    up = torch.nn.functional.interpolate(grid[:, None], (64, 64), mode="bilinear")[:, 0]
    torch.testing.assert_close(found.map, up)
    torch.testing.assert_close(found.score, found.map.amax(dim=(1, 2)))
    average = AST(**SMALL, image_score="mean")
    average.load_state_dict(fitted.state_dict())
    torch.testing.assert_close(average.eval().predict(images).score, found.map.mean(dim=(1, 2)))


def test_the_teacher_is_frozen_while_the_student_learns(tiny):
    short, long = (AST(**(SMALL | {"epochs": epochs})).fit(tiny.train) for epochs in (1, 3))
    for (name, a), b in zip(
        short.teacher.state_dict().items(), long.teacher.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name
    assert not any(p.requires_grad for p in long.teacher.parameters())
    assert long.history[-1] < long.history[0] and len(long.teacher_history) == 2
    assert any(
        not torch.equal(a, b)
        for a, b in zip(short.student.parameters(), long.student.parameters(), strict=True)
    )


def test_gradients_of_the_students_loss_reach_the_student_alone(fitted):
    maps = torch.randn(2, fitted.channels, 4, 4)
    latents = fitted.teacher(maps, code_map(maps, 32))[0]
    assert not latents.requires_grad
    fitted.zero_grad(set_to_none=True)
    fitted.loss(maps, latents).backward()
    assert all(p.grad is not None for p in fitted.student.parameters())
    assert all(p.grad is None for p in [*fitted.teacher.parameters(), *fitted.extractor.parameters()])
    fitted.zero_grad(set_to_none=True)


def test_the_backbone_is_left_alone(tiny):
    detector = AST(**SMALL)
    before = {name: value.clone() for name, value in detector.extractor.state_dict().items()}
    detector.fit(tiny.train)
    assert all(torch.equal(before[name], value) for name, value in detector.extractor.state_dict().items())
    assert not detector.student.training and not detector.teacher.training


def test_the_teacher_runs_away_from_what_it_does_not_know(fitted):
    """Bijective and trained to put normal features at N(0, I): others land far from 0."""
    maps = torch.randn(2, fitted.channels, 4, 4, generator=torch.Generator().manual_seed(0)) * 50
    with torch.no_grad():
        assert fitted.teacher(maps, code_map(maps, 32))[0].square().mean() > 10


def test_an_unknown_image_score_is_refused():
    with pytest.raises(DataError, match=r"image_score='median'.*'max' or 'mean'"):
        AST(image_score="median")
