"""Contact sheets, and maps beside their images on one shared colour scale."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..errors import DataError
from .arrays import check_length, to_numpy, to_photos, to_planes
from .sheet import Sheet, largest_cell, resize_photos, resize_plane
from .style import FOUND_LINE, HEAT, INK, MASK_LINE, MUTED, styled

HEAT_STEPS = mpl.colormaps[HEAT].resampled(32)
TITLE = 18
MOST_SAMPLES = 8


class MapLimits(NamedTuple):
    """The colour scale of one method's maps: `low` and `high` end it, `normal` is marked on its bar."""

    low: float
    high: float
    normal: float | None = None


@styled
def show_images(images: Any, titles: Sequence[str] | None = None, columns: int = 6) -> Figure:
    """A contact sheet of `images` (N, 3, H, W) in [0, 1], `columns` in a row; more images, smaller cells."""
    photos = to_photos(images)
    check_length(titles, len(photos), "titles")
    rows, columns = -(-len(photos) // columns), min(columns, len(photos))
    aspect = photos.shape[1] / photos.shape[2]
    largest = largest_cell(len(photos), aspect)
    sheet = Sheet(rows, columns, aspect, title=TITLE if titles else 0, largest=largest)
    for i, photo in enumerate(resize_photos(photos, sheet.cell)):
        axes = sheet.axes(*divmod(i, columns))
        axes.imshow(photo, interpolation="nearest")
        if titles:
            put_title(axes, titles[i], sheet.cell[0])
    return sheet.figure


def map_limits(normal_maps: Any, quantile: float = 0.995, factor: float = 2.0) -> MapLimits:
    """The colour scale for a method's maps, from maps (N, H, W) of *normal* images.

    `low` is the median of all normal pixels and `normal` their `quantile`; `high` lies `factor` times as far
    from `low` as `normal` does. By default, the upper half of the colours is what normal images hardly reach.
    """
    values = to_numpy(normal_maps, "normal_maps").astype(np.float64)
    if values.ndim != 3 or values.size == 0:
        raise DataError(f"normal_maps must be (N, H, W), got {values.shape}")
    low, normal = np.quantile(values, (0.5, quantile))
    if normal <= low:  # sparse maps: almost every normal pixel has the same value
        normal = values.max()
    if normal <= low:
        raise DataError(
            "normal_maps are constant: no scale follows from them; pass limits=(low, high) instead"
        )
    return MapLimits(float(low), float(low + factor * (normal - low)), float(normal))


@styled
def show_maps(
    images: Any,
    masks: Any | None,
    maps: Any,
    titles: Sequence[str] | None = None,
    *,
    limits: MapLimits | tuple[float, float],
    scores: Any | None = None,
    threshold: float | None = None,
) -> Figure:
    """Samples side by side (at most 8); below each other a sample's image, mask, map and overlay.

    Samples are columns because the page is narrow and scrolls: the eye goes straight down from a defect to
    its map. All maps share the colour scale `limits`, which `map_limits` computes from normal images. The
    overlay draws the outline of the true mask and, with a `threshold`, of what lies above it. `images` is
    (N, 3, H, W), `masks` and `maps` are (N, h, w) of any h and w; `scores` (N,) are written above the images.
    """
    photos = to_photos(images)
    if len(photos) > MOST_SAMPLES:
        raise DataError(f"{len(photos)} samples are too many side by side: choose at most {MOST_SAMPLES}")
    planes = to_planes(maps, len(photos), "maps")
    truths = None if masks is None else to_planes(masks, len(photos), "masks")
    headings = _headings(titles, scores, len(photos))
    scale, rows = map_norm(limits), ["image", "mask", "map", "overlay"]
    if truths is None:
        rows.remove("mask")

    top, bottom = (TITLE * _lines(headings), 22 if truths is not None or threshold is not None else 0)
    aspect = photos.shape[1] / photos.shape[2]
    sheet = Sheet(len(rows), len(photos), aspect, left=20, right=62, top=top, bottom=bottom)
    for i, photo in enumerate(resize_photos(photos, sheet.cell)):
        heat = resize_plane(planes[i], sheet.cell)
        truth = None if truths is None else resize_plane(truths[i], sheet.cell)
        column = [sheet.axes(row, i) for row in range(len(rows))]
        column[0].imshow(photo, interpolation="nearest")
        if truth is not None:
            column[1].imshow(truth > 0.5, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        column[-2].imshow(heat, cmap=HEAT_STEPS, norm=scale, interpolation="nearest")
        draw_overlay(column[-1], photo, heat, scale, truth, threshold)
        put_title(column[0], headings[i], sheet.cell[0])
        if i == 0:
            for axes, name in zip(column, rows, strict=True):
                axes.set_ylabel(name, labelpad=4)
    draw_colour_bar(sheet, (len(rows) - 2, len(rows) - 1), limits, threshold)
    draw_outline_legend(sheet.figure, truths is not None, threshold is not None)
    return sheet.figure


def map_norm(limits: MapLimits | tuple[float, float]) -> Normalize:
    """The one norm that all maps of a figure share."""
    low, high = limits[:2]
    if not low < high:
        raise DataError(f"limits must be (low, high) with low < high, got ({low}, {high})")
    return Normalize(low, high, clip=True)


def draw_overlay(
    axes: Axes,
    photo: np.ndarray,
    heat: np.ndarray,
    scale: Normalize,
    truth: np.ndarray | None = None,
    threshold: float | None = None,
    opacity: float = 0.65,
) -> None:
    """The map over its photograph, the more opaque the higher; outlines of the mask and of what was found.

    The lowest fifth of the scale is clear and the highest has the full `opacity`, with steps between.
    """
    axes.imshow(photo, interpolation="nearest")
    alpha = opacity * np.minimum(np.floor(5 * scale(heat).filled()), 4) / 4
    axes.imshow(heat, cmap=HEAT_STEPS, norm=scale, alpha=alpha, interpolation="nearest")
    if truth is not None and np.ptp(truth) > 0:
        axes.contour(truth, levels=[0.5], **MASK_LINE)
    if threshold is not None and heat.min() < threshold < heat.max():
        axes.contour(heat, levels=[threshold], **FOUND_LINE)


def put_title(axes: Axes, text: str, width: int) -> None:
    """A title above a cell, its lines cut to the cell's `width` in pixels."""
    most = max(4, int(width / 7))
    lines = [line if len(line) <= most else line[: most - 1] + "…" for line in str(text).split("\n")]
    axes.set_title("\n".join(lines), fontsize=9.5, fontweight="normal", pad=3)


def _headings(titles: Sequence[str] | None, scores: Any | None, count: int) -> list[str]:
    check_length(titles, count, "titles")
    check_length(scores, count, "scores")
    numbers = [] if scores is None else [f"score {s:.3g}" for s in to_numpy(scores, "scores")]
    parts = [column for column in (titles or [], numbers) if len(column)]
    return ["\n".join(map(str, lines)) for lines in zip(*parts, strict=True)] or [""] * count


def _lines(headings: list[str]) -> int:
    return max(h.count("\n") + 1 if h else 0 for h in headings)


def draw_colour_bar(
    sheet: Sheet, rows: tuple[int, int], limits: MapLimits | tuple[float, float], threshold: float | None
) -> None:
    """Beside the first to the last of `rows`, with the normal quantile and the threshold marked."""
    scale, normal = map_norm(limits), MapLimits(*limits).normal
    start, end = (sheet.corner(row, 0)[1] for row in rows)
    axes = sheet.place(sheet.width - 54, start, 10, end + sheet.cell[1] - start)
    bar = sheet.figure.colorbar(ScalarMappable(scale, HEAT_STEPS), cax=axes)
    bar.outline.set_visible(False)
    marks = {scale.vmin: f"{scale.vmin:.3g}", scale.vmax: f"{scale.vmax:.3g}"}
    if normal is not None:
        marks[normal] = f"{normal:.3g}\nnormal"
        axes.axhline(normal, color="white", linewidth=1.2)
    if threshold is not None and scale.vmin < threshold < scale.vmax:
        axes.axhline(threshold, color=FOUND_LINE["colors"], linewidth=1.6)
    bar.set_ticks(list(marks), labels=list(marks.values()), fontsize=8.5)
    axes.tick_params(length=2, pad=2, labelcolor=INK, color=MUTED)


def draw_outline_legend(figure: Figure, truth: bool, found: bool) -> None:
    """Below everything: what the outlines that are drawn mean."""
    lines = []
    if truth:
        lines.append((MASK_LINE, "true mask"))
    if found:
        lines.append((FOUND_LINE, "map above the threshold"))
    if not lines:
        return
    handles = [
        Line2D([], [], color=line["colors"], linewidth=2, linestyle=line["linestyles"], label=label)
        for line, label in lines
    ]
    figure.legend(handles=handles, loc="lower center", ncols=2, borderaxespad=0, fontsize=9)
