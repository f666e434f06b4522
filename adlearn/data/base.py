"""What every dataset looks like to a detector: samples on disk, read as tensors when asked for."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch.utils.data import Dataset

from ..errors import DataError
from .images import load_image, load_mask

Size = int | tuple[int, int] | None


@dataclass(frozen=True)
class Sample:
    """One image file with what is known about it.

    `label` is 1 for anomalous, 0 for normal. `kind` names the defect type ("good" for normal images).
    `masks` holds the mask files: none for normal images, several where a dataset draws each defect apart
    (their union is the mask).
    """

    path: Path
    label: int
    kind: str = "good"
    masks: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Item:
    """One sample read: `image` (3, H, W) float in [0, 1], `mask` (H, W) bool, `label` 1 = anomalous."""

    image: torch.Tensor
    label: int
    mask: torch.Tensor
    kind: str
    path: Path


@dataclass(frozen=True)
class Batch:
    """Items stacked: `images` (B, 3, H, W), `labels` (B,), `masks` (B, H, W) bool, `indices` (B,)."""

    images: torch.Tensor
    labels: torch.Tensor
    masks: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.images)


class AnomalyDataset(Dataset):
    """A named sequence of samples, read at one size.

    `size` is the side of the square (or the (height, width)) every image is resized to; None keeps each
    image's own size. `has_masks` says whether anomalous samples carry pixel masks. `transform` is applied to
    each image tensor (training augmentation only).
    """

    def __init__(
        self,
        name: str,
        samples: Sequence[Sample],
        size: Size = 224,
        has_masks: bool = False,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ):
        if len(samples) == 0:
            raise DataError(f"{name}: no images; check the folder and the split you asked for")
        self.name, self.samples, self.size = name, tuple(samples), size
        self.has_masks, self.transform = has_masks, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        return self._transformed(self._read(index))

    def _read(self, index: int) -> Item:
        sample = self.samples[index]
        image = load_image(sample.path, self.size)
        mask = load_mask(sample.masks, sample.path, self.size)
        if mask is None:
            mask = torch.zeros(image.shape[-2:], dtype=torch.bool)
        return Item(image, sample.label, mask, sample.kind, sample.path)

    def _transformed(self, item: Item) -> Item:
        return item if self.transform is None else replace(item, image=self.transform(item.image))

    @property
    def labels(self) -> torch.Tensor:
        """(N,) long, 1 = anomalous."""
        return torch.tensor([s.label for s in self.samples])

    @property
    def kinds(self) -> list[str]:
        """The defect type of each sample ("good" for normal ones)."""
        return [s.kind for s in self.samples]

    def select(self, indices: Sequence[int]) -> "AnomalyDataset":
        """The samples at `indices`, in that order, read the same way."""
        chosen = [self.samples[i] for i in indices]
        return AnomalyDataset(self.name, chosen, self.size, self.has_masks, self.transform)

    def take(self, count: int) -> "AnomalyDataset":
        """The first `count` samples (all of them if there are fewer)."""
        return self.select(range(min(count, len(self))))

    def where(self, keep: Callable[[Sample], bool]) -> "AnomalyDataset":
        """The samples for which `keep(sample)` is true."""
        return self.select([i for i, s in enumerate(self.samples) if keep(s)])

    def resized(self, size: Size) -> "AnomalyDataset":
        """The same samples read at another size."""
        return AnomalyDataset(self.name, self.samples, size, self.has_masks, self.transform)

    def batches(
        self, batch_size: int = 16, shuffle: bool = False, generator: torch.Generator | None = None
    ) -> Iterator[Batch]:
        """Read in order (or shuffled by `generator`), decoding on threads while the last batch is used."""
        order = torch.randperm(len(self), generator=generator).tolist() if shuffle else list(range(len(self)))
        chunks = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            pending = [pool.submit(self._read, i) for i in chunks[0]]
            for number, chunk in enumerate(chunks):
                following = chunks[number + 1] if number + 1 < len(chunks) else []
                ahead = [pool.submit(self._read, i) for i in following]
                # Random transforms run here, not on the threads, so that a seed repeats them.
                yield collate([self._transformed(p.result()) for p in pending], chunk)
                pending = ahead

    def images(self) -> torch.Tensor:
        """All images at once, (N, 3, H, W); for small sets."""
        return torch.cat([b.images for b in self.batches()])

    def masks(self) -> torch.Tensor:
        """All masks at once, (N, H, W) bool."""
        return torch.cat([b.masks for b in self.batches()])


def collate(items: Sequence[Item], indices: Sequence[int]) -> Batch:
    """Stack items into a `Batch`; images of different sizes are refused with the name of the odd one."""
    first = items[0]
    for item in items:
        if item.image.shape != first.image.shape:
            raise DataError(
                f"{item.path} is {tuple(item.image.shape[-2:])}, {first.path} is "
                f"{tuple(first.image.shape[-2:])}: pass size= to read them at one size"
            )
    return Batch(
        torch.stack([i.image for i in items]),
        torch.tensor([i.label for i in items]),
        torch.stack([i.mask for i in items]),
        torch.tensor(list(indices)),
    )


@dataclass(frozen=True)
class Benchmark:
    """One product or cell type, split: `train` and `validation` hold normal images only, `test` both.

    `extra` holds sets some datasets have besides (ELPV's "uncertain" cells, a logical test set).
    """

    name: str
    train: AnomalyDataset
    validation: AnomalyDataset
    test: AnomalyDataset
    extra: dict[str, AnomalyDataset] = field(default_factory=dict)

    def __str__(self) -> str:
        bad = int(self.test.labels.sum())
        return (
            f"{self.name}: {len(self.train)} train, {len(self.validation)} validation (normal), "
            f"test {len(self.test) - bad} normal + {bad} anomalous"
        )
