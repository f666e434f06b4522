"""Write what a peer's library needs to be measured beside ours: images as we read them, and our weights.

`python -m adlearn.bench.peer_export FOLDER elpv/mono factory/bolt`, then `peer_anomalib.py` on that FOLDER.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ..data import load
from ..features import FeatureExtractor
from ..weights import packaged_state

_SIZE, _TRAIN, _PROBE = 224, 200, 2


def export_weights(folder: Path) -> None:
    """`state.pt`: the packaged ImageNet weights under timm's names."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(packaged_state(), folder / "state.pt")


def export_dataset(folder: Path, name: str) -> Path:
    """One .npz for the benchmark `name`; returns its path.

    `train` (the first 200 normal images) and `test` are (N, 3, 224, 224) float32, normalised as the backbone
    wants it (mean and deviation 0.5, not ImageNet's); there are `labels`, `masks` if the dataset has any, and
    in `probe/<layer>` our features of the first two test images.
    """
    benchmark, extractor = load(name, _SIZE), FeatureExtractor()
    train, test = benchmark.train.take(_TRAIN).images(), benchmark.test.images()
    arrays = {
        key: (images - extractor.mean) / extractor.std for key, images in (("train", train), ("test", test))
    }
    arrays["labels"] = benchmark.test.labels
    if benchmark.test.has_masks:
        arrays["masks"] = benchmark.test.masks()
    for layer, maps in extractor(test[:_PROBE]).items():
        arrays[f"probe/{layer}"] = maps
    path = folder / f"{name.replace('/', '_')}.npz"
    np.savez(path, **{key: np.ascontiguousarray(value.numpy()) for key, value in arrays.items()})
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("datasets", nargs="+", metavar="NAME", help="elpv/mono, factory/bolt, ...")
    options = parser.parse_args()
    export_weights(options.folder)
    for name in options.datasets:
        print(export_dataset(options.folder, name))


if __name__ == "__main__":
    main()
