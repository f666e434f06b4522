"""Figures: what they show, that maps share one scale, and that they are small enough for a notebook."""

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import average_precision_score

from adlearn import metrics
from adlearn.errors import DataError
from adlearn.plotting import (
    MapLimits,
    compact_png,
    compare_bars,
    map_limits,
    pr_plot,
    pro_plot,
    roc_plot,
    score_histogram,
    show_images,
    show_maps,
    training_curve,
    use_style,
)
from adlearn.plotting.png import show_as_compact_png
from adlearn.plotting.style import METHODS, STYLE, method_styles

OUTPUT_LIMIT = 100_000
"""Bytes of one cell's output; base64 turns three bytes of PNG into four."""


def photos(count, size=64, seed=0):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def cells(count, size=300):
    """Grey, noisy photographs: what electroluminescence images are to a PNG encoder."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / size
    light = [0.5 + 0.3 * np.sin(9 * x + i) * np.cos(7 * y - i) for i in range(count)]
    grey = np.stack(light) + 0.04 * rng.normal(size=(count, size, size))
    return np.repeat(grey.clip(0, 1)[:, None], 3, axis=1)


def scored(count=60, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    return rng.normal(size=count) + 1.5 * labels, labels


def maps_and_masks(count, size=32):
    y, x = np.mgrid[:size, :size] / size
    maps = np.stack([np.exp(-((x - 0.1 * i) ** 2 + (y - 0.5) ** 2) * 20) for i in range(1, count + 1)])
    return maps, maps > 0.6


def stored_bytes(figure):
    """What the figure takes in a notebook's JSON."""
    return len(compact_png(figure)) * 4 / 3


def shown(figure):
    """The pictures of each frame, from top left to bottom right, colour bar apart."""
    return [list(axes.get_images()) for axes in figure.axes if axes.get_images()]


# --- contact sheets ---


def test_a_contact_sheet_shows_every_image_once_in_order():
    images = torch.stack([torch.full((3, 8, 8), value) for value in (0.0, 0.2, 0.4, 0.6, 0.8)])
    pictures = shown(show_images(images, columns=3))
    assert [len(p) for p in pictures] == [1] * 5
    means = [np.asarray(p[0].get_array()).mean() / 255 for p in pictures]
    np.testing.assert_allclose(means, (0.0, 0.2, 0.4, 0.6, 0.8), atol=1 / 255)


def test_a_contact_sheet_puts_columns_images_in_a_row():
    tops = [round(axes.get_position().y1, 6) for axes in show_images(photos(7), columns=3).axes]
    assert [tops.count(top) for top in sorted(set(tops), reverse=True)] == [3, 3, 1]


@pytest.mark.parametrize("columns", [4, 6])
def test_sixteen_noisy_photographs_fit_into_one_output(columns):
    assert stored_bytes(show_images(cells(16), columns=columns)) < OUTPUT_LIMIT


def test_a_sheet_is_never_wider_than_the_page():
    for count in (1, 3, 6, 30):
        assert show_images(photos(count)).get_size_inches()[0] <= 8.3


def test_pictures_keep_their_shape():
    axes = show_images(torch.rand(2, 3, 40, 80)).axes[0]
    box = axes.get_window_extent()
    assert box.height / box.width == pytest.approx(0.5, abs=0.02)


def test_titles_are_written_and_cut_to_the_cell():
    figure = show_images(photos(2), titles=["crack", "x" * 200])
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles[0] == "crack"
    assert titles[1].endswith("…") and len(titles[1]) < 60


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.rand(3, 8, 8), r"\(N, 3, H, W\)"),
        (torch.rand(2, 1, 8, 8), r"\(N, 3, H, W\)"),
        (torch.rand(0, 3, 8, 8), "at least one"),
        (torch.full((1, 3, 8, 8), 255, dtype=torch.uint8), "divide by 255"),
        (torch.full((1, 3, 8, 8), torch.nan), "NaN"),
    ],
)
def test_images_that_cannot_be_drawn_are_refused(images, reason):
    with pytest.raises(DataError, match=reason):
        show_images(images)


def test_titles_of_another_number_are_refused():
    with pytest.raises(DataError, match="titles has 1 entries for 2 images"):
        show_images(photos(2), titles=["one"])


# --- maps ---


def test_all_maps_and_overlays_share_one_scale():
    maps, masks = maps_and_masks(4)
    figure = show_maps(photos(4), masks, maps, limits=(0.1, 0.7))
    planes = [p[-1] for p in shown(figure) if p[-1].get_array().ndim == 2]
    norms = [plane.norm for plane in planes if plane.get_cmap().name != "gray"]
    assert len(norms) == 8  # a map and an overlay of each sample
    assert all(norm is norms[0] for norm in norms)
    assert isinstance(norms[0], Normalize) and (norms[0].vmin, norms[0].vmax) == (0.1, 0.7)


