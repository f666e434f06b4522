"""What every flow of notebook 04 is made of: invertible blocks, their log-determinants, and the training."""

import math

import contract
import pytest
import torch
from detectors import Case, Small
from fake_cuda import fake_cuda_loss, fake_cuda_predict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import nn
from torch.autograd.functional import jacobian

from adlearn import training
from adlearn.detector import Prediction
from adlearn.errors import DataError
from adlearn.features import pooled
from adlearn.methods.normalizing_flow import (
    ActNorm,
    AffineCoupling,
    Flow,
    FlowDetector,
    Permutation,
    clamped,
    log_likelihood,
    mlp_subnet,
    zeroed,
)
from adlearn.weights import DEFAULT_BACKBONE

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}


def conv_subnet(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, outputs, 3, padding=1))


class Conditioned(nn.Module):
    """A subnet that reads a condition beside x1."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs + 2, 6), nn.ReLU(), nn.Linear(6, outputs))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([x, condition], dim=1))


def shaken(module: nn.Module, seed: int = 0, scale: float = 0.25) -> nn.Module:
    """Random weights everywhere: nothing can be tested on an identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=scale, generator=generator)
    return module.eval()


def vector_flow(channels: int, couplings: int = 3, hidden: int = 6) -> Flow:
    steps = [(Permutation(channels), AffineCoupling(channels, mlp_subnet(hidden))) for _ in range(couplings)]
    return Flow(ActNorm(channels), *[layer for step in steps for layer in step])


def grid_flow(channels: int) -> Flow:
    return Flow(ActNorm(channels), AffineCoupling(channels, conv_subnet), Permutation(channels),
                AffineCoupling(channels, conv_subnet))  # fmt: skip


VECTORS = {
    "actnorm": ActNorm,
    "coupling": lambda channels: AffineCoupling(channels, mlp_subnet(6)),
    "permutation": Permutation,
    "flow": vector_flow,
}
GRIDS = {
    "actnorm": ActNorm,
    "coupling": lambda channels: AffineCoupling(channels, conv_subnet),
    "permutation": Permutation,
    "flow": grid_flow,
}
CASES = [
    pytest.param(build, (channels, *size), id=f"{name}-{channels}{'x'.join(map(str, size)) and 'x3x4'}")
    for blocks, size in ((VECTORS, ()), (GRIDS, (3, 4)))
    for name, build in blocks.items()
    for channels in (2, 3, 5, 6)
]


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("build", "shape"), CASES)
def test_inverse_undoes_forward_and_forward_undoes_inverse(build, shape, dtype):
    torch.manual_seed(0)
    block, x = shaken(build(shape[0])).to(dtype), noise(8, *shape, dtype=dtype)
    z, _ = block(x)
    assert z.shape == x.shape and z.dtype == dtype
    assert isinstance(block, Permutation) or not torch.allclose(z, x, atol=0.1), "an identity tests nothing"
    torch.testing.assert_close(block.inverse(z), x, rtol=0, atol=TOLERANCE[dtype])
    torch.testing.assert_close(block(block.inverse(x))[0], x, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("build", "shape"), CASES)
def test_log_determinant_is_that_of_the_full_jacobian(build, shape):
    block, x = shaken(build(shape[0])).double(), noise(1, *shape)
    _, change = block(x)
    size = x.numel()
    matrix = jacobian(lambda values: block(values)[0], x).reshape(size, size)
    per_position = change.expand(1, *shape[1:])
    torch.testing.assert_close(per_position.sum(), matrix.slogdet().logabsdet, rtol=0, atol=1e-9)


def test_log_determinants_are_split_over_positions():
    flow, x = shaken(grid_flow(5)).double(), noise(2, 5, 3, 4)
    z, log_det = flow(x)
    assert log_det.shape == (2, 3, 4) and log_likelihood(z, log_det).shape == (2, 3, 4)
    # Two couplings of two 3 x 3 convolutions each see four positions far.
    wide, wide_moved = torch.zeros(1, 5, 3, 12).double(), torch.zeros(1, 5, 3, 12).double()
    wide_moved[..., 11] = 1
    changed = (flow(wide)[1] - flow(wide_moved)[1]).abs()[0].amax(dim=0)
    assert (changed[:3] == 0).all() and changed[11] > 0


