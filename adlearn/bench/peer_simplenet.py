"""The authors' own SimpleNet on the images and weights that `peer_export.py` wrote.

    git clone https://github.com/DonaldRR/SimpleNet
    python -m adlearn.bench.peer_export FOLDER elpv/mono factory/steel --size 128 --limit 100
    python -P adlearn/bench/peer_simplenet.py SimpleNet FOLDER result.json [--epochs 10]

Runs under the Python where anomalib is installed, as `peer_anomalib.py` does, and imports nothing of adlearn
(-P keeps this folder off the front of the import path). Adaptor, discriminator, noise, loss, optimizers,
scores and maps are theirs, and so is the way from the backbone to patches; the backbone is ours. Their two
poolings, which make 1,536 numbers of any network's channels, do not fit it ("embedding"): "mean" takes the
mean over the 3 x 3 positions that the paper describes, as we do; "pooled" is their code at our width. Their
features are computed once instead of in every step. Their code keeps the epoch with the best test AUROC;
here it is the last one.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest.mock import patch

import numpy as np
import timm
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

sys.path.append(str(Path(__file__).resolve().parent))

from peer_anomalib import BACKBONE, STRIDE_8, STRIDE_16, Images, check_features, read, write

_WIDTH, _BATCH, _QUERIES, _SEED = 152, 8, 1024, 0
_SHIPPED = {"rate": 2e-4, "hidden": 1024, "cosine": False}


@dataclass(frozen=True)
class Recipe:
    """What is set in their code; `noise` is sigma in multiples of `shell_std`, `rate` the discriminator's."""

    embedding: str
    epochs: int
    batch: int
    noise: float
    hidden: int
    rate: float
    cosine: bool


