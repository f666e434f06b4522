"""anomalib's Cfa and Supersimplenet on the images and weights that `peer_export.py` wrote.

Runs under the Python where anomalib is installed and imports nothing of adlearn (-P keeps this folder off the
front of the import path):

    python -m adlearn.bench.peer_export FOLDER elpv/mono factory/steel --size 128 --limit 100
    python -P adlearn/bench/peer_anomalib_adaptation.py FOLDER result.json [--only cfa] [--epochs 20]

Networks, losses, optimizers, schedules, clipping, maps and scores are anomalib's. The loop is ours, as the
classes' constructors download weights; the backbone is ours at strides 8 and 16, on inputs with mean and
deviation 0.5. Cfa knows the widths of four networks only: its descriptor is made for our 152 channels.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from anomalib.models import Cfa, Supersimplenet
from anomalib.models.components import TimmFeatureExtractor
from anomalib.models.image.cfa import torch_model as cfa_model
from anomalib.models.image.cfa.loss import CfaLoss
from anomalib.models.image.supersimplenet import torch_model as ssn_model
from anomalib.models.image.supersimplenet.loss import SSNLoss
from torch import nn

# At the end, and not first as without -P: this folder has an anomalib.py of its own.
sys.path.append(str(Path(__file__).resolve().parent))

from peer_anomalib import BACKBONE, STRIDE_8, STRIDE_16, Images, check_features, load_weights, read, write
from peer_anomalib_students import milliseconds, score

LAYERS, _WIDTH = [STRIDE_8, STRIDE_16], 152
_TIMED = 4
_EPOCHS = {"cfa": 30, "supersimplenet": 30}
State = dict[str, torch.Tensor]


def backbone(state: State) -> TimmFeatureExtractor:
    """Our network in anomalib's extractor."""
    extractor = TimmFeatureExtractor(BACKBONE, LAYERS, pre_trained=False)
    load_weights(SimpleNamespace(feature_extractor=extractor), state)
    return extractor


def cfa(state: State, options: argparse.Namespace) -> SimpleNamespace:
    settings = {"num_nearest_neighbors": 3, "num_hard_negative_features": 3, "radius": options.radius}
    with patch.object(cfa_model, "get_feature_extractor", lambda *_: backbone(state)):
        model = cfa_model.CfaModel("resnet18", gamma_c=options.gamma_c, gamma_d=1, **settings)
    model.descriptor.layer = cfa_model.CoordConv2d(_WIDTH, _WIDTH, kernel_size=1)
    model.get_scale = lambda size: torch.Size(side // 8 for side in size)
    names = {"gamma_c": options.gamma_c, "radius": options.radius}
    return SimpleNamespace(
        lightning=Cfa, model=model, loss=CfaLoss(**settings), settings=names, norm_clip_val=0
    )


def supersimplenet(state: State, options: argparse.Namespace) -> SimpleNamespace:
    def extractor(**_: object) -> TimmFeatureExtractor:
        return backbone(state)

    with patch.object(ssn_model, "TimmFeatureExtractor", extractor):
        model = ssn_model.SupersimplenetModel(layers=LAYERS, adapt_cls_features=options.icpr)
    model.anomaly_generator.noise_std = options.noise
    settings = {"noise_std": options.noise, "adapt_cls_features": options.icpr}
    return SimpleNamespace(
        lightning=Supersimplenet, model=model, loss=SSNLoss(), settings=settings, norm_clip_val=0
    )


_METHODS = {"cfa": cfa, "supersimplenet": supersimplenet}


def optimizer(wrapper: SimpleNamespace, epochs: int) -> tuple[torch.optim.Optimizer, list]:
    """anomalib's own, from the method of its Lightning class."""
    wrapper.trainer = SimpleNamespace(max_epochs=epochs)
    found = wrapper.lightning.configure_optimizers(wrapper)
    (steps,), schedulers = found if isinstance(found, tuple) else ([found], [])
    return steps, schedulers


def train(wrapper: SimpleNamespace, images: torch.Tensor, epochs: int, batch: int) -> None:
    """`epochs` passes over the training images in random order."""
    if wrapper.lightning is Cfa:
        wrapper.model.initialize_centroid([SimpleNamespace(image=part) for part in images.split(batch)])
    wrapper.log = lambda *_, **__: None
    steps, schedulers = optimizer(wrapper, epochs)
    for _ in range(epochs):
        wrapper.model.train()
        for chosen in torch.randperm(len(images)).split(batch):
            given = SimpleNamespace(image=images[chosen], gt_mask=None, gt_label=torch.zeros(len(chosen)))
            steps.zero_grad()
            loss = wrapper.lightning.training_step(wrapper, given)["loss"]
            # CfaLoss keeps one graph, of its constant radius, for all steps.
            loss.backward(retain_graph=wrapper.lightning is Cfa)
            steps.step()
        for scheduler in schedulers:
            scheduler.step()


def measure(name: str, wrapper: SimpleNamespace, images: Images, epochs: int, batch: int) -> dict:
    """Train one method on one dataset and score its test images: the record."""
    size = images.test.shape[-1]
    record = {
        "method": name,
        "settings": wrapper.settings | {"layers": LAYERS, "batch": batch, "epochs": epochs},
    }
    record |= {"dataset": f"{images.name} {size} px", "train_images": len(images.train)}
    start = time.perf_counter()
    train(wrapper, images.train, epochs, batch)
    record |= {"fit_seconds": round(time.perf_counter() - start, 3), "threads": torch.get_num_threads()}
    model: nn.Module = wrapper.model.eval()
    with torch.no_grad():
        record |= score(model, images.test, images)
        return record | {"ms_per_image": milliseconds(partial(model, images.test[:_TIMED]), _TIMED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--only", nargs="+", default=list(_METHODS), choices=list(_METHODS))
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--epochs", type=int, help=f"passes over the training images; default: {_EPOCHS}")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--gamma-c", type=int, default=1, help="Cfa: positions for each entry of the memory")
    parser.add_argument("--radius", type=float, default=1e-5, help="Cfa")
    parser.add_argument("--noise", type=float, default=0.015, help="Supersimplenet: deviation of the noise")
    parser.add_argument("--icpr", action="store_true", help="Supersimplenet: adapt the classifier's features")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    state = torch.load(options.folder / "state.pt", weights_only=True)
    for path in sorted(options.folder.glob("*_*.npz")):
        if options.datasets and path.stem.replace("_", "/", 1) not in options.datasets:
            continue
        images = read(path)
        check_features(SimpleNamespace(feature_extractor=backbone(state)), images)
        for name in options.only:
            torch.manual_seed(options.seed)
            wrapper = _METHODS[name](state, options)
            wrapper.settings["seed"] = options.seed
            record = measure(name, wrapper, images, options.epochs or _EPOCHS[name], options.batch)
            write(options.result, record)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