def test_a_coupling_with_a_condition():
    coupling, x = shaken(AffineCoupling(5, Conditioned)).double(), noise(7, 5)
    condition, other = noise(7, 2, seed=2), noise(7, 2, seed=3)
    flow = Flow(shaken(ActNorm(5)).double(), Permutation(5), coupling)
    z, log_det = flow(x, condition)
    torch.testing.assert_close(flow.inverse(z, condition), x, rtol=0, atol=1e-9)
    assert not torch.allclose(flow.inverse(z, other), x)
    matrix = jacobian(lambda row: flow(row, condition[:1])[0], x[:1])[0, :, 0]
    torch.testing.assert_close(log_det[0], matrix.slogdet().logabsdet, rtol=0, atol=1e-9)


def test_a_coupling_follows_equations_4_and_5():
    coupling, x = shaken(AffineCoupling(5, mlp_subnet(6), clamp=1.5)).double(), noise(4, 5)
    z, log_det = coupling(x)
    raw, shift = coupling.subnet(x[:, :3]).chunk(2, dim=1)
    s = 1.5 * torch.tanh(raw / 1.5)
    assert torch.equal(z[:, :3], x[:, :3])
    torch.testing.assert_close(z[:, 3:], x[:, 3:] * s.exp() + shift)
    torch.testing.assert_close(log_det, s.sum(dim=1))


@pytest.mark.parametrize("channels", [2, 3, 7])
def test_parts_of_odd_channel_counts(channels):
    coupling = AffineCoupling(channels, mlp_subnet(4))
    assert coupling.parts == [math.ceil(channels / 2), channels // 2]


@pytest.mark.parametrize("channels", [0, 1])
def test_a_coupling_needs_something_to_read_and_something_to_change(channels):
    with pytest.raises(DataError, match="at least 2 channels"):
        AffineCoupling(channels, mlp_subnet(4))


@pytest.mark.parametrize("build", [VECTORS["coupling"], lambda c: Flow(*[VECTORS["coupling"](c)] * 2)])
def test_couplings_start_as_the_identity(build):
    x = noise(5, 6, dtype=torch.float32)
    z, log_det = build(6)(x)
    assert torch.equal(z, x) and (log_det == 0).all()


def test_zeroed_returns_the_layer_without_weights():
    layer = nn.Linear(3, 2)
    assert zeroed(layer) is layer and all((p == 0).all() for p in layer.parameters())


@given(raw=st.floats(-1e30, 1e30), limit=st.floats(0.01, 20))
def test_clamped_stays_inside_and_keeps_sign_and_order(raw, limit):
    values = torch.tensor([raw, raw / 2, 0.0], dtype=torch.float64)
    found = clamped(values, limit)
    assert (found.abs() <= limit).all() and found[2] == 0
    assert (found.sign() * values.sign() >= 0).all()
    assert found[0].abs() >= found[1].abs() and found[0].abs() <= abs(raw) * (1 + 1e-9)


@pytest.mark.parametrize("limit", [0.3, 2.0, 1e6])
def test_clamped_has_slope_one_at_zero(limit):
    zero = torch.zeros(1, dtype=torch.float64)
    assert jacobian(lambda raw: clamped(raw, limit), zero).item() == pytest.approx(1)


def test_scales_never_leave_the_clamp():
    coupling = shaken(AffineCoupling(6, mlp_subnet(8), clamp=0.7), scale=50.0)
    log_scale, _ = coupling.affine(100 * noise(500, 3, dtype=torch.float32))
    assert log_scale.abs().max() <= 0.7 and log_scale.abs().max() > 0.69
    _, log_det = coupling(100 * noise(500, 6, dtype=torch.float32))
    assert log_det.abs().max() <= 3 * 0.7 + 1e-5


@pytest.mark.parametrize("channels", [1, 2, 5, 16])
def test_a_permutation_renames_channels_only(channels):
    torch.manual_seed(1)
    layer, x = Permutation(channels), noise(3, channels, 2, 2)
    z, change = layer(x)
    assert sorted(layer.order.tolist()) == list(range(channels)) and change == 0
    assert torch.equal(z.sum(dim=1).round(decimals=9), x.sum(dim=1).round(decimals=9))
    assert torch.equal(layer.inverse(z), x)
    other = Permutation(channels)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x)[0], z), "the order is part of what is saved"


def test_a_permutation_takes_a_given_order():
    layer = Permutation(3, torch.tensor([2, 0, 1]))
    assert layer(torch.tensor([[10.0, 11.0, 12.0]]))[0].tolist() == [[12.0, 10.0, 11.0]]


