"""Scores and curves: histograms, ROC, PR and PRO, comparisons, training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import DataError
from ..metrics import Curve, pr_curve, pro_curve, roc_curve
from .arrays import to_scores
from .style import ANOMALOUS, FAINT, INK, LINES, MARKS, MUTED, NORMAL, method_styles, new_figure, styled

Scored = tuple[Any, Any]
_BANDS = 200
_GRID = np.linspace(0, 1, 201)


@styled
def score_histogram(scores: Any, labels: Any, threshold: float | None = None, bins: int = 40) -> Figure:
    """Scores (N,) of normal (label 0) and anomalous (1) images in shared bins.

    With a `threshold`, the title counts misses and false alarms; an alarm is `score >= threshold`.
    """
    figure = new_figure(2.7)
    axes = figure.subplots()
    draw_histogram(axes, scores, labels, threshold, bins)
    if threshold is not None:
        score, anomalous = to_scores(scores, labels)
        missed = int((score[anomalous] < threshold).sum())
        alarms = int((score[~anomalous] >= threshold).sum())
        axes.set_title(
            f"{missed} of {anomalous.sum()} defects missed, {alarms} of {(~anomalous).sum()} false alarms"
        )
    return figure


def draw_histogram(
    axes: Axes, scores: Any, labels: Any, threshold: float | None = None, bins: int = 40
) -> None:
    """Bars of both classes, the threshold as a line, a legend; on given `axes`."""
    score, anomalous = to_scores(scores, labels)
    edges = np.histogram_bin_edges(score, bins)
    for which, name, colour in ((~anomalous, "normal", NORMAL), (anomalous, "anomalous", ANOMALOUS)):
        if which.any():
            label = f"{name} ({which.sum()})"
            axes.hist(score[which], edges, color=colour, alpha=0.6, label=label)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.4, linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set_xlabel("score", labelpad=2)
    axes.set_ylabel("images", labelpad=4)
    axes.legend(loc="upper right", borderaxespad=0)


def roc_plot(methods: Mapping[str, Scored | Curve], bands: bool = True) -> Figure:
    """ROC curves of named methods, each (scores, labels) or a ready `Curve`; 95 % bootstrap bands."""
    return _curves(methods, roc_curve, "false-positive rate", "true-positive rate", bands, diagonal=True)


def pr_plot(methods: Mapping[str, Scored | Curve], bands: bool = True) -> Figure:
    """Precision-recall curves in steps, whose area is `aupr`; otherwise as `roc_plot`."""
    return _curves(methods, pr_curve, "recall", "precision", bands, steps=True)


def pro_plot(methods: Mapping[str, Scored | Curve], fpr_limit: float = 0.3) -> Figure:
    """PRO curves of named methods, each (maps, masks) or a ready `Curve`, up to the limit of AUPRO."""

    def curve(maps: Any, masks: Any) -> Curve:
        return pro_curve(maps, masks, fpr_limit)

    names = "false-positive rate of pixels", "mean overlap of regions"
    figure = _curves(methods, curve, *names, bands=False)
    figure.axes[0].set_xlim(0, fpr_limit)
    return figure


@styled
def compare_bars(rows: Sequence[Mapping[str, Any]] | pd.DataFrame, metric: str = "image_auroc") -> Figure:
    """A row per dataset, a mark per method, with its interval where `metric`_low and _high were recorded."""
    frame = pd.DataFrame(rows)
    if frame.empty or not {"method", "dataset", metric} <= set(frame):
        raise DataError(f"rows need method, dataset and {metric}: record them with run.record")
    frame = frame.dropna(subset=[metric])
    datasets, methods = list(frame["dataset"].unique()), list(frame["method"].unique())
    figure = new_figure(0.75 + len(datasets) * (0.16 + 0.13 * len(methods)))
    axes = figure.subplots()
    for i, (method, style) in enumerate(zip(methods, method_styles(methods), strict=True)):
        part = frame[frame["method"] == method]
        offset = 0.7 * ((i + 0.5) / len(methods) - 0.5)
        heights = [datasets.index(name) + offset for name in part["dataset"]]
        mark = MARKS[LINES.index(style["linestyle"])]
        axes.plot(part[metric], heights, mark, color=style["color"], label=method, markersize=5.5)
        if f"{metric}_low" in part:
            axes.hlines(
                heights, part[f"{metric}_low"], part[f"{metric}_high"], color=style["color"], linewidth=1.4
            )
    axes.set_yticks(range(len(datasets)), datasets)
    axes.set_ylim(len(datasets) - 0.5, -0.5)
    for i in range(len(datasets) - 1):
        axes.axhline(i + 0.5, color=FAINT, linewidth=0.6)
    axes.set_xlabel(metric.replace("_", " ").replace("auroc", "AUROC").replace("aupro", "AUPRO"))
    axes.grid(axis="x")
    figure.legend(loc="outside upper left", ncols=min(3, len(methods)))
    return figure


@styled
def training_curve(losses: Mapping[str, Sequence[float]] | Sequence[float], log: bool = False) -> Figure:
    """Loss by epoch, of one training or of several named ones."""
    named = losses if isinstance(losses, Mapping) else {"": losses}
    figure = new_figure(2.6)
    axes = figure.subplots()
    for (name, values), style in zip(named.items(), method_styles(list(named)), strict=True):
        axes.plot(range(1, len(values) + 1), values, label=name, **style)
    axes.set(xlabel="epoch", ylabel="loss", yscale="log" if log else "linear")
    axes.xaxis.get_major_locator().set_params(integer=True)
    if "" not in named:
        axes.legend()
    return figure


@styled
def _curves(
    methods: Mapping[str, Scored | Curve],
    curve_of: Callable[[Any, Any], Curve],
    x_name: str,
    y_name: str,
    bands: bool,
    diagonal: bool = False,
    steps: bool = False,
) -> Figure:
    if not methods:
        raise DataError("no method to draw: pass {name: (scores, labels)}")
    figure = new_figure(3.6, width=5.4)
    axes = figure.subplots()
    for (name, scored), style in zip(methods.items(), method_styles(list(methods)), strict=True):
        curve = scored if isinstance(scored, Curve) else curve_of(*scored)
        axes.plot(curve.x, curve.y, label=name, drawstyle="steps-pre" if steps else "default", **style)
        if bands and not isinstance(scored, Curve):
            low, high = _band(curve_of, *to_scores(*scored), steps)
            axes.fill_between(_GRID, low, high, color=style["color"], alpha=0.15, linewidth=0)
    if diagonal:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.8, linestyle=":")
    axes.set(xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1.02))
    axes.legend()
    return figure


def _band(
    curve_of: Callable[[Any, Any], Curve], scores: np.ndarray, anomalous: np.ndarray, steps: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 2.5 and 97.5 percentiles of the curve over resampled images, classes apart."""
    rng = np.random.default_rng(0)
    groups = [np.flatnonzero(anomalous == flag) for flag in (False, True)]
    heights = []
    for _ in range(_BANDS):
        rows = np.concatenate([rng.choice(group, len(group)) for group in groups])
        curve = curve_of(scores[rows], anomalous[rows])
        if steps:
            heights.append(curve.y[np.searchsorted(curve.x, _GRID)])
        else:
            heights.append(np.interp(_GRID, curve.x, curve.y))
    low, high = np.quantile(heights, (0.025, 0.975), axis=0)
    return low, high
