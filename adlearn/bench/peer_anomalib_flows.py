"""anomalib's four normalizing flows on our features: `peer_anomalib.py`'s second half.

    python -P adlearn/bench/peer_anomalib_flows.py FOLDER result.json [--only fastflow] [--epochs 20]

Models, losses, optimizers, training steps, maps and scores are anomalib's own code. Only the backbone is
replaced: its flows take three or four backbones, most of them to be downloaded, so the features of ours are
computed once and handed to the class where its extractor was. CS-Flow's flow also has the 304 channels of
its backbone written into it, and scales that must halve exactly; both are adapted here and nothing else.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import torch
from anomalib.models import Cflow, Csflow, Fastflow, Uflow
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.cflow import torch_model as cflow_model
from anomalib.models.image.csflow import torch_model as csflow_model
from anomalib.models.image.csflow.loss import CsFlowLoss
from anomalib.models.image.fastflow import torch_model as fastflow_model
from anomalib.models.image.fastflow.loss import FastflowLoss
from anomalib.models.image.uflow import torch_model as uflow_model
from anomalib.models.image.uflow.feature_extraction import LayerNormFeatureExtractor
from anomalib.models.image.uflow.loss import UFlowLoss
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

# At the end, and not first as without -P: this folder has an anomalib.py of its own.
sys.path.append(str(Path(__file__).resolve().parent))

from peer_anomalib import BACKBONE, STRIDE_8, STRIDE_16, Images, check_features, load_weights, read, write

_SIZE, _BATCH, _TIMED, _SEED = 224, 32, 4, 0
_CHANNELS = {STRIDE_8: 40, STRIDE_16: 112}
_STRIDES = {STRIDE_8: 8, STRIDE_16: 16}
# CS-Flow's image sizes are the full one, a half and a quarter of it.
_PYRAMID = {"1": _SIZE, "1/2": _SIZE // 2, "1/4": _SIZE // 4}
_CFLOW_RATE = 1e-4
_EPOCHS = {"fastflow": 6, "cflow": 2, "csflow": 6, "uflow": 6}


class Levels(list):
    """The feature maps of a batch, in the place of its images: (B, C, h, w) each, finest first."""

    shape = torch.Size((_SIZE, _SIZE))
    device = torch.device("cpu")

    def take(self, chosen: slice | torch.Tensor) -> "Levels":
        return Levels(maps[chosen] for maps in self)


class Given(nn.Module):
    """In the place of a backbone: hands on the features it is given, and says how wide they are."""

    def __init__(self, layers: Sequence[str]):
        super().__init__()
        self.layers = layers
        self.out_dims = [_CHANNELS[layer] for layer in layers]
        strides = [_STRIDES[layer] for layer in layers]
        self.feature_info = SimpleNamespace(channels=lambda: self.out_dims, reduction=lambda: strides)

    def forward(self, levels: Levels) -> Levels:
        return levels


class GivenByName(Given):
    """The same for a class that asks for its layers by name."""

    def forward(self, levels: Levels) -> dict[str, torch.Tensor]:
        return dict(zip(self.layers, levels, strict=True))


class GivenNormed(LayerNormFeatureExtractor):
    """U-Flow's own layer norms, on given features."""

    def __init__(self, layers: Sequence[str]):
        nn.Module.__init__(self)
        self.channels = [_CHANNELS[layer] for layer in layers]
        self.scale_factors = [_STRIDES[layer] for layer in layers]
        self.scales = range(len(layers))
        sizes = [(c, _SIZE // s, _SIZE // s) for c, s in zip(self.channels, self.scale_factors, strict=True)]
        self.feature_normalizations = nn.ModuleList(nn.LayerNorm(size) for size in sizes)

    def extract_features(self, levels: Levels) -> Levels:
        return levels


class UpsampleTo(nn.Module):
    """Bilinear to the next finer grid; where sizes halve exactly it is CS-Flow's factor of 2."""

    def __init__(self, sizes: Sequence[int]):
        super().__init__()
        self.finer = dict(zip(sizes[1:], sizes[:-1], strict=True))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return F.interpolate(maps, size=2 * (self.finer[maps.shape[-1]],), mode="bilinear")


def fastflow(layers: Sequence[str]) -> nn.Module:
    with patch.object(fastflow_model.timm, "create_model", lambda *_, **__: Given(layers)):
        return fastflow_model.FastflowModel((_SIZE, _SIZE), "resnet18")


def cflow(layers: Sequence[str]) -> nn.Module:
    with patch.object(cflow_model, "TimmFeatureExtractor", lambda **_: GivenByName(layers)):
        return cflow_model.CflowModel(BACKBONE, layers)


def uflow(layers: Sequence[str]) -> nn.Module:
    with patch.object(uflow_model, "get_feature_extractor", lambda *_: GivenNormed(layers)):
        return uflow_model.UflowModel((_SIZE, _SIZE))


def csflow(hidden: int) -> nn.Module:
    def node(_: int, height: int, width: int, name: str) -> nn.Module:
        return input_node(_CHANNELS[STRIDE_16], height, width, name=name)

    input_node = csflow_model.InputNode
    with (
        patch.object(csflow_model, "InputNode", node),
        patch.object(csflow_model, "CsFlowMultiScaleFeatureExtractor", lambda **_: Given([STRIDE_16])),
    ):
        model = csflow_model.CsFlowModel((_SIZE, _SIZE), cross_conv_hidden_channels=hidden)
    sizes = [math.ceil(size / _STRIDES[STRIDE_16]) for size in _PYRAMID.values()]
    for module in model.modules():
        if isinstance(module, csflow_model.CrossConvolutions):
            module.upsample = UpsampleTo(sizes)
    return model


def csflow_loss(z: Sequence[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
    """CsFlowLoss with each image's own log-determinant: theirs is the batch's sum, for every image."""
    return CsFlowLoss.forward(z, log_det / len(log_det))


def uflow_loss(z: Sequence[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
    """UFlowLoss with z^2 summed for each image, not over the batch."""
    return torch.mean(sum(0.5 * maps.square().sum(dim=(1, 2, 3)) for maps in z) - log_det)


@dataclass(frozen=True)
class Flow:
    """One flow to measure: anomalib's Lightning class, its settings, model and loss, and what it is fed."""

    lightning: type
    settings: dict
    build: Callable[[], nn.Module]
    loss: Callable | None
    features: tuple[str, ...]
    batch: int = _BATCH

    @property
    def method(self) -> str:
        return self.lightning.__name__.lower()


def flows(hidden: int) -> Iterator[Flow]:
    """Every flow and setting; "repaired" where anomalib's loss mixes a batch's sum with its mean."""
    layers = (STRIDE_8, STRIDE_16)
    for batch in (_BATCH, 8):
        settings = {"layers": list(layers), "flow_steps": 8}
        yield Flow(Fastflow, settings, partial(fastflow, layers), FastflowLoss(), layers, batch)
    settings = {"layers": list(layers), "coupling_blocks": 8, "fiber_batch_size": 64}
    yield Flow(Cflow, settings, partial(cflow, layers), None, layers)
    for code, loss in (("as shipped", CsFlowLoss()), ("loss repaired", csflow_loss)):
        settings = {"layer": STRIDE_16, "scales": list(_PYRAMID.values()), "hidden": hidden, "code": code}
        yield Flow(Csflow, settings, partial(csflow, hidden), loss, tuple(_PYRAMID))
    for code, loss in (("as shipped", UFlowLoss()), ("loss repaired", uflow_loss)):
        settings = {"layers": list(layers), "flow_steps": 4, "code": code}
        yield Flow(Uflow, settings, partial(uflow, layers), loss, layers)


class Wrapper(SimpleNamespace):
    """What the methods of anomalib's Lightning classes ask of `self`; their constructors download weights."""

    def __init__(self, flow: Flow):
        model = flow.build()
        super().__init__(model=model, parameters=model.parameters, loss=flow.loss, learning_rate=_CFLOW_RATE)
        self.log = self.log_dict = lambda *_, **__: None
        self.manual_backward = torch.Tensor.backward
        self.flow = flow
        self.clip = flow.lightning.trainer_arguments.fget(self).get("gradient_clip_val", 0)
        found = flow.lightning.configure_optimizers(self)
        (self.optimizer,), self.schedulers = found if isinstance(found, tuple) else ([found], [])
        self.optimizers = lambda: self.optimizer

    def epoch(self, features: Levels) -> None:
        """One pass over the features in random order, as Lightning's; the last batch may be smaller."""
        self.model.train()
        for chosen in torch.randperm(len(features[0])).split(self.flow.batch):
            levels = SimpleNamespace(image=features.take(chosen))
            if self.flow.lightning is Cflow:
                # It steps its optimizer itself, once for each 64 positions.
                Cflow.training_step(self, levels)
                continue
            self.optimizer.zero_grad()
            self.flow.lightning.training_step(self, levels)["loss"].backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
        for scheduler in self.schedulers:
            scheduler.step()


def pyramid(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """CS-Flow's input: the images at every scale, resized as its authors do (nearest)."""
    return {
        name: images if size == _SIZE else F.interpolate(images, size=(size, size))
        for name, size in _PYRAMID.items()
    }


class Extractor:
    """Our backbone through anomalib's extractor: every layer and scale that a flow asks for."""

    def __init__(self, state: dict[str, torch.Tensor], images: Images):
        layers = [STRIDE_8, STRIDE_16]
        self.feature_extractor = TimmFeatureExtractor(BACKBONE, layers, pre_trained=False)
        load_weights(self, state)
        check_features(self, images)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, names: Sequence[str]) -> Levels:
        """Features (N, C, h, w) of each of `names`: layers, or scales of the image."""
        found = [self._batch(batch, names) for batch in images.split(_TIMED)]
        return Levels(torch.cat(level) for level in zip(*found, strict=True))

    def _batch(self, images: torch.Tensor, names: Sequence[str]) -> list[torch.Tensor]:
        if names[0] in _PYRAMID:
            return [self.feature_extractor(scale)[STRIDE_16] for scale in pyramid(images).values()]
        found = self.feature_extractor(images)
        return [found[name] for name in names]


def measure(flow: Flow, epochs: int, images: Images, extractor: Extractor) -> dict:
    """Train one flow on one dataset and score its test images: the record."""
    train, test = (extractor(part, flow.features) for part in (images.train, images.test))
    torch.manual_seed(_SEED)
    wrapper = Wrapper(flow)
    record = {"method": flow.method, "settings": flow.settings | {"batch": flow.batch, "epochs": epochs}}
    record |= {"dataset": images.name, "train_images": len(images.train)}
    start = time.perf_counter()
    for _ in range(epochs):
        wrapper.epoch(train)
    seconds = time.perf_counter() - start
    record |= {"fit_seconds": round(seconds, 3), "seconds_per_epoch": round(seconds / epochs, 3)}
    model = wrapper.model.eval()
    record |= score(model, test, images, len(images.test) if flow.lightning is Cflow else _BATCH)
    if flow.lightning is Cflow:
        shipped = score(model, test, images, _BATCH)
        record |= {f"{key}_batches_of_{_BATCH}": shipped[key] for key in shipped if "auroc" in key}
    few = images.test[:_TIMED]
    record["flow_ms_per_image"] = milliseconds(lambda: model(test.take(slice(_TIMED))))
    record["ms_per_image"] = milliseconds(lambda: model(extractor(few, flow.features)))
    return record


@torch.no_grad()
def score(model: nn.Module, features: Levels, images: Images, batch: int) -> dict:
    """Image AUROC of the raw scores, pixel AUROC where there are masks. CFLOW's depend on the batch."""
    chunks = [features.take(slice(i, i + batch)) for i in range(0, len(images.test), batch)]
    outputs = [model(chunk) for chunk in chunks]
    scores = torch.cat([o.pred_score.reshape(-1) for o in outputs]).numpy()
    result = {"image_auroc": round(float(roc_auc_score(images.labels, scores)), 4)}
    result |= {"distinct_scores": len(np.unique(scores)), "test_images": len(scores)}
    if images.masks is not None:
        maps = torch.cat([o.anomaly_map.reshape(-1, _SIZE, _SIZE) for o in outputs]).numpy()
        result["pixel_auroc"] = round(float(roc_auc_score(images.masks.ravel(), maps.ravel())), 4)
    return result


@torch.no_grad()
def milliseconds(run: Callable[[], object], repeats: int = 3) -> float:
    """The fastest run, per image of a batch of 4."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) * 1e3 / _TIMED)
    return round(min(times), 2)


def speed(folder: Path, hidden: int) -> dict[str, dict[str, float]]:
    """Seconds of an epoch and milliseconds an image of each flow, from features.

    What `adlearn bench flows` asks for: `features.npz` in `folder` holds the maps (N, C, h, w) under the
    names of the layers and of CS-Flow's scales.
    """
    content, found = np.load(folder / "features.npz"), {}
    for flow in flows(hidden):
        if flow.method not in found:
            features = Levels(torch.from_numpy(content[name]) for name in flow.features)
            found[flow.method] = flow_speed(flow, features)
    return found


def flow_speed(flow: Flow, features: Levels) -> dict[str, float]:
    wrapper = Wrapper(flow)
    wrapper.epoch(features.take(slice(flow.batch)))
    times = []
    for _ in range(2):
        start = time.perf_counter()
        wrapper.epoch(features)
        times.append(time.perf_counter() - start)
    model, few = wrapper.model.eval(), features.take(slice(_TIMED))
    return {"epoch": min(times), "image_ms": milliseconds(partial(model, few), repeats=5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--only", nargs="+", default=list(_EPOCHS))
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--epochs", type=int, help=f"default: {_EPOCHS}")
    parser.add_argument("--hidden", type=int, default=64, help="CS-Flow's hidden channels")
    parser.add_argument("--speed", action="store_true", help="time the flows on features.npz")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        options.result.write_text(json.dumps(speed(options.folder, options.hidden)))
        return
    state = torch.load(options.folder / "state.pt", weights_only=True)
    for path in sorted(options.folder.glob("*_*.npz")):
        if options.datasets and path.stem.replace("_", "/", 1) not in options.datasets:
            continue
        images = read(path)
        extractor = Extractor(state, images)
        for flow in flows(options.hidden):
            if flow.method in options.only:
                record = measure(flow, options.epochs or _EPOCHS[flow.method], images, extractor)
                write(options.result, record)
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