@pytest.mark.parametrize("shape", [(50, 4), (20, 4, 3, 5)])
def test_actnorm_standardises_the_first_batch_only(shape):
    layer, x = ActNorm(4), 5 + 3 * noise(*shape, dtype=torch.float32)
    before, _ = layer.eval()(x)
    assert torch.equal(before, x), "nothing happens in evaluation mode"
    z, _ = layer.train()(x)
    rows = z.transpose(0, 1).flatten(1)
    torch.testing.assert_close(rows.mean(dim=1), torch.zeros(4), rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.std(dim=1, correction=0), torch.ones(4))
    learnt = layer.log_scale.detach().clone()
    layer(10 * x)
    assert torch.equal(layer.log_scale, learnt)


def test_actnorm_saves_that_it_is_ready():
    layer, x = ActNorm(3), 5 + noise(10, 3, dtype=torch.float32)
    layer.train()(x)
    other = ActNorm(3)
    other.load_state_dict(layer.state_dict())
    assert other.ready
    assert torch.equal(other.train()(10 * x)[0], layer(10 * x)[0]), "a loaded one doesn't start again"


@pytest.mark.parametrize("x", [torch.full((6, 2), 7.0), torch.tensor([[1.0, 2.0]])])
def test_actnorm_of_constant_channels_is_finite(x):
    z, change = ActNorm(2).train()(x)
    assert torch.isfinite(change) and (z.abs() < 1e-3).all()


def test_log_likelihood_of_the_identity_is_a_gaussian():
    x = noise(20, 5)
    found = log_likelihood(x, torch.zeros(20).double())
    torch.testing.assert_close(found, torch.tensor(multivariate_normal(torch.zeros(5)).logpdf(x)))


def test_a_linear_flow_is_a_gaussian():
    flow, x = Flow(shaken(ActNorm(3)), Permutation(3), shaken(ActNorm(3), seed=1)).double(), noise(20, 3)
    matrix = jacobian(lambda row: flow(row)[0], x[:1])[0, :, 0].detach()
    covariance = (matrix.T @ matrix).inverse()
    mean = flow.inverse(torch.zeros(1, 3).double())[0].detach()
    expected = torch.tensor(multivariate_normal(mean, covariance).logpdf(x))
    torch.testing.assert_close(log_likelihood(*flow(x)).detach(), expected)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**20), couplings=st.integers(1, 4), clamp=st.floats(0.2, 1.5))
def test_the_density_integrates_to_one(seed, couplings, clamp):
    torch.manual_seed(seed)
    layers = [layer for _ in range(couplings)
              for layer in (Permutation(2), AffineCoupling(2, mlp_subnet(8), clamp))]  # fmt: skip
    flow = shaken(Flow(ActNorm(2), *layers), seed, scale=0.3).double()
    # A grid over the image of a square of latents that holds all but 1e-8 of the mass.
    edge = torch.linspace(-6, 6, 61).double()
    with torch.no_grad():
        reached = flow.inverse(torch.cartesian_prod(edge, edge))
        low, high = reached.amin(dim=0), reached.amax(dim=0)
        axes = [torch.linspace(a, b, 500).double() for a, b in zip(low.tolist(), high.tolist(), strict=True)]
        density = log_likelihood(*flow(torch.cartesian_prod(*axes))).exp()
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    assert density.sum().item() * cell == pytest.approx(1, abs=0.01)


def test_a_bent_cloud_is_fitted_better_than_by_a_gaussian():
    x = noise(400, 2, dtype=torch.float32)
    x[:, 1] = x[:, 1] * 0.2 + x[:, 0].square()
    torch.manual_seed(0)
    flow = vector_flow(2, couplings=6, hidden=16)
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)

    def loss(batch: tuple[torch.Tensor]) -> torch.Tensor:
        return -log_likelihood(*flow(batch[0])).mean()

    history = training.train(
        flow, loss, training.tensor_batches(x, batch_size=100), epochs=30, optimizer=optimizer
    )
    gaussian = torch.distributions.MultivariateNormal(x.mean(dim=0), x.T.cov()).log_prob(x).mean()
    assert history[-1] < -gaussian - 0.3


class PooledFlow(FlowDetector):
    """The smallest `FlowDetector`: pooled features, score = -log p."""

    def __init__(
        self,
        backbone: str = DEFAULT_BACKBONE,
        layers: tuple[int | str, ...] = (8,),
        hidden: int = 16,
        **training_arguments,
    ):
        super().__init__(backbone, layers, hidden=hidden, **training_arguments)

    def build(self) -> nn.Module:
        return vector_flow(sum(self.extractor.channels), couplings=2, hidden=self.hidden)

    def inputs(self, features):
        return (pooled(features),)

    def loss(self, batch):
        return -log_likelihood(*self.flow(batch[0])).mean() / batch[0].shape[1]

    def score_features(self, features, size):
        return Prediction(-log_likelihood(*self.flow(pooled(features))))


