"""Benchmarks as text: the machine they ran on and one line for each comparison."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

import torch

from . import Row

_VERSIONED = ("torch", "torchvision", "timm", "numpy", "scikit-learn")


def machine() -> str:
    """Cores, threads, system and versions: without them the seconds mean nothing."""
    versions = ", ".join(f"{name} {version(name)}" for name in _VERSIONED)
    return (
        f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, {platform.system()} "
        f"{platform.machine()}, Python {platform.python_version()}, {versions}"
    )


def report(name: str, rows: Sequence[Row]) -> str:
    """The rows of benchmark `name` as a table; the ratio says how many times faster ours is."""
    width = max((len(row.what) for row in rows), default=0)
    lines = [f"\n{name}"]
    for row in rows:
        line = (
            f"  {row.what:<{width}}  {_seconds(row.ours)}  {row.ratio:6.2f}x  "
            f"({row.reference}: {_seconds(row.reference_seconds)})  {row.note}"
        )
        lines.append(line.rstrip())
    return "\n".join(lines)


def _seconds(value: float) -> str:
    return f"{value:8.2f} s " if value >= 1 else f"{value * 1e3:8.2f} ms"
