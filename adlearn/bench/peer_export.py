"""Write what a peer's library needs to be measured beside ours: images as we read them, and our weights.

`python -m adlearn.bench.peer_export FOLDER elpv/mono factory/bolt`, then `peer_anomalib.py` on that FOLDER.
For `peer_anomalib_students.py`: `--size 128 --limit 100 --penalty 200`; for `peer_anomalib_images.py`:
`--size 128 --limit 100 --textures 64`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torchvision.utils import save_image

from ..data import load
from ..data.base import AnomalyDataset
from ..data.scenery import scenery
from ..features import FeatureExtractor
from ..weights import packaged_state

_SIZE, _TRAIN, _PROBE = 224, 200, 2
_PROBED = (4, 8, 16)


def export_weights(folder: Path) -> None:
    """`state.pt`: the packaged ImageNet weights under timm's names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(packaged_state(), folder / "state.pt")


def export_penalty(folder: Path, count: int, size: int) -> None:
    """`penalty.pt`: images (count, 3, size, size) in [0, 1] of no product, for EfficientAD's student."""
    torch.save(scenery(count, size, seed=1), folder / "penalty.pt")


def export_textures(folder: Path, count: int, size: int) -> None:
    """`textures/NNN.png`: images of no product, for Draem's synthetic anomalies."""
    (folder / "textures").mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(scenery(count, size)):
        save_image(image, folder / "textures" / f"{number:03}.png")


def export_dataset(folder: Path, name: str, size: int = _SIZE, limit: int = _TRAIN) -> Path:
    """One .npz for the benchmark `name`; returns its path.

    `train` (the first `limit` normal images), `validation` and `test` are (N, 3, size, size) float32,
    normalised as the backbone wants it (mean and deviation 0.5, not ImageNet's); there are `labels`,
    `masks` if the dataset has any, in `probe/<layer>` our features of the first two test images, and in
    `extra/<name>` which test images belong to that part.
    """
    benchmark, extractor = load(name, size), FeatureExtractor(layers=_PROBED)
    parts = {"train": benchmark.train.take(limit), "validation": benchmark.validation, "test": benchmark.test}
    images = {key: dataset.images() for key, dataset in parts.items()}
    arrays = {key: (values - extractor.mean) / extractor.std for key, values in images.items()}
    arrays["labels"] = benchmark.test.labels
    if benchmark.test.has_masks:
        arrays["masks"] = benchmark.test.masks()
    for layer, maps in extractor(images["test"][:_PROBE]).items():
        arrays[f"probe/{layer}"] = maps
    for part, dataset in benchmark.extra.items():
        arrays[f"extra/{part}"] = _members(benchmark.test, dataset)
    path = folder / f"{name.replace('/', '_')}.npz"
    np.savez(path, **{key: np.ascontiguousarray(value.numpy()) for key, value in arrays.items()})
    return path


def _members(test: AnomalyDataset, part: AnomalyDataset) -> torch.Tensor:
    """(N,) bool: which images of `test` are in `part` too."""
    paths = {sample.path for sample in part.samples}
    return torch.tensor([sample.path in paths for sample in test.samples])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("datasets", nargs="+", metavar="NAME", help="elpv/mono, factory/bolt, ...")
    parser.add_argument("--size", type=int, default=_SIZE, help="side of the images in pixels")
    parser.add_argument("--limit", type=int, default=_TRAIN, help="training images")
    parser.add_argument("--penalty", type=int, metavar="COUNT", help="also COUNT images of no product")
    parser.add_argument("--textures", type=int, metavar="COUNT", help="also COUNT of them as PNG files")
    options = parser.parse_args()
    export_weights(options.folder)
    if options.penalty:
        export_penalty(options.folder, options.penalty, options.size)
    if options.textures:
        export_textures(options.folder, options.textures, options.size)
    for name in options.datasets:
        print(export_dataset(options.folder, name, options.size, options.limit))


if __name__ == "__main__":
    main()