@pytest.fixture(scope="module")
def subject(tiny, tmp_path_factory):
    return contract.Subject(
        Case(PooledFlow, Small({"epochs": 3})), tiny, tmp_path_factory.mktemp("pooled_flow")
    )


@pytest.mark.parametrize("promise", contract.CHECKS, ids=lambda check: check.__name__)
def test_a_flow_detector_keeps(promise, subject):
    promise(subject)


def test_a_flow_detector_on_fake_cuda(subject):
    fake_cuda_predict(subject.detector, subject.images)
    detector = subject.detector
    rows = pooled(detector.extractor(subject.images))
    fake_cuda_loss(
        lambda: detector.flow,
        lambda flow, batch: -log_likelihood(*flow(batch[0])).mean(),
        lambda: (rows,),
    )


def test_a_second_fit_starts_again(tiny):
    detector = PooledFlow(epochs=2).fit(tiny.train)
    before, history = detector.predict(tiny.test.images()).score, detector.history
    again = detector.fit(tiny.train)
    assert torch.equal(again.predict(tiny.test.images()).score, before)
    assert torch.equal(again.history, history)


def test_gradients_are_clipped_and_the_rate_falls_to_zero(tiny, monkeypatch):
    seen, train = {}, training.train
    monkeypatch.setattr(
        training, "train", lambda *parts, **options: seen.update(options) or train(*parts, **options)
    )
    PooledFlow(epochs=3, learning_rate=0.01).fit(tiny.train)
    assert seen["clip"] == 1.0 and seen["scheduler"].base_lrs == [0.01]
    assert seen["scheduler"].get_last_lr() == pytest.approx([0.0])


def test_the_seed_of_the_weights_is_the_argument_not_the_global_one(tiny):
    torch.manual_seed(1)
    first = PooledFlow(epochs=1).fit(tiny.train).predict(tiny.test.images()).score
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    second = PooledFlow(epochs=1).fit(tiny.train).predict(tiny.test.images()).score
    assert torch.equal(first, second) and torch.equal(torch.random.get_rng_state(), state)
    other = PooledFlow(epochs=1, seed=3).fit(tiny.train).predict(tiny.test.images()).score
    assert not torch.equal(first, other)


def test_arguments_become_attributes_and_history_the_losses(tiny):
    detector = PooledFlow(hidden=8, epochs=4, batch_size=3, learning_rate=1e-3, seed=5).fit(tiny.train)
    assert (detector.hidden, detector.epochs, detector.batch_size) == (8, 4, 3)
    assert (detector.learning_rate, detector.seed) == (1e-3, 5)
    assert detector.history.shape == (4,) and detector.history[-1] < detector.history[0]
    assert not detector.flow.training, "fit leaves the flow in evaluation mode"


def test_a_loss_that_is_not_a_number_stops_the_training(tiny):
    class Diverges(PooledFlow):
        def loss(self, batch):
            return super().loss(batch) * torch.inf

    with pytest.raises(training.TrainingError, match="epoch 1, batch 1"):
        Diverges(epochs=1).fit(tiny.train)


def test_a_learning_rate_far_too_large_is_told(tiny):
    class Unclamped(PooledFlow):
        def build(self):
            channels = sum(self.extractor.channels)
            steps = [(Permutation(channels), AffineCoupling(channels, mlp_subnet(16), 1e6)) for _ in range(6)]
            return Flow(ActNorm(channels), *[layer for step in steps for layer in step])

    with pytest.raises(training.TrainingError, match="lower the learning rate"):
        Unclamped(epochs=50, learning_rate=10.0).fit(tiny.train)


@pytest.mark.parametrize("method", ["build", "inputs", "loss"])
def test_what_a_subclass_must_give(method):
    if method == "build":
        with pytest.raises(NotImplementedError):
            FlowDetector(DEFAULT_BACKBONE, (8,))
    elif method == "loss":
        with pytest.raises(NotImplementedError):
            FlowDetector.loss(PooledFlow(), ())
    else:
        features = {"a": torch.zeros(2, 3, 4, 4), "b": torch.ones(2, 5, 2, 2)}
        found = FlowDetector.inputs(PooledFlow(), features)
        assert [f.shape for f in found] == [(2, 3, 4, 4), (2, 5, 2, 2)]
