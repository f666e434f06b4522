"""Where things live: one function per folder, each overridable by an environment variable."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def root() -> Path:
    """The checkout this package was installed from, or the working directory outside a checkout."""
    checkout = _PACKAGE.parent
    return checkout if (checkout / "notebooks").is_dir() else Path.cwd()


def _folder(variable: str, default: Path) -> Path:
    return Path(os.environ[variable]).expanduser() if os.environ.get(variable) else default


def data_dir() -> Path:
    """Datasets, downloaded or drawn (`$ADLEARN_DATA`, else `data/`)."""
    return _folder("ADLEARN_DATA", root() / "data")


def cache_dir() -> Path:
    """Cached features (`$ADLEARN_CACHE`, else `cache/` in the data folder)."""
    return _folder("ADLEARN_CACHE", data_dir() / "cache")


def runs_dir() -> Path:
    """Executed copies of notebooks, checkpoints: everything that may be thrown away (`$ADLEARN_RUNS`)."""
    return _folder("ADLEARN_RUNS", root() / "runs")


def results_dir() -> Path:
    """Where `Run.record` writes (`$ADLEARN_RESULTS`, else `runs/results`); never the committed files."""
    return _folder("ADLEARN_RESULTS", runs_dir() / "results")


def committed_results_dir() -> Path:
    """The numbers under version control, one JSON per notebook."""
    return root() / "notebooks" / "results"
