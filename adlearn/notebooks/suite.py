"""What `make test` does, cheap first: static checks and unit tests, then every notebook."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from .. import paths
from . import export, folder, forget_execution, notebooks, numbered, read, write
from .execute import LIMIT

Stage = tuple[str, Callable[[], bool]]
# Their gpu sizes take minutes on a CPU even when every loop stops: dry-run with ADLEARN_NIGHTLY=1 only.
NIGHTLY = (
    "04_normalizing_flow",
    "05_student_teacher",
    "06_reverse_distillation",
    "07_feature_adaptation",
    "08_one_class",
    "09_synthetic_anomalies",
    "10_autoencoders",
    "14_gan",
)


def run_suite() -> bool:
    """Run all stages; the notebooks only when everything before them passed. True when all passed."""
    notebooks()  # raises when there are none: a suite without notebooks tests nothing
    place = paths.runs_dir() / "test"
    shutil.rmtree(place, ignore_errors=True)
    if not _all(_quick_stages(), stop_early=True):
        print("\nFAILED: no notebook was run")
        return False
    passed = _all(_notebook_stages(place), stop_early=False)
    print(f"\n{'all stages passed' if passed else 'FAILED'}; the executed notebooks are in {place}")
    return passed


def _quick_stages() -> list[Stage]:
    return [
        ("export check", modules_agree),
        ("ruff check", lambda: _command("-m", "ruff", "check", "--no-cache")),
        ("ruff format", lambda: _command("-m", "ruff", "format", "--check")),
        # Each on one thread (tests/conftest.py), so two at a time.
        ("unit tests", lambda: _command("-m", "pytest", "tests", "-n", "2")),
    ]


def _notebook_stages(place: Path) -> list[Stage]:
    gpu = {"ADLEARN_PROFILE": "gpu", "ADLEARN_DRY_RUN": "1"}
    measured = place / "notebooks" / "results"
    return [
        ("notebooks", lambda: nbmake(folder(), place / "notebooks")),
        ("solutions", lambda: nbmake(folder() / "solutions", place / "solutions")),
        ("gpu profile, dry run", lambda: nbmake(folder(), place / "gpu", gpu, skip=too_heavy())),
        ("numbers", lambda: numbers_agree(measured)),
    ]


def _all(stages: list[Stage], stop_early: bool) -> bool:
    """Run the stages, telling the outcome of each; True when all passed."""
    passed = True
    for name, stage in stages:
        print(f"\n=== {name}", flush=True)
        began = time.monotonic()
        good = stage()
        print(f"=== {name}: {'passed' if good else 'FAILED'} in {time.monotonic() - began:.0f} s", flush=True)
        passed &= good
        if stop_early and not passed:
            break
    return passed


def _command(*arguments: str, environment: Mapping[str, str] | None = None) -> bool:
    """Run this Python with `arguments` in the checkout; True when it exits with 0."""
    environment = {**os.environ, **(environment or {})}
    return subprocess.run([sys.executable, *arguments], cwd=paths.root(), env=environment).returncode == 0


def too_heavy() -> tuple[str, ...]:
    """Notebooks whose dry run is left to the night: none under `ADLEARN_NIGHTLY=1`."""
    return () if os.environ.get("ADLEARN_NIGHTLY") == "1" else NIGHTLY


def nbmake(
    source: Path,
    copies: Path,
    environment: Mapping[str, str] | None = None,
    skip: Collection[str] = (),
) -> bool:
    """Execute copies of the notebooks in `source` under nbmake; the executed copies stay in `copies`.

    Those named in `skip` are left out. The cpu profile unless `environment` says otherwise. Numbers go to
    `copies/results`; features are computed anew once for all, in `copies/../cache`, so that the seconds are
    those of a newcomer.
    """
    found = [path for path in numbered(source) if path.stem not in skip]
    if skip:
        print(f"left to ADLEARN_NIGHTLY=1: {', '.join(skip)}")
    for path in found:
        notebook = read(path)
        forget_execution(notebook)
        write(notebook, copies / path.name)
    if not found:
        print(f"no notebooks in {source}")
        return False
    settings = {
        "ADLEARN_PROFILE": "cpu",
        "ADLEARN_DRY_RUN": "",
        "ADLEARN_PROGRESS": "0",
        "ADLEARN_RESULTS": str(copies / "results"),
        "ADLEARN_CACHE": str(copies.parent / "cache"),
    }
    options = ["-p", "adlearn.notebooks.pytest_plugin", "--no-header"]
    options += ["--nbmake", f"--nbmake-timeout={LIMIT}", "--nbmake-kernel=python3", "--overwrite"]
    files = [str(copies / path.name) for path in found]
    return _command("-m", "pytest", *options, *files, environment={**settings, **(environment or {})})


def modules_agree() -> bool:
    """Print which modules are not what the notebooks export; True when all are."""
    return _none(export.differences())


def numbers_agree(measured: Path) -> bool:
    """Print how the results in `measured` differ from the committed ones; True when they do not."""
    from ..results import compare

    return _none(compare(measured, paths.committed_results_dir()))


def _none(differences: list[str]) -> bool:
    for line in differences:
        print(line)
    return not differences
