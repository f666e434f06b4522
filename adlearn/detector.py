"""The two verbs every method has: `fit` on normal images, `predict` on a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from .data.base import AnomalyDataset
from .errors import DataError
from .features import FeatureExtractor, Features
from .files import write_torch
from .runtime import progress


@dataclass(frozen=True)
class Prediction:
    """`score` (B,), larger is more anomalous; `map` (B, H, W) at the images' size, or None."""

    score: torch.Tensor
    map: torch.Tensor | None = None

    def cpu(self) -> "Prediction":
        return Prediction(self.score.cpu(), None if self.map is None else self.map.cpu())

    @staticmethod
    def cat(parts: list["Prediction"]) -> "Prediction":
        """Join the predictions of consecutive batches."""
        maps = [p.map for p in parts if p.map is not None]
        return Prediction(torch.cat([p.score for p in parts]), torch.cat(maps) if maps else None)


class Detector(nn.Module):
    """Base of every method.

    A subclass passes the arguments of its own `__init__` on to this one, keeps what it learns in buffers and
    parameters, and implements `fit` and `predict`. Then `.to(device)`, `state_dict`, `save` and `load` work,
    also for buffers whose size is known only after `fit`: register them empty. An empty buffer means "not
    fitted yet", so a detector that only trains parameters keeps one too (`history`, the loss of each epoch).
    `predict` begins with `self.check(images)`.
    """

    _classes: ClassVar[dict[str, type["Detector"]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Detector._classes[cls.__name__] = cls

    def __init__(self, **config: Any):
        super().__init__()
        self.config = config

    def fit(self, dataset: AnomalyDataset) -> Self:
        """Learn from normal images only."""
        raise NotImplementedError

    def predict(self, images: torch.Tensor) -> Prediction:
        """Score images (B, 3, H, W) in [0, 1], each on its own: no score depends on the rest of the batch."""
        raise NotImplementedError

    def check(self, images: torch.Tensor) -> None:
        """Refuse to score before `fit`, and images that can't be scored (`check_images`): `DataError`."""
        self.require_fitted()
        check_images(images)

    def require_fitted(self) -> None:
        """Raise `DataError` while a buffer that `fit` fills is empty."""
        empty = [name for name, buffer in self.named_buffers() if buffer.numel() == 0]
        if empty:
            raise DataError(f"{type(self).__name__} has not learned {empty[0]} yet: call fit(dataset) first")

    @property
    def device(self) -> torch.device:
        tensors = [*self.parameters(), *self.buffers()]
        return tensors[0].device if tensors else torch.device("cpu")

    @property
    def megabytes(self) -> float:
        """Size of everything `save` writes that is a tensor, in MB (1e6 bytes)."""
        return sum(t.nbytes for t in self.state_dict().values()) / 1e6

    def predict_dataset(self, dataset: AnomalyDataset, batch_size: int = 16) -> Prediction:
        """Score a whole dataset in its order; the result is on the CPU."""
        parts = []
        with progress(total=len(dataset), desc=type(self).__name__, unit="img") as bar:
            for batch in dataset.batches(batch_size):
                parts.append(self.predict(batch.images.to(self.device)).cpu())
                bar.update(len(batch))
        return Prediction.cat(parts)

    def save(self, path: Path | str) -> None:
        """Write class name, arguments and weights to one file (tensors and plain values only, no code)."""
        content = {"class": type(self).__name__, "config": self.config, "state": self.state_dict()}
        write_torch(Path(path), content)

    @staticmethod
    def load(path: Path | str, device: torch.device | str = "cpu") -> "Detector":
        """Read what `save` wrote (import the method's module first); code in the file is never run."""
        try:
            content = torch.load(Path(path), map_location=device, weights_only=True)
            cls, config, state = content["class"], content["config"], content["state"]
        except FileNotFoundError:
            raise DataError(f"{path}: no such file") from None
        except Exception as error:
            raise DataError(f"{path} is not a saved detector, or is damaged: {error}") from error
        if cls not in Detector._classes:
            raise DataError(f"{path} holds a {cls}: import its module from adlearn.methods first")
        detector = Detector._classes[cls](**config).to(device)
        detector.load_state_dict(state)
        return detector.eval()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # What was fitted has the size of the data: make room before PyTorch compares shapes.
        for name, buffer in self._buffers.items():
            stored = state_dict.get(prefix + name)
            if buffer is not None and stored is not None and stored.shape != buffer.shape:
                self._buffers[name] = buffer.new_empty(stored.shape)
        super()._load_from_state_dict(state_dict, prefix, *args)


class FeatureDetector(Detector):
    """A detector on frozen features: `fit` and `predict_dataset` read them from the cache.

    A subclass implements `fit_features` and `score_features` instead of `fit` and `predict`, and passes
    `backbone` and `layers` on with its other arguments.
    """

    def __init__(self, backbone: str, layers: tuple[int | str, ...], **config: Any):
        super().__init__(backbone=backbone, layers=tuple(layers), **config)
        self.extractor = FeatureExtractor(backbone, layers)

    def fit_features(self, features: Features) -> Self:
        """Learn from {layer: (N, C, h, w)} of normal images, on this detector's device."""
        raise NotImplementedError

    def score_features(self, features: Features, size: tuple[int, int]) -> Prediction:
        """Score {layer: (B, C, h, w)} of images that were `size` = (H, W)."""
        raise NotImplementedError

    def fit(self, dataset: AnomalyDataset) -> Self:
        features = self.extractor.extract(dataset)
        return self.fit_features({name: f.to(self.device) for name, f in features.items()})

    @torch.no_grad()
    def predict(self, images: torch.Tensor) -> Prediction:
        self.check(images)
        return self.score_features(self.extractor(images), tuple(images.shape[-2:]))

    @torch.no_grad()
    def predict_dataset(self, dataset: AnomalyDataset, batch_size: int = 16) -> Prediction:
        self.require_fitted()
        if dataset.size is None or dataset.transform is not None:
            return super().predict_dataset(dataset, batch_size)
        features = self.extractor.extract(dataset, batch_size)
        size = (dataset.size, dataset.size) if isinstance(dataset.size, int) else tuple(dataset.size)
        parts = []
        for start in range(0, len(dataset), batch_size):
            part = {n: f[start : start + batch_size].to(self.device) for n, f in features.items()}
            parts.append(self.score_features(part, size).cpu())
        return Prediction.cat(parts)


def check_images(images: torch.Tensor) -> None:
    """Refuse what no detector can score: a wrong shape or type, NaN or infinity. Raises `DataError`."""
    if not isinstance(images, torch.Tensor):
        raise DataError(f"images must be a tensor (B, 3, H, W), got {type(images).__name__}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise DataError(f"images must be (B, 3, H, W), got {tuple(images.shape)}; one image is image[None]")
    if not images.is_floating_point():
        raise DataError(f"images must be float in [0, 1], got {images.dtype}: divide by 255")
    # The device test runs on tensors without values.
    if not isinstance(images, FakeTensor) and not torch.isfinite(images).all():
        raise DataError("images contain NaN or infinity: check how they were read")
