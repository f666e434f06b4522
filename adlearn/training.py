"""The one training loop: device, autocast, progress, seed, restart."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .data.base import AnomalyDataset, Batch
from .errors import DataError
from .files import write_torch
from .runtime import dry_run, progress

Batches = Callable[[torch.Generator], Iterable[Any]]
_DRY_BATCHES = 2


class TrainingError(RuntimeError):
    """The loss is not a number any more."""


@dataclass(frozen=True)
class Player:
    """A module, the loss of a batch it goes down, and how; `clip` limits the gradient's norm."""

    module: nn.Module
    loss: Callable[[Any], torch.Tensor]
    optimizer: torch.optim.Optimizer
    clip: float | None = None


def train(
    module: nn.Module,
    loss: Callable[[Any], torch.Tensor],
    batches: Batches,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    clip: float | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    desc: str = "training",
) -> list[float]:
    """Minimise `loss(batch)` over `batches(generator)` and return the mean loss of each epoch.

    `scheduler` steps once per epoch; `clip` limits the gradient's norm. Epoch e sees the same order and the
    same noise in every run with the same `seed`. With `checkpoint`, the state is written after each epoch and
    a later call with the same arguments goes on from there, to the same result; the file stays for the
    caller to delete. Raises `TrainingError`, naming epoch and batch, when the loss is not finite.
    """
    device = next(module.parameters()).device
    player = Player(module, loss, optimizer, clip)
    history: list[float] = []
    if checkpoint is not None and Path(checkpoint).exists():
        history = _restore(Path(checkpoint), module, optimizer, scheduler, device)
    module.train()
    total = 1 if dry_run() else epochs
    with progress(total=total, initial=len(history), desc=desc, unit="epoch") as bar:
        for epoch in range(len(history), total):
            history += _epoch([player], batches, seed, epoch, device)
            if scheduler is not None:
                scheduler.step()
            if checkpoint is not None and not dry_run():
                _save(Path(checkpoint), module, optimizer, scheduler, history)
            bar.set_postfix(loss=f"{history[-1]:.4g}")
            bar.update()
    module.eval()
    return history


def descend(
    module: nn.Module,
    loss: Callable[[Any], torch.Tensor],
    batches: Batches,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float = 1e-5,
    **options: Any,
) -> torch.Tensor:
    """`train` with Adam, gradients clipped at norm 1 and a learning rate that falls to 0 along a cosine.

    `options` go to `train`. Returns the loss of each epoch (epochs,), on the module's device.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    # Fused: a network of 200 small tensors would spend a tenth of a step in Adam's loop.
    optimizer = torch.optim.Adam(trained, lr=learning_rate, weight_decay=weight_decay, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    options = {"clip": 1.0, **options}
    history = train(module, loss, batches, epochs=epochs, optimizer=optimizer, scheduler=scheduler, **options)
    return torch.tensor(history, device=next(module.parameters()).device)


def compete(
    players: Sequence[Player], batches: Batches, *, epochs: int, seed: int = 0, desc: str = "training"
) -> torch.Tensor:
    """Adversarial training: on every batch each player in turn makes one step down its own loss.

    A step changes the player's own module only; the others' parameters need no gradient meanwhile. Returns
    the mean losses (epochs, players), on the first player's device. Raises `TrainingError` as `train` does.
    """
    modules = nn.ModuleList(player.module for player in players)
    device = next(modules.parameters()).device
    history: list[list[float]] = []
    modules.train()
    total = 1 if dry_run() else epochs
    with progress(total=total, desc=desc, unit="epoch") as bar:
        for epoch in range(total):
            history.append(_epoch(players, batches, seed, epoch, device))
            bar.set_postfix(loss=" ".join(f"{value:.4g}" for value in history[-1]))
            bar.update()
    modules.requires_grad_(True).eval()
    return torch.tensor(history, device=device)


def _epoch(
    players: Sequence[Player], batches: Batches, seed: int, epoch: int, device: torch.device
) -> list[float]:
    """One pass; for each player the mean loss over its batches."""
    losses = []
    # Noise drawn inside `loss` comes from the global generators: seed them per epoch, and give them back.
    with torch.random.fork_rng(devices=_rng_devices(device), device_type=_rng_type(device)):
        torch.manual_seed(seed * 100_003 + epoch)
        for number, batch in enumerate(batches(torch.Generator().manual_seed(torch.initial_seed()))):
            if dry_run() and number == _DRY_BATCHES:
                break
            losses.append([_turn(player, players, batch, device) for player in players])
            for value in losses[-1]:
                if not math.isfinite(value):
                    raise TrainingError(
                        f"the loss is {value} in epoch {epoch + 1}, batch {number + 1}: "
                        "lower the learning rate, clip gradients (clip=1.0), or look for log/0 in the loss"
                    )
    if not losses:
        raise DataError("the training set yields no batch: fewer images than the batch size?")
    return [sum(values) / len(losses) for values in zip(*losses, strict=True)]


def _turn(player: Player, players: Sequence[Player], batch: Any, device: torch.device) -> float:
    """A step of `player`; alone, it keeps what its module has frozen."""
    if len(players) > 1:
        for other in players:
            other.module.requires_grad_(other is player)
    return _step(player, batch, device)


def _step(player: Player, batch: Any, device: torch.device) -> float:
    player.optimizer.zero_grad(set_to_none=True)
    # bfloat16 has float32's range, so no gradient scaler; CPUs and MPS stay in float32, to be reproducible.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        value = player.loss(batch)
    found = value.item()
    # A step along NaN would lose the weights, too.
    if math.isfinite(found):
        value.backward()
        if player.clip is not None:
            nn.utils.clip_grad_norm_(player.module.parameters(), player.clip)
        player.optimizer.step()
    return found


def seeded(seed: int, build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` makes, its first weights drawn from `seed`; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def image_batches(dataset: AnomalyDataset, batch_size: int) -> Batches:
    """Shuffled image batches, read from disk each epoch."""

    def batches(generator: torch.Generator) -> Iterator[Batch]:
        return dataset.batches(batch_size, shuffle=True, generator=generator)

    return batches


def tensor_batches(*tensors: torch.Tensor, batch_size: int) -> Batches:
    """Shuffled tuples of rows of tensors of equal length, held in memory (features, say)."""
    if len({len(t) for t in tensors}) != 1:
        raise DataError(f"tensors of different lengths: {[len(t) for t in tensors]}")

    def batches(generator: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
        order = torch.randperm(len(tensors[0]), generator=generator)
        for rows in order.split(batch_size):
            yield tuple(t[rows.to(t.device)] for t in tensors)

    return batches


def _rng_type(device: torch.device) -> str:
    return device.type if device.type in ("cuda", "mps") else "cuda"


def _rng_devices(device: torch.device) -> list[int]:
    return [device.index or 0] if device.type in ("cuda", "mps") else []


def _parts(module: nn.Module, optimizer: Any, scheduler: Any) -> dict[str, Any]:
    parts = {"module": module, "optimizer": optimizer, "scheduler": scheduler}
    return {name: part for name, part in parts.items() if part is not None}


def _save(path: Path, module: nn.Module, optimizer: Any, scheduler: Any, history: list[float]) -> None:
    state = {name: part.state_dict() for name, part in _parts(module, optimizer, scheduler).items()}
    write_torch(path, {**state, "history": history})


def _restore(
    path: Path, module: nn.Module, optimizer: Any, scheduler: Any, device: torch.device
) -> list[float]:
    parts = _parts(module, optimizer, scheduler)
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
    except Exception as error:
        raise DataError(f"cannot go on from {path}: {error}; delete it to start again") from error
    return list(state["history"])
