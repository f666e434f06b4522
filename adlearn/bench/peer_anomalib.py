"""anomalib's own models on the images and weights that `peer_export.py` wrote.

Runs under the Python where anomalib is installed and imports nothing of adlearn (-P keeps this folder off the
import path):

    python -m adlearn.bench.peer_export FOLDER elpv/mono factory/bolt        (our Python)
    python -P adlearn/bench/peer_anomalib.py FOLDER result.json [--only padim dfm] [--datasets elpv/mono]

Every model is anomalib's class with its own code: only the backbone's weights are ours. Scores are the raw
`pred_score` and `anomaly_map`. As in `adlearn.measure`, `fit_seconds` starts from features and `ms_per_image`
from images, in batches of 4. A record is added to the JSON as soon as it is measured.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

BACKBONE, STRIDE_8, STRIDE_16 = "tf_efficientnet_lite0", "blocks.2", "blocks.4"
_BATCH, _TIMED, _SEED, _CORESET = 32, 4, 0, 0.01
# The width of one pooled feature map of a 224 px image: FRE wants to be told.
_FRE_WIDTH = {(STRIDE_16, 2): 112 * 7 * 7, (STRIDE_8, 4): 40 * 7 * 7}


@dataclass(frozen=True)
class Entry:
    """One model to measure: how it is built, how it is fitted after the pass over the images, what it is."""

    method: str
    settings: dict
    build: Callable[[], nn.Module]
    fit: Callable[[nn.Module], None]


@dataclass(frozen=True)
class Images:
    """A dataset as `peer_export.py` wrote it; the images are normalised for the backbone."""

    name: str
    train: torch.Tensor
    validation: torch.Tensor
    test: torch.Tensor
    labels: np.ndarray
    masks: np.ndarray | None
    probe: dict[str, torch.Tensor]
    extra: dict[str, np.ndarray]


def read(path: Path) -> Images:
    """Load one .npz."""
    content = np.load(path)
    parts = [torch.from_numpy(content[key]) for key in ("train", "validation", "test")]
    masks = content["masks"] if "masks" in content.files else None
    probe = {k.removeprefix("probe/"): torch.from_numpy(content[k]) for k in content.files if "probe/" in k}
    extra = {k.removeprefix("extra/"): content[k] for k in content.files if "extra/" in k}
    return Images(path.stem.replace("_", "/", 1), *parts, content["labels"], masks, probe, extra)


def padim(n_features: int) -> nn.Module:
    from anomalib.models.image.padim.torch_model import PadimModel

    return PadimModel(BACKBONE, [STRIDE_8, STRIDE_16], pre_trained=False, n_features=n_features)


def patchcore(neighbours: int) -> nn.Module:
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    return PatchcoreModel([STRIDE_8, STRIDE_16], BACKBONE, pre_trained=False, num_neighbors=neighbours)


def dfm(layer: str, pool: int, score: str) -> nn.Module:
    from anomalib.models.image.dfm.torch_model import DFMModel

    return DFMModel(BACKBONE, layer, pre_trained=False, pooling_kernel_size=pool, score_type=score)


def dfkde(layer: str) -> nn.Module:
    from anomalib.models.image.dfkde.torch_model import DfkdeModel

    return DfkdeModel(BACKBONE, [layer], pre_trained=False)


def fre(layer: str, pool: int, latent: int) -> nn.Module:
    from anomalib.models.image.fre.torch_model import FREModel

    width = _FRE_WIDTH[layer, pool]
    return FREModel(BACKBONE, layer, width, latent, pre_trained=False, pooling_kernel_size=pool)


def fit_gaussian(model: nn.Module, dataset: torch.Tensor) -> None:
    """SingleClassGaussian.fit of anomalib 2.7 without the `device` argument that torch.mean refuses."""
    model.mean_vec = dataset.mean(dim=1)
    centred = (dataset - model.mean_vec[:, None]) / dataset.shape[1] ** 0.5
    model.u_mat, model.sigma_mat, _ = torch.linalg.svd(centred, full_matrices=False)


def fit_nll(model: nn.Module, keep_bank: bool) -> None:
    """Fit DFM's Gaussian; `keep_bank` also stops the PCA from centring the memory bank in place."""
    model.gaussian_model.fit = partial(fit_gaussian, model.gaussian_model)
    if keep_bank:
        fit_pca = model.pca_model.fit
        model.pca_model.fit = lambda bank: fit_pca(bank.clone())
    model.fit()


def fit_default(model: nn.Module) -> None:
    model.fit()


def fit_patchcore(model: nn.Module) -> None:
    model.subsample_embedding(_CORESET)


