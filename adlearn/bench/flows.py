"""The flows of notebook 04 beside anomalib's, trained and asked on the same features, on one thread."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..data import load
from ..detector import FeatureDetector
from ..features import FeatureExtractor, Features
from ..methods.normalizing_flow import CFlow, CSFlow, FastFlow, UFlow
from ..threads import one_thread
from . import Row, benchmark, seconds
from .anomalib import ask, present

_SIZE, _IMAGES, _TIMED = 224, 64, 4
_PYRAMID = {"1": _SIZE, "1/2": _SIZE // 2, "1/4": _SIZE // 4}
_HIDDEN = 64
_LEVELS = ("blocks.2", "blocks.4")
_EPOCH = {"epochs": 1, "batch_size": 32}
# Name of anomalib's flow -> ours at the same size, to be trained for one epoch, and the features it takes.
_OURS: dict[str, tuple[Callable[[], FeatureDetector], tuple[str, ...]]] = {
    "fastflow": (lambda: FastFlow(steps=8, **_EPOCH), _LEVELS),
    "cflow": (lambda: CFlow(steps=8, **_EPOCH), _LEVELS),
    "csflow": (lambda: CSFlow(kernels=(3, 3, 3, 5), hidden=_HIDDEN, **_EPOCH), tuple(_PYRAMID)),
    "uflow": (lambda: UFlow(steps=4, **_EPOCH), _LEVELS),
}


@benchmark("flows")
def flows() -> list[Row]:
    """An epoch over the features of 64 solar cells, and one image; needs $ADLEARN_ANOMALIB."""
    if not present("flows"):
        return []
    images = load("elpv/mono", _SIZE).train.take(_IMAGES).images()
    features = _features(images)
    with tempfile.TemporaryDirectory() as name:
        np.savez(Path(name) / "features.npz", **{k: v.numpy() for k, v in features.items()})
        theirs = ask("peer_anomalib_flows.py", Path(name), "--hidden", str(_HIDDEN))
    with one_thread():
        return [row for method in _OURS for row in _rows(method, features, theirs[method])]


def _features(images: torch.Tensor) -> Features:
    """Two levels of the image, and CS-Flow's three scales of the deeper one."""
    levels, deepest = FeatureExtractor(), FeatureExtractor(layers=(16,))
    scales = {name: F.interpolate(images, size=(size, size)) for name, size in _PYRAMID.items()}
    return levels(images) | {name: maps for name, x in scales.items() for maps in deepest(x).values()}


def _rows(method: str, features: Features, theirs: dict[str, float]) -> list[Row]:
    build, names = _OURS[method]
    given = {name: features[name] for name in names}
    few = {name: maps[:_TIMED] for name, maps in given.items()}
    detector = build().fit_features(given)
    epoch = seconds(lambda: build().fit_features(given), repeats=2)
    image = seconds(lambda: detector.score_features(few, (_SIZE, _SIZE)), repeats=5) / _TIMED
    return [
        Row(f"{method}, an epoch of {_IMAGES} images", epoch, "anomalib", theirs["epoch"]),
        Row(f"{method}, one image", image, "anomalib", theirs["image_ms"] / 1e3),
    ]
