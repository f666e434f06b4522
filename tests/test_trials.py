"""What notebooks do with each detector."""

from dataclasses import replace

import pytest
from toys import ToyPixels

from adlearn import trials
from adlearn.data.base import AnomalyDataset
from adlearn.measure import score
from adlearn.runtime import Run, best_device


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("ADLEARN_RESULTS", str(tmp_path / "results"))
    return Run("99_trials", best_device(), "cpu", 0)


def test_a_trial_fits_on_at_most_the_limit_and_records_what_measure_finds(run, tiny, capsys):
    detector = ToyPixels()
    prediction = trials.try_on(run, "toy", detector, tiny, limit=3)
    expected = ToyPixels().fit(tiny.train.take(3))
    assert detector.mean.equal(expected.mean) and not detector.mean.equal(ToyPixels().fit(tiny.train).mean)
    found = run.records["toy", trials.key(tiny)]
    for name, value in score(prediction, tiny).items():
        assert found[name] == pytest.approx(value)
    assert {"latency_median_ms", "fit_seconds", "model_mb"} <= found.keys()
    assert f"{found['image_auroc']:.3f}" in capsys.readouterr().out


def test_the_key_names_sizes_that_are_not_usual(tiny):
    assert trials.key(tiny).endswith(f"{tiny.test.size} px")
    usual = AnomalyDataset(tiny.test.name, tiny.test.samples, size=224)
    assert trials.key(replace(tiny, test=usual)) == tiny.name


def test_one_of_each_is_a_good_image_and_the_first_of_each_defect(tiny):
    kinds = [tiny.test.kinds[i] for i in trials.one_of_each(tiny)]
    assert kinds[0] == "good" and sorted(kinds) == sorted(set(tiny.test.kinds))
    assert len(trials.one_of_each(tiny, count=1)) == 1


def test_maps_are_shown_for_each_of_them(tiny):
    figure = trials.show_found(ToyPixels().fit(tiny.train), tiny)
    assert len(figure.axes) >= len(trials.one_of_each(tiny))
