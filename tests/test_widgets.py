"""Panels: their counts are right, they follow their sliders, and their stills are small."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import confusion_matrix, precision_score, recall_score

from adlearn.errors import DataError
from adlearn.metrics import quantile_threshold
from adlearn.plotting import MapLimits, compact_png
from adlearn.widgets import (
    count_outcomes,
    map_explorer,
    map_figure,
    threshold_explorer,
    threshold_figure,
)

SCORES = np.array([0.1, 0.2, 0.6, 0.3, 0.7, 0.9])
LABELS = np.array([0, 0, 0, 1, 1, 1])


def shades(count, size=16):
    """Image i is uniformly i / count grey, so that a drawn picture tells which image it is."""
    return torch.stack([torch.full((3, size, size), i / count) for i in range(count)])


def drawn(figure, count):
    """Which images of `shades(count)` the figure shows, in reading order."""
    frames = [axes for axes in figure.axes if axes.get_images()]
    means = [np.asarray(axes.get_images()[0].get_array()).mean() / 255 for axes in frames]
    return [round(mean * count) for mean in means]


def words(figure):
    return " ".join([text.get_text() for text in figure.texts])


def picture(panel):
    return panel.children[-1].value


def control(panel, description):
    (found,) = (child for child in panel.children if getattr(child, "description", "") == description)
    return found


# --- the counts ---


@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30),
    st.integers(0, 6),
)
def test_outcomes_are_the_confusion_matrix_of_score_at_least_threshold(pairs, threshold):
    scores, labels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs]).astype(int)
    outcomes = count_outcomes(scores, labels, threshold)
    (passed, false_alarms), (missed, found) = confusion_matrix(labels, scores >= threshold, labels=[0, 1])
    assert outcomes == (found, missed, false_alarms, passed)
    alarm = scores >= threshold
    for name, reference in (("precision", precision_score), ("recall", recall_score)):
        expected = reference(labels, alarm, zero_division=np.nan)
        np.testing.assert_equal(outcomes.rates[name], expected)


def test_a_score_on_the_threshold_is_an_alarm():
    assert count_outcomes([0.5, 0.5], [0, 1], 0.5) == (1, 0, 1, 0)


@pytest.mark.parametrize(
    ("scores", "labels", "threshold", "reason"),
    [
        ([0.1, 0.2], [0], 0.1, "both be"),
        ([0.1], [2], 0.1, "labels must be"),
        ([float("nan")], [1], 0.1, "scores contains NaN"),
        ([0.1], [1], float("nan"), "threshold must be a finite number"),
    ],
)
def test_what_cannot_be_counted_is_refused(scores, labels, threshold, reason):
    with pytest.raises(DataError, match=reason):
        count_outcomes(scores, labels, threshold)


# --- the threshold's figure and panel ---


def test_misses_come_most_nearly_found_first_and_false_alarms_loudest_first():
    figure = threshold_figure(shades(6), SCORES, LABELS, 0.8)
    assert drawn(figure, 6) == [4, 3]  # no false alarm at 0.8
    assert "Misses, the most nearly found first (2 of 2)" in words(figure)
    assert drawn(threshold_figure(shades(6), SCORES, LABELS, 0.15), 6) == [2, 1]


def test_the_figure_writes_the_counts_of_its_threshold():
    text = words(threshold_figure(shades(6), SCORES, LABELS, 0.5))
    assert "found 2 · missed 1 · false alarms 1 · correctly passed 2" in text
    assert "precision 0.667 · recall 0.667 · false alarm rate 0.333" in text


def test_at_most_six_misses_and_six_false_alarms_are_shown():
    scores, labels = np.r_[np.ones(9), np.zeros(9)], np.r_[np.zeros(9), np.ones(9)]
    figure = threshold_figure(shades(18), scores, labels, 0.5)
    assert len(drawn(figure, 18)) == 12
    assert "(6 of 9)" in words(figure)


def test_a_still_of_noisy_photographs_fits_into_one_output():
    rng = np.random.default_rng(0)
    images = (0.5 + 0.05 * rng.normal(size=(20, 1, 224, 224))).clip(0, 1).repeat(3, axis=1)
    figure = threshold_figure(images, rng.normal(size=20), np.arange(20) % 2, 0.0)
    assert len(compact_png(figure)) * 4 / 3 < 100_000


def test_images_and_scores_of_different_numbers_are_refused():
    with pytest.raises(DataError, match="scores has 6 entries for 5 images"):
        threshold_figure(shades(5), SCORES, LABELS, 0.5)


def test_moving_the_threshold_redraws_counts_and_picture():
    panel = threshold_explorer(shades(6), SCORES, LABELS, threshold=0.5)
    slider, counts = panel.children[:2]
    assert slider.value == 0.5 and counts.value == str(count_outcomes(SCORES, LABELS, 0.5))
    assert picture(panel) == compact_png(threshold_figure(shades(6), SCORES, LABELS, 0.5))
    slider.value = 0.9
    assert counts.value == str(count_outcomes(SCORES, LABELS, 0.9))
    assert picture(panel) == compact_png(threshold_figure(shades(6), SCORES, LABELS, 0.9))


def test_the_slider_goes_from_every_alarm_to_none():
    panel = threshold_explorer(shades(6), SCORES, LABELS)
    steps = [value for _, value in panel.children[0].options]
    assert set(SCORES) <= set(steps)
    assert count_outcomes(SCORES, LABELS, steps[0])[1] == 0  # nothing missed
    assert count_outcomes(SCORES, LABELS, steps[-1])[0] == 0  # nothing found


def test_the_slider_steps_through_thresholds_of_false_alarm_rates():
    rates = (0.34, 0.67)
    panel = threshold_explorer(shades(6), SCORES, LABELS, false_alarm_rates=rates)
    steps = [value for _, value in panel.children[0].options]
    assert steps == sorted(quantile_threshold(SCORES[LABELS == 0], rate) for rate in rates)


# --- the map's figure and panel ---


def half_map(size=32):
    plane = torch.zeros(size, size)
    plane[:, size // 2 :] = 1.0
    return plane


def test_a_map_figure_shows_image_map_and_overlay_on_one_scale():
    figure = map_figure(torch.rand(3, 32, 32), half_map(), limits=(0, 2))
    frames = [axes.get_images() for axes in figure.axes if axes.get_images()]
    assert [len(pictures) for pictures in frames] == [1, 1, 2]
    heat, over = frames[1][0], frames[2][1]
    assert heat.norm is over.norm and (heat.norm.vmin, heat.norm.vmax) == (0, 2)


def test_the_line_says_how_much_of_the_defect_is_covered():
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[:8, 8:24] = True  # half of it lies where the map is high
    image = torch.rand(3, 32, 32)
    assert "50.0% of the defect, 50.0% of the rest" in words(
        map_figure(image, half_map(), mask, limits=(0, 1), threshold=0.5)
    )
    assert "50.0% of the image" in words(map_figure(image, half_map(), limits=(0, 1), threshold=0.5))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": torch.rand(1, 32, 32)}, r"\(N, 3, H, W\)"),
        ({"map": torch.zeros(2, 8, 8)}, r"map must be"),
        ({"limits": (1, 0)}, "low < high"),
        ({"opacity": 1.5}, "opacity"),
        ({"threshold": float("inf")}, "threshold"),
    ],
)
def test_what_cannot_be_shown_is_refused(change, reason):
    given = {"image": torch.rand(3, 32, 32), "map": half_map(), "limits": (0, 1)} | change
    with pytest.raises(DataError, match=reason):
        map_figure(**given)


@pytest.fixture
def maps_panel():
    images = shades(3, 32) + 0.1 * torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    maps = torch.stack([half_map() * (i + 1) / 3 for i in range(3)])
    return map_explorer(images, maps, limits=MapLimits(0.0, 1.0, 0.4), titles=["a", "b", "c"])


@pytest.mark.parametrize(("description", "value"), [("sample", 2), ("threshold", 0.2), ("opacity", 0.2)])
def test_every_control_of_the_map_panel_redraws_the_picture(maps_panel, description, value):
    before = picture(maps_panel)
    control(maps_panel, description).value = value
    assert picture(maps_panel) != before


def test_the_map_panel_starts_at_the_normal_quantile_and_reaches_every_map(maps_panel):
    slider = control(maps_panel, "threshold")
    assert slider.value == pytest.approx(0.4) and (slider.min, slider.max) == (0, 1)
    beyond = map_explorer(shades(1, 32), 5 * half_map()[None], limits=(0, 1))
    assert control(beyond, "threshold").max == 5


def test_a_panel_shows_a_png_of_a_page_and_its_margin(maps_panel):
    still = Image.open(io.BytesIO(picture(maps_panel)))
    assert still.format == "PNG" and still.width <= 860
