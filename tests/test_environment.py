"""pyproject.toml, constraints.txt, environment.yml, CITATION.cff and the Makefile say the same."""

import os
import re
import subprocess
import time
import tomllib
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from adlearn import __version__, paths

ROOT = paths.root()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [
    Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PINNED = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in PINS}
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())


@pytest.mark.parametrize("required", REQUIRED, ids=lambda r: r.name)
def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows(required):
    assert required.specifier.contains(PINNED[canonicalize_name(required.name)])


def test_constraints_pin_each_package_once_exactly_for_every_platform():
    assert len(PINNED) == len(PINS)
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in PINS)
    assert not [name for name in PINNED if name.startswith(("nvidia", "cuda", "triton"))]


def test_pins_fit_each_other():
    """What each pinned package that is installed asks of the others is kept by their pins."""
    for name in PINNED:
        try:
            asked = [Requirement(line) for line in requires(name) or []]
        except PackageNotFoundError:
            continue
        for need in asked:
            pin = PINNED.get(canonicalize_name(need.name))
            if pin is not None and (need.marker is None or need.marker.evaluate({"extra": ""})):
                assert need.specifier.contains(pin, prereleases=True), f"{name} needs {need}, pinned is {pin}"


def test_conda_users_get_the_same():
    python, *others = CONDA["dependencies"]
    assert CONDA["name"] == PROJECT["name"]
    assert others == ["pip", {"pip": ["-c constraints.txt", "-e .[dev]"]}]
    conda, pip = SpecifierSet(python.removeprefix("python")), SpecifierSet(PROJECT["requires-python"])
    minors = [f"3.{minor}" for minor in range(8, 14)]
    assert [m for m in minors if m in conda] == [m for m in minors if m in pip]


def test_ci_tests_the_oldest_python_that_is_promised():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "test.yml").read_text())
    job = workflow["jobs"]["test"]
    assert f">={job['strategy']['matrix']['python'][0]}" == PROJECT["requires-python"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make test"]


def test_versions_and_licences_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert __version__ == PROJECT["version"] == citation["version"]
    assert PROJECT["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()


def test_ci_runs_make_test_and_nothing_else():
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines == ["#!/usr/bin/env bash", "set -euo pipefail", 'cd "$(dirname "$0")/.."', "exec make test"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.fixture
def make(tmp_path):
    """Run this Makefile in a folder of its own, with a Python that only pretends to install."""
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    python = tmp_path / "fake-python"
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        command = ["make", "-f", str(ROOT / "Makefile"), f"PYTHON={python}", *arguments]
        outer = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        settings = {**outer, "CALLS": str(tmp_path / "calls"), **environment}
        return subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)

    return run


FAKE_PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in
  "-c "*) exit "${VERSION_CHECK:-0}" ;;
  "-m venv --clear "*)
    rm -rf .venv
    mkdir -p .venv/bin
    cp "$0" .venv/bin/python
    cp "$0" .venv/bin/adlearn ;;
  "-m pip install"*) exit "${PIP:-0}" ;;
esac
"""


def calls(tmp_path: Path) -> str:
    """What the fake Python was asked for since the last time."""
    text = (tmp_path / "calls").read_text()
    (tmp_path / "calls").unlink()
    return text


def test_make_refuses_an_old_python_with_a_sentence(make, tmp_path):
    result = make("run", VERSION_CHECK="1")
    assert result.returncode != 0 and "adlearn needs Python 3.11 or newer" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_takes_up_an_interrupted_installation_and_keeps_a_finished_one(make, tmp_path):
    assert make("doctor", PIP="1").returncode != 0
    assert "venv" in calls(tmp_path) and not (tmp_path / ".venv" / ".installed").exists()
    assert make("doctor").returncode == 0
    again = calls(tmp_path)
    assert "-c constraints.txt -e .[dev]" in again and "venv" not in again and again.endswith("doctor\n")
    make("run", "NB=03")
    assert calls(tmp_path) == "run 03\n"


def test_make_makes_a_venv_without_pip_anew(make, tmp_path):
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert make("test").returncode == 0
    assert "-m venv --clear .venv" in calls(tmp_path)


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_make_installs_again_when_the_versions_change(make, tmp_path, name):
    make("lab")
    calls(tmp_path)
    later = time.time() + 10
    os.utime(tmp_path / name, (later, later))
    make("lab")
    assert "pip install" in calls(tmp_path)
