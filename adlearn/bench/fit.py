"""Fit one detector with any arguments and print its numbers.

So the numbers that a notebook calls "measured apart" can be had again:

    python -m adlearn.bench.fit NSA factory/steel --size 128 --set epochs=100 width=16
"""

import argparse
import ast
import importlib
import pkgutil
from typing import Any

import adlearn.methods

from ..data import load
from ..detector import Detector
from ..errors import DataError
from ..measure import measure
from ..trials import limited

_TOLD = ("image_auroc", "pixel_auroc", "pixel_aupro", "fit_seconds")


def detector_class(name: str) -> type[Detector]:
    """The class `name` of any module in `adlearn.methods`; raises `DataError` if there is none."""
    for found in pkgutil.iter_modules(adlearn.methods.__path__, "adlearn.methods."):
        cls = getattr(importlib.import_module(found.name), name, None)
        if isinstance(cls, type) and issubclass(cls, Detector):
            return cls
    raise DataError(f"no detector {name!r} in adlearn.methods")


def arguments(pairs: list[str]) -> dict[str, Any]:
    """{"epochs": 100, "game": "dcgan"} of ["epochs=100", "game=dcgan"]; raises `DataError` without a "="."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            raise DataError(f"{pair!r} is not NAME=VALUE")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", help="class name: NSA, VAE, ...")
    parser.add_argument("datasets", nargs="+", metavar="dataset", help="factory/steel, elpv/mono, ...")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels")
    parser.add_argument("--limit", type=int, default=100, help="training images")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="arguments of the class")
    options = parser.parse_args()
    for name in options.datasets:
        detector = detector_class(options.method)(**arguments(options.set))
        metrics, _ = measure(detector, limited(load(name, options.size), options.limit))
        told = "  ".join(f"{key.replace('_', ' ')} {metrics[key]:.3f}" for key in _TOLD if key in metrics)
        print(f"{options.method} {' '.join(options.set)} on {name}: {told}", flush=True)


if __name__ == "__main__":
    main()
