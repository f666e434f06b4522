"""What notebooks do with each detector: measure it, say and record the numbers, show its maps."""

from dataclasses import replace

from matplotlib.figure import Figure

from .data.base import Benchmark
from .detector import Detector, Prediction
from .measure import latency, measure
from .plotting import map_limits, show_maps
from .runtime import Run

_SAID = ("image_auroc", "pixel_auroc", "pixel_aupro")
_USUAL_SIZE = 224


def limited(benchmark: Benchmark, count: int) -> Benchmark:
    """`benchmark` with at most `count` training images."""
    return replace(benchmark, train=benchmark.train.take(count))


def key(benchmark: Benchmark) -> str:
    """The name a benchmark is recorded under: images that are not 224 px have their size behind it."""
    size = benchmark.test.size
    return benchmark.name if size == _USUAL_SIZE else f"{benchmark.name} {size} px"


def try_on(run: Run, name: str, detector: Detector, benchmark: Benchmark, limit: int) -> Prediction:
    """Fit `detector` on at most `limit` images, score the test set, print a line and record the numbers.

    Also timed: single images (`adlearn.measure.latency`), on the run's device and on the CPU.
    """
    metrics, prediction = measure(detector.to(run.device), limited(benchmark, limit))
    metrics |= latency(detector, benchmark.test[0].image)
    if run.device.type != "cpu":
        on_cpu = latency(detector.to("cpu"), benchmark.test[0].image)
        metrics |= {f"cpu_{name}": milliseconds for name, milliseconds in on_cpu.items()}
        detector.to(run.device)
    run.record(name, key(benchmark), metrics)
    numbers = "  ".join(f"{k.replace('_', ' ')} {metrics[k]:.3f}" for k in _SAID if k in metrics)
    print(f"{name} on {benchmark.name:14s} {numbers}  ({metrics['model_mb']:.1f} MB)")
    return prediction


def one_of_each(benchmark: Benchmark, count: int = 6) -> list[int]:
    """Positions in the test set: a good image, then the first one of each of `count` - 1 kinds of defect."""
    kinds = benchmark.test.kinds
    return [kinds.index(name) for name in ["good", *sorted(set(kinds) - {"good"})][:count]]


def show_found(detector: Detector, benchmark: Benchmark, count: int = 6) -> Figure:
    """The fitted detector's maps of `one_of_each`, on one scale that comes from normal validation images."""
    shown = benchmark.test.select(one_of_each(benchmark, count))
    limits = map_limits(detector.predict_dataset(benchmark.validation).map)
    found = detector.predict_dataset(shown)
    return show_maps(shown.images(), shown.masks(), found.map, shown.kinds, limits=limits, scores=found.score)
