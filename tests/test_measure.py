import time

import pytest
import torch
import toys

from adlearn.detector import Prediction
from adlearn.features import FeatureExtractor
from adlearn.measure import PeakMemory, latency, measure, score, score_by_kind
from adlearn.metrics import auroc, evaluate, pixel_auroc


def test_metrics_are_those_of_evaluate(tiny):
    detector = toys.ToyPixels()
    metrics, prediction = measure(detector, tiny)
    expected = evaluate(prediction.score, tiny.test.labels, maps=prediction.map, masks=tiny.test.masks())
    assert {name: metrics[name] for name in expected} == expected
    assert metrics["image_auroc"] == 1.0 and metrics["pixel_auroc"] > 0.9
    torch.testing.assert_close(prediction.score, detector.predict(tiny.test.images()).score)


class _Labelled:
    """Six test images: two good, three scratched, one bent, and masks of 2 x 2 px."""

    kinds = ("good", "scratch", "bend", "scratch", "good", "scratch")
    labels = torch.tensor([0, 1, 1, 1, 0, 1])
    has_masks = True

    def masks(self):
        drawn = torch.zeros(6, 2, 2, dtype=torch.bool)
        drawn[self.labels == 1, 0, 0] = True
        return drawn


def test_a_kind_is_scored_against_good_images_and_on_its_own_pixels():
    torch.manual_seed(0)
    dataset, prediction = _Labelled(), Prediction(torch.rand(6), torch.rand(6, 2, 2))
    found = score_by_kind(prediction, dataset)
    assert list(found) == ["bend", "scratch"]
    for kind, own in {"bend": [2], "scratch": [1, 3, 5]}.items():
        rows = [0, 4, *own]
        expected = auroc(prediction.score[rows], dataset.labels[rows])
        assert found[kind]["image_auroc"] == pytest.approx(expected)
        expected = pixel_auroc(prediction.map[own], dataset.masks()[own])
        assert found[kind]["pixel_auroc"] == pytest.approx(expected)


def test_kinds_without_masks_or_maps_have_no_pixel_scores():
    dataset = _Labelled()
    assert set(score_by_kind(Prediction(torch.rand(6)), dataset)["bend"]) == {"image_auroc"}
    dataset.has_masks = False
    assert set(score_by_kind(Prediction(torch.rand(6), torch.rand(6, 2, 2)), dataset)["bend"]) == {
        "image_auroc"
    }


def test_costs_are_there_and_positive(tiny):
    metrics, _ = measure(toys.ToyFeatures(), tiny)
    assert metrics["fit_seconds"] > 0 and metrics["ms_per_image"] > 0 and metrics["peak_mb"] >= 0
    assert metrics["model_mb"] > 0


def test_model_size_counts_parameters_and_buffers():
    detector = toys.KeepsGradients()
    detector.mean = torch.zeros(250_000)
    assert detector.megabytes == pytest.approx(1.000004)


def test_extraction_is_not_part_of_fit_seconds(tiny, own_cache, monkeypatch):
    seen = []
    original = FeatureExtractor._compute
    monkeypatch.setattr(
        FeatureExtractor, "_compute", lambda self, *a: (seen.append("compute"), original(self, *a))[1]
    )
    monkeypatch.setattr(toys.ToyFeatures, "fit", _noting(toys.ToyFeatures.fit, seen))
    measure(toys.ToyFeatures(), tiny)
    assert seen == ["compute", "fit", "compute"]


def _noting(function, seen):
    def noted(self, dataset):
        seen.append("fit")
        return function(self, dataset)

    return noted


def test_maps_count_only_where_there_are_masks(tiny):
    prediction = toys.ToyPixels().fit(tiny.train).predict_dataset(tiny.test)
    assert "pixel_auroc" in score(prediction, tiny)
    assert "pixel_auroc" not in score(Prediction(prediction.score), tiny)


def test_peak_memory_sees_what_is_freed_again():
    with PeakMemory() as peak:
        block = torch.ones(20_000_000)
        time.sleep(0.05)
        del block
    assert 60 < peak.megabytes < 200


def test_peak_memory_stops_watching_after_an_error():
    peak = PeakMemory()
    with pytest.raises(ZeroDivisionError), peak:
        1 / 0  # noqa: B018
    assert not peak._thread.is_alive()


def test_latency_is_median_and_percentile_of_single_images(tiny, monkeypatch):
    """On a clock of our own: 4 calls to warm up, then calls of 1 to 40 ms."""
    detector, batches, now = toys.ToyPixels().fit(tiny.train), [], 0.0
    slept = iter([99.0] * 4 + [float(n) for n in range(1, 41)])

    def predict(images):
        nonlocal now
        batches.append(images.shape)
        now += next(slept) / 1e3
        return Prediction(torch.zeros(len(images)))

    monkeypatch.setattr(detector, "predict", predict)
    monkeypatch.setattr("adlearn.measure.time.perf_counter", lambda: now)
    found = latency(detector, tiny.test[0].image)
    assert found == {"latency_median_ms": pytest.approx(20.5), "latency_p95_ms": pytest.approx(38.05)}
    assert batches == [(1, *tiny.test[0].image.shape)] * 44
