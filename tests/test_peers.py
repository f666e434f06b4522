"""The table of our numbers beside anomalib's."""

import json

import pytest

from adlearn import peers
from adlearn.errors import DataError

RECORDS = [
    {"method": "padim", "settings": {"n": 100, "layers": [1, 2]}, "dataset": "a", "image_auroc": 0.9},
    {"method": "padim", "settings": {"n": 152, "layers": [1, 2]}, "dataset": "a", "image_auroc": 0.8},
    {"method": "padim", "settings": {"n": 100, "layers": [1, 2]}, "dataset": "b", "image_auroc": 0.7},
]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "root", lambda: tmp_path)
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "anomalib.json"
    path.write_text(json.dumps({"records": RECORDS}))
    return path


def test_each_pair_is_ours_then_theirs_with_the_settings_asked_for(file):
    ours = {("PaDiM", "a"): {"image_auroc": 0.9512}, ("PaDiM, all", "a"): {"image_auroc": 0.85}}
    table = peers.beside(ours, {"PaDiM": ("padim", {"n": 100}), "PaDiM, all": ("padim", {"n": 152})})
    assert table.loc["PaDiM"].tolist() == ["0.951 / 0.900", "- / 0.700"]
    assert table.loc["PaDiM, all"].tolist() == ["0.850 / 0.800", "- / -"]
    assert list(table.columns) == ["a", "b"]
    assert list(peers.beside(ours, {"PaDiM": ("padim", {"n": 100})}, datasets=["a"]).columns) == ["a"]


def test_an_unknown_setting_and_a_missing_file_are_named(file):
    with pytest.raises(DataError, match="no record of padim"):
        peers.beside({}, {"PaDiM": ("padim", {"n": 7})})
    file.unlink()
    with pytest.raises(DataError, match=r"anomalib\.json"):
        peers.load()


def test_the_committed_records_name_one_number_for_each_setting():
    keys = [(r["method"], json.dumps(r["settings"], sort_keys=True), r["dataset"]) for r in peers.load()]
    assert len(set(keys)) == len(keys) > 50
    assert all("error" in r or 0 <= r["image_auroc"] <= 1 for r in peers.load())
