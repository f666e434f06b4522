"""Frozen backbones: layer taps, patch aggregation, and a disk cache of features."""

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import safetensors
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from timm.models import FeatureListNet
from torch import nn

from .data.base import AnomalyDataset
from .errors import DataError
from .files import write_bytes
from .paths import cache_dir
from .runtime import dry_run, progress
from .weights import DEFAULT_BACKBONE, available, known, pretrained

Features = dict[str, torch.Tensor]
# Activations of four images at 224 px stay in a laptop's cache: half the time per image of a batch of 16.
_CPU_CHUNK = 4
# Raise when the same file would give other features: another way to read, resize or normalise.
_VERSION = 1


class FeatureExtractor(nn.Module):
    """A frozen, pretrained timm backbone cut after the last layer asked for.

    `layers` are strides (8: the deepest layer at 1/8 of the input size) or timm's module names ("layer2").
    `forward` maps images (B, 3, H, W) in [0, 1] to {name: (B, C, h, w)}, shallow to deep; with `pool`, to the
    means over all positions, (B, C, 1, 1), whose cache is hundreds of times smaller. Weights never change: no
    gradients, batch norm always in evaluation mode; `differentiable` is the same with gradients with respect
    to the images. Raises `WeightsError` when the backbone's weights can't be had and `DataError` for a layer
    it does not have.
    """

    def __init__(
        self, backbone: str = DEFAULT_BACKBONE, layers: Sequence[int | str] = (8, 16), pool: bool = False
    ):
        super().__init__()
        self.backbone, self.pool = backbone, pool
        self.trunk = _trunk(backbone, layers)
        found = self.trunk.feature_info.get_dicts(keys=["module", "num_chs", "reduction"])
        self.layers = tuple(layer["module"] for layer in found)
        self.channels = tuple(layer["num_chs"] for layer in found)
        self.strides = tuple(layer["reduction"] for layer in found)
        self.trunk.requires_grad_(False).to(memory_format=torch.channels_last)
        cfg = timm.get_pretrained_cfg(backbone)
        self.register_buffer("mean", torch.tensor(cfg.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(cfg.std).view(1, 3, 1, 1))
        self.eval()

    def train(self, mode: bool = True) -> "FeatureExtractor":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> Features:
        return self.differentiable(images)

    def differentiable(self, images: torch.Tensor) -> Features:
        """What `forward` returns, with gradients with respect to `images` where these ask for them."""
        inputs = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        chunks = inputs.split(_CPU_CHUNK if inputs.device.type == "cpu" else len(inputs))
        parts = [self.trunk(chunk) for chunk in chunks]
        if self.pool:
            parts = [[m.mean(dim=(2, 3), keepdim=True) for m in maps] for maps in parts]
        return {name: torch.cat(maps) for name, *maps in zip(self.layers, *parts, strict=True)}

    def fingerprint(self) -> str:
        """Changes whenever a layer's features would: backbone, weights, pooling, normalisation.

        Not with the choice of layers, as long as the deepest one stays: strides (16,) are read from what
        strides (8, 16) have stored.
        """
        name = f"{self.backbone} {_VERSION}{' pooled' if self.pool else ''}"
        digest = hashlib.blake2b(name.encode(), digest_size=12)
        for tensor in self.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def extract(self, dataset: AnomalyDataset, batch_size: int = 16, cache: bool = True) -> Features:
        """Features of every image of `dataset`, {name: (N, C, h, w)} on the CPU, in the dataset's order.

        With `cache`, each image's features are kept under `adlearn.paths.cache_dir()` in a file named by the
        image's content, and read from there next time. A dataset with a random `transform` is never cached.
        """
        store = FeatureStore(self, dataset) if cache and dataset.transform is None else None
        found = [None if store is None else store.read(i) for i in range(len(dataset))]
        missing = [i for i, features in enumerate(found) if features is None]
        if missing:
            for i, features in self._compute(dataset, missing, batch_size):
                found[i] = features
                if store is not None:
                    store.write(i, features)
        return {name: torch.stack([features[name] for features in found]) for name in self.layers}

    def _compute(self, dataset: AnomalyDataset, missing: list[int], batch_size: int):
        device = self.mean.device
        with progress(total=len(missing), desc=f"features of {dataset.name}", unit="img") as bar:
            for batch in dataset.select(missing).batches(batch_size):
                with torch.inference_mode():
                    maps = {name: m.cpu().contiguous() for name, m in self(batch.images.to(device)).items()}
                for row, position in enumerate(batch.indices.tolist()):
                    # A normal tensor out of an inference tensor: later training may differentiate through it.
                    yield missing[position], {name: torch.tensor(m[row].numpy()) for name, m in maps.items()}
                bar.update(len(batch))


class FeatureStore:
    """One safetensors file per image and extractor; written whole or not at all."""

    def __init__(self, extractor: FeatureExtractor, dataset: AnomalyDataset):
        size = "own" if dataset.size is None else str(dataset.size).replace(" ", "")
        self.folder = cache_dir() / "features" / f"{extractor.backbone}-{extractor.fingerprint()}-{size}"
        self.names = extractor.layers
        self.paths = [self.folder / f"{_digest(s.path)}.safetensors" for s in dataset.samples]

    def read(self, index: int) -> Features | None:
        """The stored features of the extractor's layers, or None when one is missing or the file damaged."""
        try:
            with safetensors.safe_open(self.paths[index], "pt") as stored:
                return {name: stored.get_tensor(name) for name in self.names}
        except (OSError, safetensors.SafetensorError):
            return None

    def write(self, index: int, features: Features) -> None:
        write_bytes(self.paths[index], safetensors.torch.save(features))


def aggregate(features: Features, patch_size: int = 1, mode: str = "bilinear") -> torch.Tensor:
    """Bring all layers to the largest one's resolution and stack their channels: (B, sum C, h, w).

    `patch_size` > 1 first averages each position with its neighbourhood (PatchCore, Eq. 2), zeros beyond the
    border included, as in its authors' code; `mode` is the interpolation ("nearest" in PaDiM's code,
    "bilinear" in PatchCore's).
    """
    maps = list(features.values())
    if patch_size > 1:
        half = patch_size // 2
        maps = [F.avg_pool2d(m, patch_size, 1, half) for m in maps]
    size = max((m.shape[-2:] for m in maps), key=lambda hw: hw[0] * hw[1])
    return torch.cat([m if m.shape[-2:] == size else _resize(m, size, mode) for m in maps], dim=1)


def pooled(features: Features) -> torch.Tensor:
    """Global average of every layer, concatenated: (B, sum C)."""
    return torch.cat([m.mean(dim=(2, 3)) for m in features.values()], dim=1)


def _resize(maps: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    corners = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(maps, size=tuple(size), mode=mode, **corners)


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def _trunk(backbone: str, layers: Sequence[int | str]) -> nn.Module:
    """The backbone without anything behind the last layer asked for; it returns a list of those layers."""
    if not known(backbone):
        return pretrained(backbone)
    info, transformer = _anatomy(backbone)
    args = {"features_only": True, "feature_cls": "getter"}
    args["out_indices"] = _find_layers(backbone, info, layers)
    if transformer:
        args["dynamic_img_size"] = True
    if dry_run() and not available(backbone):
        # Only sizes matter in a dry run, and nothing of it is recorded.
        return timm.create_model(backbone, pretrained=False, **args)
    return pretrained(backbone, **args)


@cache
def _anatomy(backbone: str) -> tuple[list[dict], bool]:
    """timm's list of the stages of `backbone`, and whether it is a vision transformer."""
    with torch.device("meta"):
        whole = timm.create_model(backbone)
    return whole.feature_info, isinstance(whole, timm.models.VisionTransformer)


def untrained(backbone: str, layers: Sequence[int | str]) -> nn.Module:
    """The same network as a `FeatureExtractor`'s trunk with random weights, to be trained: a student.

    Maps normalised images (B, 3, H, W) to the list of those layers' maps (B, C, h, w), shallow to deep.
    """
    info, _ = _anatomy(backbone)
    found = _find_layers(backbone, info, layers)
    args = {"features_only": True, "feature_cls": "getter", "out_indices": found}
    return timm.create_model(backbone, pretrained=False, **args).to(memory_format=torch.channels_last)


class Tail(nn.Module):
    """The rest of a pretrained network, behind its layer `at`, with weights of its own to fine-tune.

    Maps the features (B, C, h, w) that a `FeatureExtractor` takes at layer `at` to the list of maps at
    `layers`, shallow to deep. What lies before stays as it is, and its features can be stored. Starts in
    evaluation mode. Raises `DataError` for layers that do not lie behind `at`, and for networks that are not
    a sequence of stages (vision transformers).
    """

    def __init__(self, backbone: str, at: int | str, layers: Sequence[int | str]):
        super().__init__()
        if not known(backbone):
            pretrained(backbone)
        info, transformer = _anatomy(backbone)
        first, found = _find_layers(backbone, info, (at,))[0], _find_layers(backbone, info, layers)
        if transformer or found[0] <= first:
            raise DataError(f"{backbone} can't be cut at {at} to end at {list(layers)}: name deeper layers")
        # Only sizes matter in a dry run, and nothing of it is recorded.
        build = timm.create_model if dry_run() and not available(backbone) else pretrained
        names = [stage["module"].replace(".", "_") for stage in info]
        flat = any("." in stage["module"] for stage in info)
        net = FeatureListNet(build(backbone), out_indices=[first, *found], flatten_sequential=flat)
        children = list(net.named_children())
        start = [name for name, _ in children].index(names[first]) + 1
        self.stages = nn.ModuleDict(children[start:])
        self.taps = [names[i] for i in found]
        self.channels = tuple(info[i]["num_chs"] for i in found)
        self.to(memory_format=torch.channels_last).eval()

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        found, x = {}, x.contiguous(memory_format=torch.channels_last)
        for name, stage in self.stages.items():
            found[name] = x = stage(x)
        return [found[name] for name in self.taps]


def _find_layers(backbone: str, info: list[dict], layers: Sequence[int | str]) -> list[int]:
    """Indices into timm's list of a backbone's stages, ascending."""
    by_stride = {layer["reduction"]: i for i, layer in enumerate(info)}
    by_name = {layer["module"]: i for i, layer in enumerate(info)}
    missing = [layer for layer in layers if layer not in by_stride and layer not in by_name]
    if missing or len(layers) == 0:
        raise DataError(
            f"{backbone} has no layer {missing}; choose strides from {sorted(by_stride)} "
            f"or names from {list(by_name)}"
        )
    return sorted({by_stride.get(layer, by_name.get(layer)) for layer in layers})
