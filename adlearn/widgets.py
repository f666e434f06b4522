"""Panels for exploring a detector's results in Jupyter, and the still figure of each for everywhere else.

A panel is sliders above one picture. The picture is a PNG made by a pure function (`threshold_figure`,
`map_figure`), which a notebook also calls once for readers without a kernel.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from .errors import DataError
from .metrics import quantile_threshold
from .plotting.arrays import check_length, to_numpy, to_photos, to_planes, to_scores
from .plotting.curves import draw_histogram
from .plotting.images import (
    HEAT_STEPS,
    MapLimits,
    draw_colour_bar,
    draw_outline_legend,
    draw_overlay,
    map_norm,
    put_title,
)
from .plotting.png import compact_png
from .plotting.sheet import GAP, PAGE, Sheet, resize_photos, resize_plane
from .plotting.style import FAINT, MUTED, styled

PLACES = 6
TALLEST_PLACE = 160
MOST_STEPS = 200


class Outcomes(NamedTuple):
    """How many images a threshold sorts rightly and wrongly; an alarm is `score >= threshold`."""

    found: int
    missed: int
    false_alarms: int
    passed: int

    @property
    def rates(self) -> dict[str, float]:
        """Precision, recall and false alarm rate; NaN where there is nothing to divide by."""
        return {
            "precision": _share(self.found, self.false_alarms),
            "recall": _share(self.found, self.missed),
            "false alarm rate": _share(self.false_alarms, self.passed),
        }

    def __str__(self) -> str:
        return (
            f"found {self.found} · missed {self.missed} · "
            f"false alarms {self.false_alarms} · correctly passed {self.passed}"
        )


def count_outcomes(scores: Any, labels: Any, threshold: float) -> Outcomes:
    """Count alarms among the anomalous (label 1) and the normal images; `scores` and `labels` are (N,)."""
    values, anomalous = to_scores(scores, labels)
    alarm = values >= _finite(threshold)
    pairs = (alarm & anomalous, ~alarm & anomalous, alarm & ~anomalous, ~alarm & ~anomalous)
    return Outcomes(*(int(pair.sum()) for pair in pairs))


def threshold_figure(images: Any, scores: Any, labels: Any, threshold: float) -> Figure:
    """What a threshold costs: the scores' histogram, the counts, and the images behind the errors.

    `images` is (N, 3, H, W) in [0, 1], `scores` and `labels` (1 = anomalous) are (N,). Below the histogram
    are up to 6 misses, the most nearly found first, and up to 6 false alarms, the loudest first.
    Raises DataError for other shapes and for NaN.
    """
    return _threshold_figure(*_scored_photos(images, scores, labels), threshold)


def threshold_explorer(
    images: Any,
    scores: Any,
    labels: Any,
    threshold: float | None = None,
    false_alarm_rates: Sequence[float] | None = None,
) -> ipywidgets.VBox:
    """`threshold_figure` under a slider that starts at `threshold` (by default in the middle of its steps).

    The steps are the scores themselves, since nothing changes between two scores (quantiles of them when
    there are many); or, with `false_alarm_rates`, the thresholds that `quantile_threshold` derives for these
    rates from the normal images among those given. For looking only: a threshold to be used in earnest comes
    from other images than those it is judged on.
    """
    photos, values, anomalous = _scored_photos(images, scores, labels)
    if not false_alarm_rates:
        steps = _score_steps(values)
    else:
        steps = np.array([quantile_threshold(values[~anomalous], rate) for rate in false_alarm_rates])
    start = steps[len(steps) // 2] if threshold is None else _finite(threshold)
    options = np.unique(np.append(steps, start)).tolist()
    slider = ipywidgets.SelectionSlider(
        options=[(f"{step:.4g}", step) for step in options],
        value=float(start),
        description="threshold",
        continuous_update=False,
        layout=_wide(),
    )
    counts = ipywidgets.Label()

    def draw(threshold: float) -> Figure:
        counts.value = str(count_outcomes(values, anomalous, threshold))
        return _threshold_figure(photos, values, anomalous, threshold)

    return _panel([slider, counts], draw, threshold=slider)


def map_figure(
    image: Any,
    map: Any,
    mask: Any | None = None,
    *,
    limits: MapLimits | tuple[float, float],
    threshold: float | None = None,
    opacity: float = 0.65,
) -> Figure:
    """One sample large: the image, its map on the colour scale `limits`, and the map over the image.

    `image` is (3, H, W) in [0, 1], `map` and `mask` are (h, w) of any h and w. With a `threshold`, what
    reaches it is outlined, and a line says how much of the defect (or, without a mask, of the image) that is.
    Raises DataError for other shapes, for NaN and for an opacity outside [0, 1].
    """
    photo = to_photos(to_numpy(image, "image")[None], "image")
    plane = to_planes(to_numpy(map, "map")[None], 1, "map")[0]
    truth = None if mask is None else to_planes(to_numpy(mask, "mask")[None], 1, "mask")[0]
    return _map_figure(photo[0], plane, truth, limits, threshold, opacity)


def map_explorer(
    images: Any,
    maps: Any,
    masks: Any | None = None,
    *,
    limits: MapLimits | tuple[float, float],
    threshold: float | None = None,
    titles: Sequence[str] | None = None,
) -> ipywidgets.VBox:
    """`map_figure` with a choice of sample, a slider for the threshold and one for the overlay's opacity.

    `images` is (N, 3, H, W), `maps` and `masks` are (N, h, w), `titles` name the samples. The slider starts
    at `threshold`, or else where `limits` marks the normal quantile, or else in the middle of `limits`.
    """
    photos = to_photos(images)
    planes = to_planes(maps, len(photos), "maps")
    truths = None if masks is None else to_planes(masks, len(photos), "masks")
    check_length(titles, len(photos), "titles")
    names = [f"image {i}" for i in range(len(photos))] if titles is None else titles
    sample = ipywidgets.Dropdown(options=[(str(n), i) for i, n in enumerate(names)], description="sample")
    level = _level_slider(planes, limits, threshold)
    opacity = ipywidgets.FloatSlider(
        value=0.65, min=0, max=1, step=0.05, description="opacity", continuous_update=False, layout=_wide()
    )

    def draw(sample: int, threshold: float, opacity: float) -> Figure:
        truth = None if truths is None else truths[sample]
        return _map_figure(photos[sample], planes[sample], truth, limits, threshold, opacity)

    return _panel([sample, level, opacity], draw, sample=sample, threshold=level, opacity=opacity)


# --- the threshold's figure ---


def _scored_photos(images: Any, scores: Any, labels: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    photos, (values, anomalous) = to_photos(images), to_scores(scores, labels)
    check_length(values, len(photos), "scores")
    return photos, values, anomalous


def _score_steps(values: np.ndarray) -> np.ndarray:
    """Every score, or quantiles of them; and just above the highest, where all alarms are silent."""
    steps = np.unique(values)
    if len(steps) > MOST_STEPS:
        steps = np.quantile(steps, np.linspace(0, 1, MOST_STEPS), method="nearest")
    return np.append(steps, np.nextafter(steps[-1], np.inf))


@styled
def _threshold_figure(
    photos: np.ndarray, values: np.ndarray, anomalous: np.ndarray, threshold: float
) -> Figure:
    outcomes = count_outcomes(values, anomalous, threshold)
    alarm = values >= threshold
    loudest = np.argsort(-values, kind="stable")
    aspect = photos.shape[1] / photos.shape[2]
    width = min((PAGE + GAP) // PLACES - GAP, round(TALLEST_PLACE / aspect))
    sheet = Sheet(2, PLACES, aspect, right=PAGE + GAP - PLACES * (width + GAP), top=234, title=40)
    _write_outcomes(sheet, outcomes, threshold)
    draw_histogram(sheet.place(42, 56, PAGE - 44, 134), values, anomalous, threshold)
    misses, false_alarms = (loudest[which[loudest]] for which in (anomalous & ~alarm, alarm & ~anomalous))
    _draw_row(sheet, 0, "Misses, the most nearly found first", photos, values, misses)
    _draw_row(sheet, 1, "False alarms, the highest scores first", photos, values, false_alarms)
    return sheet.figure


def _write_outcomes(sheet: Sheet, outcomes: Outcomes, threshold: float) -> None:
    rates = [f"{name} {'–' if np.isnan(rate) else f'{rate:.3f}'}" for name, rate in outcomes.rates.items()]
    sheet.write(0, 2, str(outcomes), va="top", fontsize=10.5, fontweight="bold")
    sheet.write(0, 24, " · ".join([*rates, f"threshold {threshold:.4g}"]), va="top")


def _draw_row(
    sheet: Sheet, row: int, heading: str, photos: np.ndarray, values: np.ndarray, chosen: np.ndarray
) -> None:
    """The first images of `chosen` in one row; a frame saying "none" in each place left over."""
    x, y = sheet.corner(row, 0)
    sheet.write(x, y - 36, f"{heading} ({min(PLACES, len(chosen))} of {len(chosen)})", va="top")
    for column in range(PLACES):
        axes = sheet.axes(row, column)
        if column < len(chosen):
            i = chosen[column]
            axes.imshow(resize_photos(photos[i : i + 1], sheet.cell)[0], interpolation="nearest")
            put_title(axes, f"{values[i]:.4g}", sheet.cell[0])
        else:
            axes.spines[:].set(visible=True, color=FAINT)
            axes.text(0.5, 0.5, "none", ha="center", va="center", color=MUTED, transform=axes.transAxes)


# --- the map's figure ---


@styled
def _map_figure(
    photo: np.ndarray,
    plane: np.ndarray,
    truth: np.ndarray | None,
    limits: MapLimits | tuple[float, float],
    threshold: float | None,
    opacity: float,
) -> Figure:
    if not 0 <= opacity <= 1:
        raise DataError(f"opacity must be in [0, 1], got {opacity}")
    scale, outlined = map_norm(limits), truth is not None or threshold is not None
    top, bottom = 20 if threshold is None else 44, 24 if outlined else 0
    sheet = Sheet(1, 3, photo.shape[0] / photo.shape[1], right=62, top=top, bottom=bottom, largest=PAGE)
    photo, heat = resize_photos(photo[None], sheet.cell)[0], resize_plane(plane, sheet.cell)
    panels = [sheet.axes(0, column) for column in range(3)]
    panels[0].imshow(photo, interpolation="nearest")
    panels[1].imshow(heat, cmap=HEAT_STEPS, norm=scale, interpolation="nearest")
    shown = None if truth is None else resize_plane(truth, sheet.cell)
    draw_overlay(panels[2], photo, heat, scale, shown, threshold, opacity)
    for axes, name in zip(panels, ("image", "map", "overlay"), strict=True):
        put_title(axes, name, sheet.cell[0])
    if threshold is not None:
        sheet.write(0, 2, _coverage(plane, truth, _finite(threshold)), va="top")
    draw_colour_bar(sheet, (0, 0), limits, threshold)
    draw_outline_legend(sheet.figure, truth is not None, threshold is not None)
    return sheet.figure


def _coverage(plane: np.ndarray, truth: np.ndarray | None, threshold: float) -> str:
    """How much of the image, or of the defect and of the rest, reaches the threshold."""
    if truth is None:
        return f"at or above {threshold:.4g}: {(plane >= threshold).mean():.1%} of the image"
    found, defect = resize_plane(plane, truth.shape[::-1]) >= threshold, truth > 0.5
    others = "the rest" if defect.any() else "the image, which has no defect"
    parts = [(defect, "the defect"), (~defect, others)]
    shares = [f"{found[where].mean():.1%} of {name}" for where, name in parts if where.any()]
    return f"at or above {threshold:.4g}: " + ", ".join(shares)


def _level_slider(
    planes: np.ndarray, limits: MapLimits | tuple[float, float], threshold: float | None
) -> ipywidgets.FloatSlider:
    scale, normal = map_norm(limits), MapLimits(*limits).normal
    if threshold is None:
        threshold = (scale.vmin + scale.vmax) / 2 if normal is None else normal
    start = _finite(threshold)
    low, high = min(scale.vmin, start), max(scale.vmax, float(planes.max()), start)
    return ipywidgets.FloatSlider(
        value=start, min=low, max=high, step=(high - low) / MOST_STEPS, description="threshold",
        readout_format=".3g", continuous_update=False, layout=_wide(),
    )  # fmt: skip


# --- the panel ---


def _panel(
    above: list[ipywidgets.Widget], draw: Callable[..., Figure], **controls: ipywidgets.Widget
) -> ipywidgets.VBox:
    """The widgets `above` one picture, drawn again from the controls' values whenever one of them changes."""
    picture = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%", object_fit="contain"))

    def redraw(_change: Any = None) -> None:
        picture.value = compact_png(draw(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*above, picture])


def _wide() -> ipywidgets.Layout:
    return ipywidgets.Layout(width="480px", max_width="100%")


def _share(part: int, others: int) -> float:
    return part / (part + others) if part + others else float("nan")


def _finite(threshold: float) -> float:
    if not np.isfinite(threshold):
        raise DataError(f"threshold must be a finite number, got {threshold}")
    return float(threshold)
