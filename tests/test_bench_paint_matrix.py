"""The matrix of paints and defects on a folder of real ones."""

import sys

import pytest

from adlearn.bench import paint_matrix
from adlearn.measure import score_by_kind
from adlearn.methods.gaussian_density import PaDiM


def test_a_row_has_every_kind_and_what_the_detector_makes_of_its_own_paint(tiny):
    row = paint_matrix.row("confetti", tiny, copies=1, seed=0)
    assert set(row) == {("pixel", "square"), ("image", "square"), ("pixel", "own paint")}
    assert all(0 <= value <= 1 for value in row.values())


def test_the_row_of_padim_is_its_score_by_kind(tiny):
    found = score_by_kind(PaDiM().fit(tiny.train).predict_dataset(tiny.test), tiny.test)["square"]
    row = paint_matrix.row("PaDiM", tiny, copies=1, seed=0)
    expected = {("pixel", "square"): found["pixel_auroc"], ("image", "square"): found["image_auroc"]}
    assert row == pytest.approx(expected)


def test_it_prints_each_row_and_the_means_and_ranges_of_seeds(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paint_matrix.readers, "magnetic_tile", lambda folder, size: tiny)
    paints = ["--paints", "confetti", "PaDiM"]
    monkeypatch.setattr(sys, "argv", ["paint_matrix", str(tmp_path), "--seeds", "0", "1", *paints])
    paint_matrix.main()
    printed = capsys.readouterr().out
    assert printed.count("confetti, seed") == printed.count("PaDiM, seed") == 2
    assert "pixel AUROC, mean of 2 seeds" in printed and "largest difference between seeds" in printed
