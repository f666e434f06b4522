import pytest
import torch
import toys
from detectors import Case, Small, cases
from fake_cuda import fake_cuda_loss, fake_cuda_predict, move_batch
from torch import nn

HONEST = [Case(toys.ToyPixels, Small()), Case(toys.ToyFeatures, Small())]
BROKEN = {
    toys.CpuTensorInPredict: "found at least two devices",
    toys.PlainAttribute: "found at least two devices",
    toys.GoesThroughNumpy: "numpy",
    toys.AnswersOnCpu: "answer is on cpu",
}


@pytest.mark.parametrize("case", [*HONEST, *cases()], ids=str)
def test_predict_makes_no_tensor_on_the_wrong_device(case, tiny):
    if case.small.no_fake_cuda:
        pytest.skip(case.small.no_fake_cuda)
    images = tiny.test.take(3).images()
    detector = case.fitted(case.training_set(tiny))
    expected, found = detector.predict(images), fake_cuda_predict(detector, images)
    assert found.score.shape == expected.score.shape and found.score.dtype == expected.score.dtype
    assert (found.map is None) == (expected.map is None)
    assert found.map is None or found.map.shape == expected.map.shape
    assert detector.device.type == "cpu", "the original must not be moved"


@pytest.mark.parametrize(("cls", "message"), BROKEN.items(), ids=lambda v: getattr(v, "__name__", ""))
def test_wrong_devices_are_caught(cls, message, tiny):
    detector = Case(cls, Small()).fitted(tiny.train)
    detector.predict(tiny.test.take(2).images())
    with pytest.raises((RuntimeError, AssertionError), match=message):
        fake_cuda_predict(detector, tiny.test.take(2).images())


def squared_error(module, batch):
    inputs, targets = batch
    return (module(inputs) - targets).square().mean()


def with_noise_on_cpu(module, batch):
    return squared_error(module, (batch[0] + torch.randn(batch[0].shape), batch[1]))


def with_noise_on_device(module, batch):
    return squared_error(module, (batch[0] + torch.randn_like(batch[0]), batch[1]))


def moving_the_batch(module, batch):
    return squared_error(module, [tensor.to(module.weight.device) for tensor in batch])


def per_row(module, batch):
    return (module(batch[0]) - batch[1]).square().mean(dim=1)


def layer():
    return nn.Linear(3, 2)


def rows():
    return torch.rand(4, 3), torch.rand(4, 2)


@pytest.mark.parametrize("loss", [squared_error, with_noise_on_device])
def test_loss_on_the_right_device_passes(loss):
    fake_cuda_loss(layer, loss, rows)


def test_loss_may_move_its_batch_itself():
    fake_cuda_loss(layer, moving_the_batch, rows, batch_on_cpu=True)
    with pytest.raises(RuntimeError, match="found at least two devices"):
        fake_cuda_loss(layer, squared_error, rows, batch_on_cpu=True)


def test_loss_with_noise_on_the_cpu_is_caught():
    with pytest.raises(RuntimeError, match="found at least two devices"):
        fake_cuda_loss(layer, with_noise_on_cpu, rows)


def test_loss_that_is_not_one_number_is_caught():
    with pytest.raises(AssertionError, match="the loss is"):
        fake_cuda_loss(layer, per_row, rows)


def test_dataset_batches_can_be_moved(tiny):
    def loss(module, batch):
        assert batch.masks.device == batch.labels.device == batch.images.device
        return module(batch.images.mean(dim=(2, 3))).mean()

    fake_cuda_loss(layer, loss, lambda: next(tiny.train.batches(2)))
    assert move_batch({"a": [1, "b"]}) == {"a": [1, "b"]}
