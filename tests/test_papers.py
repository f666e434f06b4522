"""The catalogue: complete, consistent, and refused when it is not."""

import importlib

import pandas as pd
import pytest

from adlearn import papers
from adlearn.errors import DataError


def test_every_method_has_a_key_a_year_a_notebook_and_a_role():
    methods = papers.methods()
    assert len(methods) == 198
    assert methods["key"].is_unique
    assert methods["year"].notna().all()
    assert methods["notebook"].str.fullmatch(r"\d\d_[a-z_]+").all()
    assert set(methods["role"]) == set(papers.ROLES)
    assert (methods["core_idea"] != "").all()


def test_what_is_said_to_be_built_is_there_and_counts_as_core_or_variation():
    built = papers.methods().query("built != ''")
    for row in built.itertuples():
        module = importlib.import_module(f"adlearn.methods.{row.notebook[3:]}")
        assert hasattr(module, row.built), f"{row.key}: {module.__name__} has no {row.built}"
    assert set(built["role"]) <= {"core", "variation"}


def test_a_family_lists_each_of_its_papers_once_oldest_first():
    lines = papers.family("02_gaussian_density").splitlines()
    assert len(lines) == 2 + len(papers.methods("02_gaussian_density")) == 16
    assert "core method: `PaDiM`" in "".join(lines)
    years = [int(line.split("|")[2]) for line in lines[2:]]
    assert years == sorted(years)


def test_each_address_of_a_paper_is_a_link_of_its_own():
    table = papers.family("07_feature_adaptation")
    assert "[CFA](https://arxiv.org/abs/2206.04325) [[2]](https://github.com/" in table
    assert " ; http" not in table


def test_a_missing_file_or_column_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(papers, "root", lambda: tmp_path)
    with pytest.raises(DataError, match=r"papers\.csv"):
        papers.load()
    (tmp_path / "data").mkdir()
    pd.DataFrame({"key": ["x"]}).to_csv(tmp_path / "data" / "papers.csv", index=False)
    with pytest.raises(DataError, match="title"):
        papers.load()
