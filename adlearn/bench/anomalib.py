"""anomalib's own code beside ours: the coreset's loop, and PaDiM from images to maps."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from ..data import load
from ..detector import FeatureDetector
from ..features import FeatureExtractor
from ..methods.gaussian_density import PaDiM
from ..methods.memory_bank import GreedyCoreset, patch_vectors
from ..threads import one_thread
from . import Row, benchmark, seconds
from .peer_export import export_dataset, export_weights

_PYTHON = "ADLEARN_ANOMALIB"
_IMAGES, _RATIO, _PASSES = 300, 0.05, 100
_BATCH = 32


@benchmark("anomalib")
def anomalib() -> list[Row]:
    """Needs the Python of an environment with anomalib 2.7 in $ADLEARN_ANOMALIB; nothing without."""
    if not present("anomalib"):
        return []
    mono = load("elpv/mono")
    features = FeatureExtractor().extract(mono.train.take(_IMAGES))
    points = patch_vectors(features, patch_size=3).flatten(0, 1)
    theirs = _theirs(points)
    count = int(_RATIO * len(points))
    with one_thread():
        coreset = seconds(lambda: GreedyCoreset(points).select(count), repeats=1)
    images = mono.train.take(200).images(), mono.test.images()
    padim = seconds(lambda: _fit_and_predict(PaDiM(100), *images), repeats=1)
    loop = f"KCenterGreedy, {_PASSES} of {count - 1:,} passes, 1 thread"
    what = f"coreset, {count:,} of {len(points):,} x {points.shape[1]}"
    return [
        Row(what, coreset, loop, theirs["coreset_pass"] * (count - 1)),
        Row("PaDiM, 200 + 300 images, from images", padim, "PadimModel", theirs["padim"]),
    ]


def present(name: str) -> bool:
    """Whether $ADLEARN_ANOMALIB names a Python; if not, say what the benchmark `name` would do with it."""
    if os.environ.get(_PYTHON):
        return True
    print(f"\n{name}: {_PYTHON}=/path/to/python with anomalib installed compares with its own code")
    return False


def ask(script: str, folder: Path, *options: str) -> dict:
    """Run a script of this folder under anomalib's Python, on `folder`; what it wrote as JSON."""
    result = folder / "speed.json"
    command = [
        os.environ[_PYTHON],
        "-P",
        Path(__file__).with_name(script),
        folder,
        result,
        "--speed",
        *options,
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


def _theirs(points: torch.Tensor) -> dict[str, float]:
    """Run `peer_anomalib.py --speed` under the other Python; seconds by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_weights(folder)
        export_dataset(folder, "elpv/mono")
        np.save(folder / "points.npy", points.numpy())
        return ask("peer_anomalib.py", folder, str(_PASSES))


def _fit_and_predict(detector: FeatureDetector, train: torch.Tensor, test: torch.Tensor) -> None:
    """From image tensors (N, 3, H, W) to maps, as anomalib's model is timed: nothing is read from disk."""
    parts = [detector.extractor(batch) for batch in train.split(_BATCH)]
    detector.fit_features({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    for batch in test.split(_BATCH):
        detector.predict(batch)
