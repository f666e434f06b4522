import json
import random

import numpy as np
import pytest
import torch

import adlearn
from adlearn import runtime
from adlearn.errors import DataError
from adlearn.paths import cache_dir, committed_results_dir, data_dir, results_dir, root, runs_dir


def numbers():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_start_says_device_profile_and_seed_in_one_line(capsys, monkeypatch):
    monkeypatch.setenv("ADLEARN_PROFILE", "cpu")
    run = adlearn.start("02_gaussian", seed=3)
    assert capsys.readouterr().out == f"02_gaussian · device {run.device} · profile cpu · seed 3\n"


def test_a_dry_run_says_so(capsys, monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    adlearn.start("02_gaussian")
    assert capsys.readouterr().out.endswith(" · dry run\n")


def test_start_seeds_all_generators():
    adlearn.start("02_gaussian", seed=1)
    first = numbers()
    adlearn.start("02_gaussian", seed=1)
    assert numbers() == first
    adlearn.start("02_gaussian", seed=2)
    assert not set(numbers()) & set(first)


@pytest.mark.parametrize(("profile", "epochs"), [("cpu", 5), ("gpu", 100)])
def test_pick_follows_the_profile(profile, epochs, monkeypatch):
    monkeypatch.setenv("ADLEARN_PROFILE", profile)
    assert adlearn.start("02_gaussian").pick(cpu=5, gpu=100) == epochs


def test_unknown_profiles_are_refused(monkeypatch):
    monkeypatch.setenv("ADLEARN_PROFILE", "tpu")
    with pytest.raises(DataError, match="ADLEARN_PROFILE='tpu': choose one of cpu, gpu"):
        adlearn.start("02_gaussian")


@pytest.mark.parametrize(("cuda", "mps", "device"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_best_device_is_taken(cuda, mps, device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert runtime.best_device().type == device
    assert runtime.profile() == ("gpu" if cuda else "cpu")


@pytest.mark.parametrize(("value", "dry"), [("", False), ("0", False), ("1", True), ("yes", True)])
def test_dry_run_is_read_from_the_environment(value, dry, monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", value)
    assert runtime.dry_run() == dry


def test_generators_depend_on_seed_and_offset_only():
    run = adlearn.start("02_gaussian", seed=4)
    draws = [torch.rand(3, generator=run.generator(offset)).tolist() for offset in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_records_are_written_at_once_and_replaced():
    run = adlearn.start("02_gaussian")
    assert run.record("PaDiM", "elpv", {"image_auroc": 0.5}) == {"image_auroc": 0.5}
    run.record("PaDiM", "elpv", {"image_auroc": 0.9})
    run.record("PaDiM", "factory", {"image_auroc": 0.8})
    content = json.loads(run.results_path.read_text())
    assert content["notebook"] == "02_gaussian" and content["profile"] == run.profile
    assert content["records"] == run.rows()
    assert [r["image_auroc"] for r in run.rows()] == [0.9, 0.8]


def test_a_refused_record_does_not_spoil_later_ones():
    run = adlearn.start("02_gaussian")
    with pytest.raises(DataError, match="image_auroc is nan"):
        run.record("PaDiM", "elpv", {"image_auroc": float("nan")})
    run.record("PaDiM", "factory", {"image_auroc": 0.8})
    assert [r["dataset"] for r in run.rows()] == ["factory"]


def test_start_forgets_the_last_execution():
    adlearn.start("02_gaussian").record("Old", "elpv", {"image_auroc": 0.5})
    run = adlearn.start("02_gaussian")
    assert not run.results_path.exists() and run.rows() == []


def test_a_dry_run_records_nothing_and_forgets_nothing(monkeypatch):
    run = adlearn.start("02_gaussian")
    run.record("PaDiM", "elpv", {"image_auroc": 0.5})
    before = run.results_path.read_bytes()
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    adlearn.start("02_gaussian").record("PaDiM", "elpv", {"image_auroc": 0.1})
    assert run.results_path.read_bytes() == before


def test_results_are_never_written_over_the_committed_ones(monkeypatch):
    for name in ("ADLEARN_RUNS", "ADLEARN_RESULTS"):
        monkeypatch.delenv(name, raising=False)
    assert results_dir() != committed_results_dir()


@pytest.mark.parametrize(
    ("function", "variable", "default"),
    [
        (data_dir, "ADLEARN_DATA", lambda: root() / "data"),
        (cache_dir, "ADLEARN_CACHE", lambda: data_dir() / "cache"),
        (runs_dir, "ADLEARN_RUNS", lambda: root() / "runs"),
        (results_dir, "ADLEARN_RESULTS", lambda: runs_dir() / "results"),
    ],
)
def test_folders_follow_their_variable_else_their_default(function, variable, default, monkeypatch, tmp_path):
    monkeypatch.setenv(variable, str(tmp_path / "here"))
    assert function() == tmp_path / "here"
    monkeypatch.setenv(variable, "")
    assert function() == default()


def test_progress_can_be_silenced(monkeypatch, capsys):
    for value, shown in (("0", False), ("1", True)):
        monkeypatch.setenv("ADLEARN_PROGRESS", value)
        assert list(runtime.progress(range(3))) == [0, 1, 2]
        assert (capsys.readouterr().err != "") == shown