NLL_FITS = {
    "as shipped": fit_default,
    "crash repaired": partial(fit_nll, keep_bank=False),
    "crash and mean repaired": partial(fit_nll, keep_bank=True),
}


def fit_fre(model: nn.Module, images: torch.Tensor, epochs: int) -> None:
    """The wrapper's training: Adam 1e-3, MSE, batches of 32; the frozen features are computed once."""
    with torch.no_grad():
        features = torch.cat([model.get_features(batch)[0] for batch in images.split(_BATCH)])
    optimizer = torch.optim.Adam(model.fre_model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(features)).split(_BATCH):
            batch = features[chosen]
            loss = nn.functional.mse_loss(batch, model.fre_model(batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def entries(train: torch.Tensor) -> Iterator[Entry]:
    """Every model and setting, at anomalib's defaults where the brief of the comparison names no other."""
    both = [STRIDE_8, STRIDE_16]
    for n in (100, 152):
        yield Entry("padim", {"layers": both, "n_features": n}, partial(padim, n), fit_default)
    for layer, pool in ((STRIDE_16, 4), (STRIDE_16, 2), (STRIDE_8, 4)):
        settings = {"layer": layer, "pool": pool, "pca_level": 0.97, "score": "fre"}
        yield Entry("dfm", settings, partial(dfm, layer, pool, "fre"), fit_default)
    for code, fit in NLL_FITS.items():
        settings = {"layer": STRIDE_16, "pool": 4, "pca_level": 0.97, "score": "nll", "code": code}
        yield Entry("dfm", settings, partial(dfm, STRIDE_16, 4, "nll"), fit)
    for layer in (STRIDE_16, STRIDE_8):
        yield Entry("dfkde", {"layer": layer, "n_pca_components": 16}, partial(dfkde, layer), fit_default)
    for layer, pool, epochs in ((STRIDE_16, 2, 6), (STRIDE_16, 2, 250), (STRIDE_8, 4, 250)):
        settings = {"layer": layer, "pool": pool, "latent_dim": 220, "epochs": epochs}
        fit = partial(fit_fre, images=train, epochs=epochs)
        yield Entry("fre", settings, partial(fre, layer, pool, 220), fit)
    settings = {"layers": both, "coreset": _CORESET, "num_neighbors": 9}
    yield Entry("patchcore", settings, partial(patchcore, 9), fit_patchcore)


class Remembered(nn.Module):
    """A frozen feature extractor that answers from `seen` for a batch it was given before.

    A batch is known by its place in memory: views of one tensor of images are remembered, copies are not.
    """

    def __init__(self, extractor: nn.Module, seen: dict):
        super().__init__()
        self.extractor, self.seen = extractor, seen

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        key = (*self.extractor.layers, images.data_ptr())
        if key not in self.seen:
            self.seen[key] = self.extractor(images)
        # anomalib centres features in place.
        return {layer: maps.clone() for layer, maps in self.seen[key].items()}


def load_weights(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put our backbone's weights into anomalib's feature extractor; each of its tensors must be there."""
    trunk = model.feature_extractor.feature_extractor
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})


@torch.no_grad()
def check_features(model: nn.Module, images: Images) -> None:
    """Stop unless anomalib's extractor gives the features that ours gave, where ours were exported."""
    found = model.feature_extractor(images.test[:2])
    for layer in found.keys() & images.probe.keys():
        torch.testing.assert_close(found[layer], images.probe[layer], rtol=1e-4, atol=1e-4)


def measure(entry: Entry, images: Images, state: dict[str, torch.Tensor], seen: dict) -> dict:
    """Fit and score one model on one dataset; the record, or the error that anomalib's code raised."""
    torch.manual_seed(_SEED)
    model = entry.build()
    load_weights(model, state)
    check_features(model, images)
    plain, model.feature_extractor = model.feature_extractor, Remembered(model.feature_extractor, seen)
    record = {"method": entry.method, "settings": entry.settings, "dataset": images.name}
    record["train_images"] = len(images.train)
    try:
        record |= fit(entry, model, images) | score(model.eval(), images)
    except (TypeError, RuntimeError) as error:
        return record | {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    model.feature_extractor = plain
    return record | {"ms_per_image": milliseconds(model, images.test[:_TIMED])}


def fit(entry: Entry, model: nn.Module, images: Images) -> dict:
    """Seconds to learn, from features; the number of components where the model chooses it."""
    for batch in images.train.split(_BATCH):
        model.feature_extractor(batch)
    start = time.perf_counter()
    if hasattr(model, "memory_bank"):
        model.train()
        for batch in images.train.split(_BATCH):
            model(batch)
    entry.fit(model)
    seconds = {"fit_seconds": round(time.perf_counter() - start, 3)}
    components = getattr(getattr(model, "pca_model", None), "num_components", None)
    return seconds if components is None else seconds | {"components": int(components)}


@torch.no_grad()
def score(model: nn.Module, images: Images) -> dict:
    """Image AUROC of the raw scores (ties count half), pixel AUROC where there are maps and masks."""
    outputs = [model(batch) for batch in images.test.split(_BATCH)]
    scores = torch.cat([o.pred_score.reshape(-1) for o in outputs]).numpy()
    result = {
        "image_auroc": round(float(roc_auc_score(images.labels, scores)), 4),
        "distinct_scores": len(np.unique(scores)),
        "test_images": len(scores),
    }
    if images.masks is not None and outputs[0].anomaly_map is not None:
        maps = torch.cat([o.anomaly_map for o in outputs]).squeeze(1).numpy()
        result["pixel_auroc"] = round(float(roc_auc_score(images.masks.ravel(), maps.ravel())), 4)
    return result


@torch.no_grad()
def milliseconds(model: nn.Module, batch: torch.Tensor) -> float:
    """The fastest of three runs, per image, backbone included."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        model(batch)
        times.append((time.perf_counter() - start) * 1e3 / len(batch))
    return round(min(times), 2)


def same(record: dict, other: dict) -> bool:
    return all(record[key] == other[key] for key in ("method", "settings", "dataset"))


def write(path: Path, record: dict) -> None:
    """Add `record` to the JSON, in place of an older one of the same method, settings and dataset."""
    known = json.loads(path.read_text()) if path.exists() else {}
    content = known | {
        "anomalib": version("anomalib"),
        "torch": torch.__version__,
        "timm": version("timm"),
        "threads": torch.get_num_threads(),
        "backbone": BACKBONE,
        "records": [r for r in known.get("records", []) if not same(r, record)] + [record],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def coreset_seconds(points: torch.Tensor, passes: int) -> float:
    """Seconds of one pass of KCenterGreedy's loop over `points` (N, D), without its random projection."""
    from anomalib.models.components.sampling import KCenterGreedy

    sampler = KCenterGreedy(points, sampling_ratio=(passes + 1.5) / len(points))
    sampler.model.fit = lambda embedding: sampler.model
    sampler.model.transform = lambda embedding: embedding
    start = time.perf_counter()
    sampler.select_coreset_idxs()
    return (time.perf_counter() - start) / passes


@torch.no_grad()
def padim_seconds(images: Images, state: dict[str, torch.Tensor], n_features: int) -> float:
    """Seconds to learn from the training images and to score the test images, features included."""
    model = padim(n_features)
    load_weights(model, state)
    start = time.perf_counter()
    model.train()
    for batch in images.train.split(_BATCH):
        model(batch)
    model.fit()
    model.eval()
    for batch in images.test.split(_BATCH):
        model(batch)
    return time.perf_counter() - start


def speed(folder: Path, passes: int) -> dict[str, float]:
    """What `adlearn bench anomalib` asks for: `points.npy`, one .npz and the weights are in `folder`."""
    points = torch.from_numpy(np.load(folder / "points.npy"))
    (path,) = folder.glob("*.npz")
    images, state = read(path), torch.load(folder / "state.pt", weights_only=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    coreset = coreset_seconds(points, passes)
    torch.set_num_threads(threads)
    padim_seconds(images, state, 100)
    return {"coreset_pass": coreset, "padim": padim_seconds(images, state, 100)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what peer_export.py wrote")
    parser.add_argument("result", type=Path, help="JSON file that records are added to")
    parser.add_argument("--only", nargs="+", default=["padim", "dfm", "dfkde", "fre", "patchcore"])
    parser.add_argument("--datasets", nargs="+", help="default: every .npz in the folder")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--speed", type=int, metavar="PASSES", help="time PaDiM and PASSES of the coreset")
    options = parser.parse_args()
    if options.speed:
        options.result.write_text(json.dumps(speed(options.folder, options.speed)))
        return
    torch.set_num_threads(options.threads)
    state = torch.load(options.folder / "state.pt", weights_only=True)
    for path in sorted(options.folder.glob("*.npz")):
        name = path.stem.replace("_", "/", 1)
        if options.datasets and name not in options.datasets:
            continue
        images, seen = read(path), {}
        for entry in entries(images.train):
            if entry.method in options.only:
                record = measure(entry, images, state, seen)
                write(options.result, record)
                print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
