"""Run code as if on CUDA, on a machine without: shapes, types and devices are followed, nothing is computed.

A tensor made on the wrong device raises here as it would on a GPU. Values do not exist, so code that reads
them (`.item()`, `x[x > 0]`) raises too. Backward does not work.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from adlearn.detector import Detector, Prediction

Module = TypeVar("Module", bound=nn.Module)


@contextmanager
def fake_mode() -> Iterator[None]:
    # Tensors the code under test brings along are taken for what they are: tensors on the CPU.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        yield


def to_fake_cuda(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(tensor, device="cuda")


def move(module: Module) -> Module:
    """Put parameters and buffers, and nothing else, on fake CUDA: what `.to("cuda")` does."""
    return module._apply(to_fake_cuda)


def move_batch(batch: Any) -> Any:
    """The same for a tensor, a tuple, list or dict of tensors, or a dataclass such as `Batch`."""
    if dataclasses.is_dataclass(batch):
        fields = {f.name: move_batch(getattr(batch, f.name)) for f in dataclasses.fields(batch)}
        return dataclasses.replace(batch, **fields)
    return tree_map_only(torch.Tensor, to_fake_cuda, batch)


def fake_cuda_predict(detector: Detector, images: torch.Tensor) -> Prediction:
    """`predict` of a detector fitted on the CPU, as on CUDA; asserts that the answer is on CUDA."""
    copied = copy.deepcopy(detector)
    with fake_mode():
        found = move(copied).predict(to_fake_cuda(images))
    for values in (found.score, found.map):
        assert values is None or values.device.type == "cuda", f"the answer is on {values.device}"
    return found


def fake_cuda_loss(
    module_factory: Callable[[], Module],
    loss: Callable[[Module, Any], torch.Tensor],
    batch_factory: Callable[[], Any],
    batch_on_cpu: bool = False,
) -> None:
    """`loss(module, batch)` as on CUDA, forward only; asserts that it gives one number there.

    Module and batch are made on the CPU and moved, unless the loss moves the batch itself (`batch_on_cpu`).
    """
    module, batch = module_factory(), batch_factory()
    with fake_mode():
        value = loss(move(module), batch if batch_on_cpu else move_batch(batch))
    assert value.shape == () and value.device.type == "cuda", f"the loss is {value}"
