"""The command behind "measured apart"."""

import sys

import pytest

from adlearn.bench import fit
from adlearn.errors import DataError
from adlearn.methods.memory_bank import KNN


def test_classes_are_found_by_name():
    assert fit.detector_class("KNN") is KNN
    for name in ("Benchmark", "nothing"):
        with pytest.raises(DataError, match=name):
            fit.detector_class(name)


def test_values_are_read_as_python_or_kept_as_text():
    found = fit.arguments(["epochs=3", "layers=(8, 16)", "game=dcgan", "weights=None", "rule=a=b"])
    assert found == {"epochs": 3, "layers": (8, 16), "game": "dcgan", "weights": None, "rule": "a=b"}
    with pytest.raises(DataError, match="NAME=VALUE"):
        fit.arguments(["epochs"])


def test_it_prints_the_numbers_of_each_dataset(tiny, monkeypatch, capsys):
    monkeypatch.setattr(fit, "load", lambda name, size: tiny)
    monkeypatch.setattr(sys, "argv", ["fit", "KNN", "a", "b", "--set", "num_neighbors=1"])
    fit.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"KNN num_neighbors=1 on {name}" for name in "ab"]
    assert all("image auroc" in line for line in lines)
