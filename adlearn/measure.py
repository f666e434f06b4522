"""Fit a detector, score a benchmark, and measure what it cost."""

import threading
import time
from types import TracebackType

import numpy as np
import psutil
import torch

from .data.base import AnomalyDataset, Benchmark
from .detector import Detector, FeatureDetector, Prediction
from .metrics import auroc, evaluate, pixel_auroc
from .runtime import dry_run

_TIMED_IMAGES, _WARM_UP = 4, 4


class PeakMemory:
    """Peak memory above the start, in MB (1e6 bytes): of the process, or of the CUDA device.

    >>> with PeakMemory() as peak:
    ...     work()
    >>> peak.megabytes
    """

    _INTERVAL = 0.005

    def __init__(self, device: torch.device | None = None):
        self.cuda = device is not None and device.type == "cuda"
        self.device, self.megabytes = device, 0.0

    def _now(self) -> int:
        return torch.cuda.memory_allocated(self.device) if self.cuda else psutil.Process().memory_info().rss

    def _watch(self) -> None:
        while not self._stop.wait(self._INTERVAL):
            self._peak = max(self._peak, self._now())

    def __enter__(self) -> "PeakMemory":
        self._stop, self._start = threading.Event(), self._now()
        self._peak = self._start
        if self.cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self.cuda:
            self._peak = torch.cuda.max_memory_allocated(self.device)
        else:
            self._thread.join()
        self.megabytes = (max(self._peak, self._now()) - self._start) / 1e6


def measure(detector: Detector, benchmark: Benchmark) -> tuple[dict[str, float], Prediction]:
    """Fit on `benchmark.train`, score `benchmark.test`: its metrics and costs, and the prediction itself.

    Metrics are those of `adlearn.metrics.evaluate`. Costs: `fit_seconds` (from features where the
    method works on frozen ones, which are extracted before the clock starts; else from image files),
    `ms_per_image` (from image tensors in memory, backbone included, batches of 4), `model_mb`, `peak_mb`
    (during `fit` and those batches).
    """
    if isinstance(detector, FeatureDetector):
        detector.extractor.extract(benchmark.train)
    with PeakMemory(detector.device) as peak:
        start = time.perf_counter()
        detector.fit(benchmark.train)
        fit_seconds = time.perf_counter() - start
        ms_per_image = _milliseconds(detector, benchmark)
    prediction = detector.predict_dataset(benchmark.test)
    costs = {"fit_seconds": fit_seconds, "ms_per_image": ms_per_image}
    costs |= {"model_mb": detector.megabytes, "peak_mb": peak.megabytes}
    return score(prediction, benchmark) | {k: round(v, 3) for k, v in costs.items()}, prediction


def score(prediction: Prediction, benchmark: Benchmark) -> dict[str, float]:
    """Metrics of `prediction` on `benchmark.test`; pixel metrics where there are a map and masks."""
    test = benchmark.test
    pixels = {}
    if prediction.map is not None and test.has_masks:
        pixels = {"maps": prediction.map, "masks": test.masks()}
    return evaluate(prediction.score, test.labels, **pixels)


def score_by_kind(prediction: Prediction, dataset: AnomalyDataset) -> dict[str, dict[str, float]]:
    """{kind of defect: {"image_auroc", "pixel_auroc"}} of the `prediction` of `dataset`.

    Of a kind's images against the good ones, and of the pixels of its images; the latter where there are a
    map and masks.
    """
    with_pixels = prediction.map is not None and dataset.has_masks
    masks = dataset.masks() if with_pixels else None
    found = {}
    for kind in sorted(set(dataset.kinds) - {"good"}):
        shows = torch.tensor([other == kind for other in dataset.kinds])
        counts = shows | (dataset.labels == 0)
        found[kind] = {"image_auroc": auroc(prediction.score[counts], dataset.labels[counts])}
        if with_pixels:
            found[kind]["pixel_auroc"] = pixel_auroc(prediction.map[shows], masks[shows])
    return found


def latency(detector: Detector, image: torch.Tensor, repeats: int = 40) -> dict[str, float]:
    """Milliseconds of `predict` on one image (3, H, W): median and 95th percentile of `repeats` calls.

    Four calls go before, to warm up; on CUDA each call waits for its result. Gradient maps are included.
    """
    batch, times = image[None].to(detector.device), []
    for _ in range(_WARM_UP + (2 if dry_run() else repeats)):
        start = time.perf_counter()
        detector.predict(batch).cpu()
        times.append((time.perf_counter() - start) * 1e3)
    median, high = np.percentile(times[_WARM_UP:], [50, 95])
    return {"latency_median_ms": round(float(median), 2), "latency_p95_ms": round(float(high), 2)}


def _milliseconds(detector: Detector, benchmark: Benchmark) -> float:
    """The faster of two batches, after none to warm up: caches are warm from `fit`."""
    images = next(benchmark.test.batches(_TIMED_IMAGES)).images.to(detector.device)
    times = []
    for _ in range(2):
        start = time.perf_counter()
        detector.predict(images).cpu()
        times.append((time.perf_counter() - start) * 1e3 / len(images))
    return min(times)
