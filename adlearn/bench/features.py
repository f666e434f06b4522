"""Frozen features: our trunk against timm's plain one, and 200 ELPV images from disk against a naive loop."""

from collections.abc import Sequence

import timm
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import functional

from ..data.base import AnomalyDataset
from ..data.elpv import elpv
from ..features import FeatureExtractor, Features
from ..weights import DEFAULT_BACKBONE, packaged_state
from . import Row, benchmark, seconds

_STAGES = (2, 3)
_SIZE = 224
_BATCH = 16
_IMAGES = 200
_REPEATS = 10


def plain_trunk() -> nn.Module:
    """The backbone as `timm.create_model(features_only=True)` gives it: every stage, NCHW memory."""
    trunk = timm.create_model(DEFAULT_BACKBONE, features_only=True).eval()
    state = packaged_state()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    return trunk


@torch.inference_mode()
def plain_features(
    trunk: nn.Module, images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> list[torch.Tensor]:
    """The maps of strides 8 and 16 of images (B, 3, H, W), all in one batch."""
    maps = trunk((images - mean) / std)
    return [maps[stage] for stage in _STAGES]


def naive_features(
    trunk: nn.Module, dataset: AnomalyDataset, extractor: FeatureExtractor
) -> list[torch.Tensor]:
    """Read with PIL, resize, and run the plain trunk, one image at a time."""
    rows = []
    for sample in dataset.samples:
        image = Image.open(sample.path).convert("RGB").resize((_SIZE, _SIZE), Image.Resampling.BILINEAR)
        rows.append(plain_features(trunk, functional.to_tensor(image)[None], extractor.mean, extractor.std))
    return [torch.cat(maps) for maps in zip(*rows, strict=True)]


@benchmark("features")
def features() -> list[Row]:
    """The notes give the largest difference, relative to the largest value."""
    extractor, trunk = FeatureExtractor(), plain_trunk()
    dataset = elpv("mono", _SIZE).train.take(_IMAGES)
    images = dataset.take(_BATCH).images()

    def ours() -> Features:
        with torch.inference_mode():
            return extractor(images)

    def plain() -> list[torch.Tensor]:
        return plain_features(trunk, images, extractor.mean, extractor.std)

    def extract() -> Features:
        return extractor.extract(dataset, cache=False)

    def naive() -> list[torch.Tensor]:
        return naive_features(trunk, dataset, extractor)

    computed = seconds(extract, repeats=1)
    cached = seconds(lambda: extractor.extract(dataset))
    return [
        Row(
            "trunk, per image",
            seconds(ours, _REPEATS) / _BATCH,
            f"timm's, batches of {_BATCH}",
            seconds(plain, _REPEATS) / _BATCH,
            _difference(ours(), plain()),
        ),
        Row(
            f"{_IMAGES} images from disk",
            computed,
            "PIL and timm, one by one",
            seconds(naive, repeats=1),
            _difference(extract(), naive()),
        ),
        Row(f"{_IMAGES} images, cached", cached, "computed", computed),
    ]


def _difference(ours: Features, theirs: Sequence[torch.Tensor]) -> str:
    pairs = zip(ours.values(), theirs, strict=True)
    return f"differ by {max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs):.0e}"