def test_a_sample_is_a_column_of_image_mask_map_and_overlay():
    maps, masks = maps_and_masks(3)
    with_masks = show_maps(photos(3), masks, maps, limits=(0, 1))
    assert len(shown(with_masks)) == 3 * 4
    names = [axes.get_ylabel() for axes in with_masks.axes if axes.get_ylabel()]
    assert names == ["image", "mask", "map", "overlay"]
    assert len(shown(show_maps(photos(3), None, maps, limits=(0, 1)))) == 3 * 3


def test_the_lowest_fifth_of_the_scale_leaves_the_photograph_clear():
    maps = np.stack([np.linspace(0, 1, 100)[None].repeat(100, axis=0)])
    overlay = shown(show_maps(photos(1, 100), None, maps, limits=(0, 1)))[-1][-1]
    alpha, heat = overlay.get_alpha(), np.asarray(overlay.get_array())
    assert (alpha[heat < 0.19] == 0).all()
    assert alpha.max() == pytest.approx(0.65) and (np.diff(alpha[0]) >= 0).all()


def test_the_outlines_are_named_only_when_drawn():
    maps, masks = maps_and_masks(2)

    def legend(masks, threshold):
        figure = show_maps(photos(2), masks, maps, limits=(0, 1), threshold=threshold)
        return [text.get_text() for box in figure.legends for text in box.get_texts()]

    assert legend(masks, 0.5) == ["true mask", "map above the threshold"]
    assert legend(masks, None) == ["true mask"]
    assert legend(None, None) == []


def test_the_colour_bar_marks_the_normal_quantile_and_the_ends():
    maps, _ = maps_and_masks(1)
    figure = show_maps(photos(1), None, maps, limits=MapLimits(0.0, 1.0, 0.4))
    (bar,) = (axes for axes in figure.axes if not axes.get_images())
    assert [tick.get_text() for tick in bar.get_yticklabels()] == ["0", "1", "0.4\nnormal"]


def test_scores_are_written_under_the_titles():
    maps, _ = maps_and_masks(2)
    figure = show_maps(
        photos(2), None, maps, ["good", "crack"], limits=(0, 1), scores=torch.tensor([0.25, 7])
    )
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "good\nscore 0.25" in titles and "crack\nscore 7" in titles


