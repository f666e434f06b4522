"""`start` a notebook: device, seed, profile; and `Run`, which remembers what the notebook measured."""

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm.auto import tqdm

from .errors import DataError
from .files import storage_errors
from .paths import results_dir
from .results import write_records

T = TypeVar("T")
Records = dict[tuple[str, str], dict[str, float]]
PROFILES = ("cpu", "gpu")


def dry_run() -> bool:
    """True under `ADLEARN_DRY_RUN=1`: every loop stops after two batches, nothing is recorded."""
    return os.environ.get("ADLEARN_DRY_RUN", "") not in ("", "0")


def best_device() -> torch.device:
    """CUDA, else Apple's MPS, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def profile() -> str:
    """`$ADLEARN_PROFILE`, else "gpu" with CUDA and "cpu" without."""
    chosen = os.environ.get("ADLEARN_PROFILE") or ("gpu" if torch.cuda.is_available() else "cpu")
    if chosen not in PROFILES:
        raise DataError(f"ADLEARN_PROFILE={chosen!r}: choose one of {', '.join(PROFILES)}")
    return chosen


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and every PyTorch device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def progress(iterable: Any = None, **options: Any) -> tqdm:
    """A progress bar that vanishes when done and stays silent where nobody watches."""
    quiet = os.environ.get("ADLEARN_PROGRESS") == "0"
    return tqdm(iterable, leave=False, disable=quiet, **options)


@dataclass
class Run:
    """One execution of one notebook."""

    notebook: str
    device: torch.device
    profile: str
    seed: int
    records: Records = field(default_factory=dict)

    def pick(self, *, cpu: T, gpu: T) -> T:
        """The value for this run's profile: `epochs = run.pick(cpu=5, gpu=100)`."""
        return gpu if self.profile == "gpu" else cpu

    def generator(self, offset: int = 0) -> torch.Generator:
        """A CPU generator of this run's seed (plus `offset`), apart from the global one."""
        return torch.Generator().manual_seed(self.seed + offset)

    def record(self, method: str, dataset: str, metrics: Mapping[str, float]) -> Mapping[str, float]:
        """Keep what was measured: written to `results_dir()/NN_family.json` and returned.

        A second record of the same method and dataset replaces the first. A dry run writes nothing.
        """
        records = self.records | {(method, dataset): dict(metrics)}
        if not dry_run():
            write_records(self.results_path, self.notebook, self.profile, _rows(records))
        self.records = records
        return metrics

    def rows(self) -> list[dict[str, Any]]:
        """What was recorded so far, a row each: method, dataset and metrics."""
        return _rows(self.records)

    @property
    def results_path(self) -> Path:
        return results_dir() / f"{self.notebook}.json"

    def __str__(self) -> str:
        suffix = " · dry run" if dry_run() else ""
        return f"{self.notebook} · device {self.device} · profile {self.profile} · seed {self.seed}{suffix}"


def _rows(records: Records) -> list[dict[str, Any]]:
    return [{"method": m, "dataset": d} | values for (m, d), values in records.items()]


def start(notebook: str, seed: int = 0, figure_kb: int = 70) -> Run:
    """Begin a notebook: choose device and profile, seed, set the figures' look; say so in one line.

    A figure is stored in `figure_kb` kB if it can be: fewer where a notebook shows many, since it has 1 MB.
    """
    from .plotting.style import use_style

    seed_everything(seed)
    use_style(figure_kb)
    run = Run(notebook, best_device(), profile(), seed)
    if not dry_run():
        with storage_errors(run.results_path):
            run.results_path.unlink(missing_ok=True)
    print(run)
    return run
