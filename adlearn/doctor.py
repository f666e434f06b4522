"""What `adlearn doctor` finds on this machine, and what to do about what is missing."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from . import paths, weights
from .data.catalogue import available
from .errors import DataError, WeightsError
from .files import atomic_path
from .runtime import best_device, dry_run, profile

_OTHER_BACKBONES = ("resnet18", "wide_resnet50_2", "vit_small_patch14_dinov2")
_MIN_FREE_GB = 2


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, what was found, what to do. `broken`: the notebooks need it."""

    what: str
    found: str
    todo: str = ""
    broken: bool = False

    def __str__(self) -> str:
        mark = "BROKEN" if self.broken else "ok" if not self.todo else "-"
        return f"{mark:<7}{self.what:<28}{self.found}" + (f"\n{'':<35}-> {self.todo}" if self.todo else "")


def examine() -> list[Finding]:
    """Everything that was found, what the notebooks need first."""
    return [_python(), _torch(), _profile(), *_weights(), *_datasets(), *_folders(), _disk()]


def _python() -> Finding:
    return Finding("Python", f"{platform.python_version()} ({sys.executable})")


def _torch() -> Finding:
    device = best_device()
    names = {"cuda": lambda: f"cuda ({torch.cuda.get_device_name()})", "mps": lambda: "mps (Apple GPU)"}
    where = names.get(
        device.type, lambda: f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"
    )()
    return Finding("PyTorch", f"{version('torch')}, torchvision {version('torchvision')}, device {where}")


def _profile() -> Finding:
    try:
        return Finding("profile", profile() + (", dry run" if dry_run() else ""))
    except DataError as error:
        return Finding("profile", str(error), "unset ADLEARN_PROFILE or correct it", broken=True)


def _weights() -> Iterator[Finding]:
    try:
        weights.verify(weights.packaged_weights())
        yield Finding(weights.DEFAULT_BACKBONE, "packaged weights, checksum right")
    except WeightsError as error:
        yield Finding(weights.DEFAULT_BACKBONE, "not usable", str(error), broken=True)
    for name in _OTHER_BACKBONES:
        if weights.cached_file(name) is not None:
            yield Finding(name, "weights in the local hub cache")
        else:
            yield Finding(
                name, "weights not here", "fetched at first use, when online; notebooks run without them"
            )


def _datasets() -> Iterator[Finding]:
    for data in available():
        if data.present:
            yield Finding(data.name, f"found ({', '.join(data.categories) or data.where.name})")
        elif data.name in ("elpv", "implanted"):
            yield Finding(data.name, "not found", "pip install elpv-dataset", broken=True)
        else:
            yield Finding(data.name, "not found (optional)", f"see data/README.md; it goes to {data.where}")


def _folders() -> Iterator[Finding]:
    for what, folder in (
        ("data", paths.data_dir()),
        ("cache", paths.cache_dir()),
        ("runs", paths.runs_dir()),
    ):
        try:
            with atomic_path(folder / "probe") as temporary:
                temporary.touch()
            (folder / "probe").unlink()
            yield Finding(f"{what} folder", f"{folder} can be written")
        except OSError as error:
            yield Finding(f"{what} folder", f"{folder} cannot be written", error.strerror or "", broken=True)


def _disk() -> Finding:
    free = shutil.disk_usage(_existing(paths.data_dir())).free / 1e9
    todo = "" if free >= _MIN_FREE_GB else "make room: features and drawn datasets take up to 2 GB"
    return Finding("free disk", f"{free:.1f} GB", todo)


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