def test_six_noisy_samples_with_maps_fit_into_one_output():
    maps, masks = maps_and_masks(6)
    noisy = maps + 0.3 * np.random.default_rng(0).random(maps.shape)
    figure = show_maps(cells(6), masks, noisy, limits=(0, 1), threshold=0.8)
    assert stored_bytes(figure) < OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"maps": np.zeros((3, 8, 8))}, r"maps must be \(2, H, W\)"),
        ({"maps": np.zeros((2, 1, 8, 8))}, r"maps must be \(2, H, W\)"),
        ({"maps": np.full((2, 8, 8), np.inf)}, "maps contains NaN or infinity"),
        ({"masks": np.zeros((1, 8, 8), bool)}, r"masks must be \(2, H, W\)"),
        ({"limits": (1.0, 1.0)}, "low < high"),
        ({"scores": [0.1]}, "scores has 1 entries for 2 images"),
        ({"images": photos(9, 8), "maps": np.zeros((9, 8, 8))}, "at most 8"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(change, reason):
    given = {
        "images": photos(2, 8),
        "masks": None,
        "maps": np.zeros((2, 8, 8)),
        "limits": (0.0, 1.0),
    } | change
    with pytest.raises(DataError, match=reason):
        show_maps(**given)


def test_limits_put_the_normal_quantile_between_median_and_twice_as_far():
    normal = torch.arange(1001.0).view(1, 7, 143)
    limits = map_limits(normal, quantile=0.9)
    assert limits.low == 500 and limits.normal == 900 and limits.high == 1300


def test_limits_of_sparse_normal_maps_end_beyond_their_maximum():
    sparse = torch.zeros(4, 50, 50)
    sparse[0, 0, 0] = 3.0
    assert map_limits(sparse) == MapLimits(0.0, 6.0, 3.0)


@pytest.mark.parametrize("maps", [torch.ones(2, 8, 8), torch.rand(8, 8), torch.full((1, 8, 8), torch.nan)])
def test_limits_need_maps_that_vary(maps):
    with pytest.raises(DataError, match="normal_maps"):
        map_limits(maps)


# --- scores and curves ---


def test_the_histogram_counts_misses_and_false_alarms():
    scores, labels = [0.1, 0.5, 0.9, 0.2, 0.5, 0.8, 0.9], [0, 0, 0, 1, 1, 1, 1]
    title = score_histogram(scores, labels, threshold=0.5).axes[0].get_title(loc="left")
    assert title == "1 of 4 defects missed, 2 of 3 false alarms"  # a score on the threshold is an alarm


def test_both_classes_share_bins_and_no_image_is_lost():
    scores, labels = scored()
    axes = score_histogram(scores, labels, bins=20).axes[0]
    normal, anomalous = axes.containers
    assert [bar.get_x() for bar in normal] == [bar.get_x() for bar in anomalous]
    counts = [sum(bar.get_height() for bar in bars) for bars in (normal, anomalous)]
    assert counts == [int((labels == 0).sum()), int((labels == 1).sum())]


@pytest.mark.parametrize(("scale", "offset"), [(1e-12, 0.0), (1e12, 0.0), (0.0, 0.0), (0.0, 1e9)])
def test_a_histogram_shows_every_score_at_any_scale(scale, offset):
    scores, labels = scored()
    for flag, bars in enumerate(score_histogram(scores * scale + offset, labels).axes[0].containers):
        shown = sum(bar.get_height() * (bar.get_width() > 0) for bar in bars)
        assert shown == int((labels == flag).sum())


@pytest.mark.parametrize(
    ("scores", "labels", "reason"),
    [
        ([0.1, 0.2], [0], "both be"),
        ([], [], "both be"),
        ([0.1, 0.2], [0, 2], "labels must be 0"),
        ([0.1, float("nan")], [0, 1], "NaN"),
    ],
)
def test_scores_that_do_not_fit_their_labels_are_refused(scores, labels, reason):
    with pytest.raises(DataError, match=reason):
        score_histogram(scores, labels)


def test_the_area_under_the_drawn_roc_is_auroc():
    scores, labels = scored()
    line = roc_plot({"a": (scores, labels)}).axes[0].lines[0]
    assert np.trapezoid(line.get_ydata(), line.get_xdata()) == pytest.approx(metrics.auroc(scores, labels))


def test_the_area_under_the_drawn_precision_recall_steps_is_average_precision():
    scores, labels = scored()
    line = pr_plot({"a": (scores, labels)}).axes[0].lines[0]
    x, y = line.get_path().vertices.T  # the corners as they are drawn, steps included
    assert np.trapezoid(y, x) == pytest.approx(average_precision_score(labels, scores))


@pytest.mark.parametrize("plot", [roc_plot, pr_plot])
def test_the_band_lies_around_the_curve(plot):
    scores, labels = scored(400)
    figure = plot({"a": (scores, labels)})
    line = figure.axes[0].lines[0].get_path().vertices
    band = figure.axes[0].collections[0].get_paths()[0]
    middle = line[(line[:, 0] > 0.2) & (line[:, 0] < 0.8)]
    # Pointwise and on a grid: a corner may stick out, the curve may not.
    assert band.contains_points(middle, radius=0.01).mean() > 0.95
    assert not plot({"a": (scores, labels)}, bands=False).axes[0].collections


def test_bands_are_the_same_every_time():
    method = {"a": scored()}
    first, second = (roc_plot(method).axes[0].collections[0].get_paths()[0].vertices for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_curves_come_from_scores_or_ready_made():
    ready = metrics.roc_curve(*scored())
    axes = roc_plot({"scored": scored(), "ready": ready}).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), axes.lines[1].get_xydata())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["scored", "ready"]


def test_the_pro_curve_ends_at_the_limit_of_aupro():
    maps, masks = maps_and_masks(3)
    noisy = maps + np.random.default_rng(0).normal(scale=0.5, size=maps.shape)
    axes = pro_plot({"a": (noisy, masks)}, fpr_limit=0.2).axes[0]
    assert axes.get_xlim() == (0, 0.2)
    grid = np.linspace(0, 0.2, 2001)
    heights = np.interp(grid, axes.lines[0].get_xdata(), axes.lines[0].get_ydata())
    area = np.trapezoid(heights, grid) / 0.2
    assert 0.2 < area < 0.95
    assert area == pytest.approx(metrics.aupro(noisy, masks, 0.2), abs=1e-3)


def test_a_plot_of_no_method_is_refused():
    with pytest.raises(DataError, match="no method"):
        roc_plot({})


