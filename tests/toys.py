"""Two honest detectors, and ones that each break one rule of the contract."""

import torch
from torch import nn

from adlearn.data.base import AnomalyDataset
from adlearn.detector import Detector, FeatureDetector, Prediction
from adlearn.features import Features, aggregate


class ToyPixels(Detector):
    """Distance of each pixel to the training images' mean colour."""

    def __init__(self, scale: float = 1.0):
        super().__init__(scale=scale)
        self.scale = scale
        self.register_buffer("mean", torch.empty(0))

    def fit(self, dataset: AnomalyDataset) -> "ToyPixels":
        self.mean = dataset.images().mean(dim=(0, 2, 3)).view(1, 3, 1, 1)
        return self

    def predict(self, images: torch.Tensor) -> Prediction:
        self.check(images)
        maps = self.scale * (images - self.mean).abs().mean(dim=1)
        return Prediction(maps.amax(dim=(1, 2)), maps)


class ToyFeatures(FeatureDetector):
    """Distance of each position's feature vector to the nearest of a few training ones."""

    def __init__(self, backbone: str = "tf_efficientnet_lite0", layers: tuple[int | str, ...] = (4, 8)):
        super().__init__(backbone, layers)
        self.register_buffer("memory", torch.empty(0, 0))

    def fit_features(self, features: Features) -> "ToyFeatures":
        maps = aggregate(features)
        self.memory = maps.permute(0, 2, 3, 1).flatten(0, 2)[::7].contiguous()
        return self

    def score_features(self, features: Features, size: tuple[int, int]) -> Prediction:
        maps = aggregate(features)
        rows = maps.permute(0, 2, 3, 1).flatten(1, 2)
        distance = torch.cdist(rows, self.memory).amin(dim=2).view(len(maps), 1, *maps.shape[-2:])
        up = nn.functional.interpolate(distance, size=size, mode="bilinear", align_corners=False)[:, 0]
        return Prediction(distance.amax(dim=(1, 2, 3)), up)


class NormalisesByBatch(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(found.score - found.score.mean(), found.map)


class DrawsWithoutSeed(ToyPixels):
    def fit(self, dataset: AnomalyDataset) -> "DrawsWithoutSeed":
        super().fit(dataset)
        noise = torch.rand(self.mean.shape, generator=_UNSEEDED)
        self.mean = self.mean + 0.01 * noise
        return self


class DrawsInPredict(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        return super().predict(images + 0.01 * torch.rand_like(images))


class ForgetsState(ToyPixels):
    """What it learned is no buffer, so `save` leaves it out."""

    def fit(self, dataset: AnomalyDataset) -> "ForgetsState":
        super().fit(dataset)
        self.learned = self.mean.clone()
        return self

    def predict(self, images: torch.Tensor) -> Prediction:
        offset = getattr(self, "learned", torch.zeros(1))
        found = super().predict(images)
        return Prediction(found.score + offset.sum(), found.map)


class ForgetsArguments(ToyPixels):
    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale


class ScoresUnfitted(ToyPixels):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale)
        self.mean = torch.zeros(1, 3, 1, 1)


class TakesAnything(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        self.require_fitted()
        maps = (images.float() - self.mean).abs().mean(dim=1).nan_to_num()
        return Prediction(maps.amax(dim=(1, 2)), maps)


class DividesBySpread(ToyPixels):
    """NaN when the training images do not vary."""

    def fit(self, dataset: AnomalyDataset) -> "DividesBySpread":
        images = dataset.images()
        self.mean = images.mean(dim=(0, 2, 3)).view(1, 3, 1, 1) / images.std(
            dim=0, correction=0
        ).amax().clamp(max=1)
        return self


class SmallMaps(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(found.score, found.map[:, ::2, ::2])


class LooksTheOtherWay(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(-found.score, -found.map)


class ReturnsNothing(ToyPixels):
    def fit(self, dataset: AnomalyDataset) -> None:
        super().fit(dataset)


class KeepsGradients(ToyPixels):
    def __init__(self, scale: float = 1.0):
        super().__init__(scale)
        self.gain = nn.Parameter(torch.ones(()))

    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(found.score * self.gain, found.map)


class OwnDatasetScores(ToyPixels):
    def predict_dataset(self, dataset: AnomalyDataset, batch_size: int = 16) -> Prediction:
        found = super().predict_dataset(dataset, batch_size)
        return Prediction(found.score.flip(0), found.map)


class WritesToImages(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        images.sub_(0.1)
        return found


class SharesItsMean(ToyPixels):
    """Writes into a tensor that all instances share."""

    shared = torch.zeros(1, 3, 1, 1)

    def fit(self, dataset: AnomalyDataset) -> "SharesItsMean":
        super().fit(dataset)
        self.mean = self.shared.copy_(self.mean)
        return self

    def __deepcopy__(self, memo: dict) -> "SharesItsMean":
        other = type(self)(self.scale)
        other.mean = self.mean
        return other


class CpuTensorInPredict(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(found.score, found.map * torch.ones(found.map.shape))


class PlainAttribute(ToyPixels):
    """Its weights are in an attribute that `.to(device)` does not see."""

    def __init__(self, scale: float = 1.0):
        super().__init__(scale)
        self.weights = torch.ones(1, 3, 1, 1)

    def predict(self, images: torch.Tensor) -> Prediction:
        return super().predict(images * self.weights)


class GoesThroughNumpy(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        found = super().predict(images)
        return Prediction(torch.from_numpy(found.score.numpy()), found.map)


class AnswersOnCpu(ToyPixels):
    def predict(self, images: torch.Tensor) -> Prediction:
        return super().predict(images).cpu()


_UNSEEDED = torch.Generator().manual_seed(0)