class MeanPatch(nn.Module):
    """In the place of their first pooling: patches (N, C, 3, 3) of each layer to their means, (N, sum C)."""

    def forward(self, layers: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([patches.mean(dim=(2, 3)) for patches in layers], dim=1)


class Batches:
    """What their loop reads: embeddings (N, P, D) in random order, `size` images at a time."""

    def __init__(self, embeddings: torch.Tensor, size: int):
        self.embeddings, self.size = embeddings, size

    def __len__(self) -> int:
        return -(-len(self.embeddings) // self.size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for chosen in torch.randperm(len(self.embeddings)).split(self.size):
            yield {"image": self.embeddings[chosen]}


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Empty modules in the place of those that are imported for drawing, logging and metrics only."""
    stubs = {name: ModuleType(name) for name in names}
    for stub in stubs.values():
        stub.SummaryWriter = stub.plot_segmentation_images = None
    with patch.dict(sys.modules, stubs):
        yield


def official(checkout: Path) -> ModuleType:
    """Their `simplenet` module."""
    sys.path.insert(0, str(checkout))
    with without("torch.utils.tensorboard", "metrics", "utils"):
        import simplenet
    return simplenet


def backbone(state: dict[str, torch.Tensor]) -> nn.Module:
    model = timm.create_model(BACKBONE, pretrained=False)
    model.load_state_dict(state)
    return model.eval()


def build(
    code: ModuleType, state: dict[str, torch.Tensor], size: int, recipe: Recipe, std: float
) -> nn.Module:
    """Their model at noise `std`, with their own defaults but for the recipe and what run.sh sets."""
    torch.manual_seed(_SEED)
    model, device = code.SimpleNet(torch.device("cpu")), torch.device("cpu")
    model.load(
        backbone=backbone(state),
        layers_to_extract_from=[STRIDE_8, STRIDE_16],
        device=device,
        input_shape=(3, size, size),
        pretrain_embed_dimension=_WIDTH,
        target_embed_dimension=_WIDTH,
        meta_epochs=recipe.epochs + 1,
        gan_epochs=1,
        noise_std=std,
        dsc_hidden=recipe.hidden,
        dsc_margin=0.5,
        dsc_lr=recipe.rate,
        cos_lr=recipe.cosine,
        lr=recipe.rate * 5,
        pre_proj=1,
    )
    if recipe.embedding == "mean":
        model.forward_modules["preprocessing"] = MeanPatch()
        model.forward_modules["preadapt_aggregator"] = nn.Identity()
    model.logger = SimpleNamespace(
        g_iter=0, step=lambda: None, logger=SimpleNamespace(add_scalar=lambda *_: None)
    )
    return model


@torch.no_grad()
def embed(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, list[list[int]]]:
    """Their patches of all images, (N, P, D), and the layers' grids."""
    parts = [model._embed(batch) for batch in images.split(_BATCH)]
    found = [patches.unflatten(0, (-1, shapes[0][0] * shapes[0][1])) for patches, shapes in parts]
    return torch.cat(found), parts[0][1]


def shell_std(patches: torch.Tensor) -> float:
    """Median distance of patches to the nearest ones of other images, over the root of their width."""
    first, second = patches.flatten(0, 1).chunk(2)
    order = torch.randperm(len(second), generator=torch.Generator().manual_seed(_SEED))
    nearest = torch.cdist(second[order[:_QUERIES]], first).amin(dim=1)
    return float(nearest.median()) / patches.shape[-1] ** 0.5


def measure(code: ModuleType, state: dict[str, torch.Tensor], recipe: Recipe, images: Images) -> dict:
    """Train on one dataset and score its test images: the record."""
    size = images.test.shape[-1]
    record = {"method": "simplenet official", "settings": asdict(recipe)}
    record |= {"dataset": f"{images.name} {size} px", "train_images": len(images.train)}
    plain = build(code, state, size, recipe, 0.0)
    extractor = plain.forward_modules["feature_aggregator"]
    check_features(SimpleNamespace(feature_extractor=extractor), images)
    train, _ = embed(plain, images.train)
    model = build(code, state, size, recipe, recipe.noise * shell_std(train))
    test, shapes = embed(model, images.test)
    # From here on their code gets patches where it expects images.
    model._embed = lambda patches, **_: (patches.flatten(0, 1), shapes)
    model.anomaly_segmentor.target_size = (size, size)
    start = time.perf_counter()
    for _ in range(recipe.epochs):
        model._train_discriminator(Batches(train, recipe.batch))
    seconds = time.perf_counter() - start
    record |= {"noise_std": round(model.noise_std, 4), "fit_seconds": round(seconds, 3)}
    return record | {"threads": torch.get_num_threads()} | score(model, test, images)


def score(model: nn.Module, test: torch.Tensor, images: Images) -> dict:
    """Image AUROC of their scores, pixel AUROC of their maps where there are masks."""
    found = [model._predict(batch) for batch in test.split(_BATCH)]
    scores = np.concatenate([np.array(part[0]) for part in found]).reshape(-1)
    result = {
        "image_auroc": round(float(roc_auc_score(images.labels, scores)), 4),
        "test_images": len(scores),
    }
    if images.masks is not None:
        maps = np.concatenate([np.array(part[1]) for part in found])
        result["pixel_auroc"] = round(float(roc_auc_score(images.masks.ravel(), maps.ravel())), 4)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkout", type=Path, help="the authors' repository")
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--embeddings", nargs="+", default=["mean"], choices=["mean", "pooled"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4, help="images; run.sh: 8")
    parser.add_argument("--noise", type=float, default=1.0, help="sigma in multiples of shell_std")
    parser.add_argument("--hidden", type=int, default=_SHIPPED["hidden"])
    parser.add_argument("--rate", type=float, default=_SHIPPED["rate"], help="the adaptor has half of it")
    parser.add_argument("--cosine", action="store_true", help="the discriminator's rate falls to 0.4 of it")
    options = parser.parse_args()
    code = official(options.checkout)
    state = torch.load(options.folder / "state.pt", weights_only=True)
    for path in sorted(options.folder.glob("*_*.npz")):
        if options.datasets and path.stem.replace("_", "/", 1) not in options.datasets:
            continue
        images = read(path)
        for embedding in options.embeddings:
            settings = (options.batch, options.noise, options.hidden, options.rate, options.cosine)
            record = measure(code, state, Recipe(embedding, options.epochs, *settings), images)
            write(options.result, record)
            print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