def test_a_comparison_marks_each_result_and_its_interval():
    values = {("a", "x"): 0.9, ("a", "y"): 0.8, ("b", "x"): 0.7}
    rows = [
        {
            "method": m,
            "dataset": d,
            "image_auroc": v,
            "image_auroc_low": v - 0.05,
            "image_auroc_high": v + 0.02,
        }
        for (m, d), v in values.items()
    ]
    axes = compare_bars(rows).axes[0]
    marks = [x for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata()]
    assert marks == [0.9, 0.8, 0.7]
    ends = [segment[:, 0] for lines in axes.collections for segment in lines.get_segments()]
    np.testing.assert_allclose(ends, [(v - 0.05, v + 0.02) for v in marks])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]


def test_compare_bars_give_the_eighth_method_another_mark():
    rows = [{"method": f"m{i}", "dataset": "a", "image_auroc": 0.5} for i in range(8)]
    looks = [(line.get_color(), line.get_marker()) for line in compare_bars(rows).axes[0].lines[:8]]
    assert len(set(looks)) == 8
    assert looks[0][0] == looks[7][0], "the colours have started again"


@pytest.mark.parametrize("rows", [[], [{"method": "a", "dataset": "x"}]])
def test_a_comparison_without_the_metric_says_what_is_needed(rows):
    with pytest.raises(DataError, match="image_auroc"):
        compare_bars(rows)


def test_training_curves_count_whole_epochs_from_one():
    axes = training_curve([3.0, 2.0, 1.5]).axes[0]
    np.testing.assert_array_equal(axes.lines[0].get_xydata(), [(1, 3), (2, 2), (3, 1.5)])
    assert all(tick == int(tick) for tick in axes.get_xticks())
    named = training_curve({"a": [2, 1], "b": [3, 2]}, log=True).axes[0]
    assert len(named.lines) == 2 and named.get_yscale() == "log" and named.get_legend()


# --- the look ---


def test_no_two_of_28_methods_look_alike():
    styles = method_styles([str(i) for i in range(4 * len(METHODS))])
    assert len({tuple(style.items()) for style in styles}) == 28


def test_figures_keep_their_look_whatever_the_reader_has_set():
    with mpl.rc_context({"axes.labelsize": 20, "axes.spines.top": True, "legend.frameon": True}):
        axes = roc_plot({"a": scored()}, bands=False).axes[0]
    assert axes.xaxis.label.get_fontsize() == 10
    assert not axes.spines["top"].get_visible() and not axes.get_legend().get_frame_on()


def test_the_style_reaches_the_readers_own_figures():
    with mpl.rc_context():
        plt.rcdefaults()
        use_style()
        assert {name: mpl.rcParams[name] for name in STYLE} == mpl.RcParams(STYLE)


def test_jupyter_is_shown_compact_pngs():
    shell = InteractiveShell.instance()
    try:
        show_as_compact_png()
        figure = score_histogram(*scored())
        data, _ = shell.display_formatter.format(figure)
        assert data["image/png"] == compact_png(figure)
        show_as_compact_png(budget=2000)
        data, _ = shell.display_formatter.format(figure)
        assert data["image/png"] == compact_png(figure, budget=2000) != compact_png(figure)
    finally:
        InteractiveShell.clear_instance()


def test_pyplot_never_hears_of_a_figure():
    before = plt.get_fignums()
    figure = score_histogram(*scored())
    assert isinstance(figure, Figure) and plt.get_fignums() == before


def test_a_compact_png_is_the_figure_in_its_size_and_colours():
    figure = roc_plot({"a": scored()}, bands=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, bbox_inches="tight")
    full = np.asarray(Image.open(buffer).convert("RGB"), dtype=int)
    small = np.asarray(Image.open(io.BytesIO(compact_png(figure))).convert("RGB"), dtype=int)
    assert small.shape == full.shape and np.abs(small - full).mean() < 1


def test_a_smaller_budget_gives_a_smaller_png():
    figure = show_images(cells(4))
    assert len(compact_png(figure, 60_000)) <= 60_000 < len(compact_png(figure, 10**9))


def test_the_colours_of_maps_survive_between_photographs():
    ramp = np.linspace(0, 1, 64)[None, None].repeat(64, axis=1).repeat(6, axis=0)
    figure = show_maps(cells(6), None, ramp, limits=(0, 1))
    small = np.asarray(Image.open(io.BytesIO(compact_png(figure))).convert("RGB"), dtype=int)
    map_row = small[int(small.shape[0] * 0.5), 24 : small.shape[1] // 7]
    assert len(np.unique(map_row, axis=0)) >= 12
