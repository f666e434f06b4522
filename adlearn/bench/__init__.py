"""Benchmarks: ours and a reference, timed side by side in one process, printed as ratios (`adlearn bench`).

A benchmark is a function decorated with `@benchmark("name")` in a module of this package; it returns rows.
"""

import importlib
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass

_BENCHMARKS: dict[str, Callable[[], list["Row"]]] = {}


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of ours, seconds of the reference, and what both did."""

    what: str
    ours: float
    reference: str
    reference_seconds: float
    note: str = ""

    @property
    def ratio(self) -> float:
        """How many times faster ours is."""
        return self.reference_seconds / self.ours


def benchmark(name: str) -> Callable:
    """Register a benchmark function under `name`."""

    def register(function: Callable[[], list[Row]]) -> Callable[[], list[Row]]:
        _BENCHMARKS[name] = function
        return function

    return register


def seconds(function: Callable[[], object], repeats: int = 3) -> float:
    """The fastest of `repeats` runs, after one run to warm up."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def benchmarks() -> dict[str, Callable[[], list[Row]]]:
    """All registered benchmarks, by name."""
    for module in pkgutil.iter_modules(__path__):
        # Those run under a peer's Python.
        if not module.name.startswith("peer_"):
            importlib.import_module(f"{__name__}.{module.name}")
    return dict(sorted(_BENCHMARKS.items()))
