"""Measured numbers: written by notebooks, compared in CI, shown in README and in tables."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from .errors import DataError
from .files import write_text
from .paths import committed_results_dir, results_dir

Row = Mapping[str, float | str]

# Columns of tables, in this order, with their headings; other metrics stay in the files.
COLUMNS = {
    "image_auroc": "image AUROC",
    "interval": "95 % interval",
    "image_aupr": "AUPR",
    "image_f1_max": "F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_aupro": "AUPRO",
    "fit_seconds": "fit s",
    "ms_per_image": "ms / image",
    "latency_median_ms": "median ms",
    "latency_p95_ms": "95th percentile ms",
    "model_mb": "model MB",
    "peak_mb": "peak MB",
}
_COSTS = ("seconds", "ms_per_image", "_ms", "peak_mb")
_SCORES = ("auroc", "aupr", "aupro", "f1", "pro", "spro")
_KEY = ("notebook", "profile", "method", "dataset")
_SCORE_TOLERANCE = 0.02
_RELATIVE_TOLERANCE = 0.05
_MARKS = ("<!-- results: written by `make readme` -->", "<!-- end of results -->")


def write_records(path: Path, notebook: str, profile: str, rows: Sequence[Row]) -> None:
    """Write all of a notebook's records (dicts with method, dataset and metrics), whole, to `path`."""
    plain = [{name: _plain(name, value) for name, value in row.items()} for row in rows]
    content = {"notebook": notebook, "profile": profile, "records": plain}
    write_text(path, json.dumps(content, indent=1) + "\n")


def load(folder: Path | None = None) -> pd.DataFrame:
    """All records in `folder` (default: the committed ones), a row each, with notebook and profile."""
    rows = []
    # Names that begin with "." are files another process is writing, or was killed while writing.
    for path in sorted((committed_results_dir() if folder is None else folder).glob("[!.]*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            shared = {"notebook": content["notebook"], "profile": content["profile"]}
            rows += [shared | record for record in content["records"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a results file ({error}): run its notebook again") from error
    return pd.DataFrame(rows, columns=None if rows else list(_KEY))


def compare(measured: Path, committed: Path) -> list[str]:
    """What differs between two folders of results, one sentence each; empty when all agree.

    AUROC-like numbers may differ by 0.02, other numbers by 5 %, costs (times, memory) by anything.
    """
    new, old = _by_key(load(measured)), _by_key(load(committed))
    lines = [f"{_name(key)}: recorded now, but not committed" for key in new.keys() - old.keys()]
    lines += [f"{_name(key)}: committed, but not recorded now" for key in old.keys() - new.keys()]
    for key in new.keys() & old.keys():
        for metric in sorted((new[key].keys() | old[key].keys()) - set(_KEY)):
            a, b = new[key].get(metric), old[key].get(metric)
            if not metric.endswith(_COSTS) and not _agree(metric, a, b):
                lines.append(f"{_name(key)}: {metric} is {a} now, {b} committed")
    return sorted(lines)


def table(notebook: str | None = None, folder: Path | None = None, costs: bool = True) -> pd.DataFrame:
    """Records as a table to print: one row per method and dataset, best image AUROC first in each dataset."""
    frame = load(results_dir() if folder is None else folder)
    if notebook is not None:
        frame = frame[frame["notebook"].str.startswith(notebook)]
    return tabulate(frame.to_dict("records"), costs)


def tabulate(rows: Sequence[Row], costs: bool = True) -> pd.DataFrame:
    """The same for rows in hand (dicts with "method", "dataset" and metrics)."""
    frame = pd.DataFrame(rows)
    if "image_auroc_low" in frame:
        frame["interval"] = [
            "" if pd.isna(low) else f"{low:.2f} to {high:.2f}"
            for low, high in zip(frame["image_auroc_low"], frame["image_auroc_high"], strict=True)
        ]
    shown = [c for c in COLUMNS if c in frame and (costs or not c.endswith((*_COSTS, "_mb")))]
    frame = frame[["dataset", "method", *shown]]
    if "image_auroc" in frame:
        frame = frame.sort_values(["dataset", "image_auroc"], ascending=[True, False], kind="stable")
    rounded = frame.round({c: 1 if c.endswith((*_COSTS, "_mb")) else 3 for c in shown if c != "interval"})
    return rounded.rename(columns=COLUMNS).reset_index(drop=True)


def write_readme(readme: Path) -> bool:
    """Fill the table between the marks in `readme` from the committed results; True if it changed."""
    text = readme.read_text(encoding="utf-8")
    start, end = text.find(_MARKS[0]), text.rfind(_MARKS[1])
    if not 0 <= start < end or any(text.count(mark) > 1 for mark in _MARKS):
        raise DataError(f"{readme} lacks {_MARKS[0]} and {_MARKS[1]}, once each: put them around the table")
    filled = f"{text[:start]}{_MARKS[0]}\n{readme_table()}\n{text[end:]}"
    if filled != text:
        write_text(readme, filled)
    return filled != text


def readme_table() -> str:
    """Markdown: per notebook and method, the image AUROC on each dataset (pixel AUROC behind a slash).

    Single products ("factory/gear") are left to the notebooks; their average ("factory") is shown.
    """
    frame = load()
    if "image_auroc" not in frame:
        return "_No results yet._"
    frame = frame[frame["image_auroc"].notna() & ~frame["dataset"].str.startswith("factory/")]
    cells = [_cell(row) for row in frame.to_dict("records")]
    wide = frame.assign(cell=cells).pivot_table(
        index=["notebook", "method"], columns="dataset", values="cell", aggfunc="first", sort=False
    )
    header = ["notebook", "method", *wide.columns]
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    for (notebook, method), row in wide.iterrows():
        link = f"[{notebook}](notebooks/{notebook}.ipynb)"
        lines.append("| " + " | ".join([link, method, *row.fillna("")]) + " |")
    return "\n".join(lines)


def _cell(row: Row) -> str:
    parts = [row.get("image_auroc"), row.get("pixel_auroc")]
    return " / ".join(f"{p:.3f}" for p in parts if p is not None and not pd.isna(p))


def _by_key(frame: pd.DataFrame) -> dict[tuple[str, ...], dict[str, float]]:
    rows = frame.to_dict("records")
    clean = [{k: v for k, v in row.items() if not (isinstance(v, float) and math.isnan(v))} for row in rows]
    return {tuple(row[k] for k in _KEY): row for row in clean}


def _name(key: tuple[str, ...]) -> str:
    notebook, profile, method, dataset = key
    return f"{notebook} ({profile}): {method} on {dataset}"


def _agree(metric: str, a: float | None, b: float | None) -> bool:
    if a is None or b is None or isinstance(a, str) or isinstance(b, str):
        return a == b
    if any(name in metric for name in _SCORES):
        return abs(a - b) <= _SCORE_TOLERANCE + 1e-9  # 0.92 - 0.90 is a little more than 0.02
    return math.isclose(a, b, rel_tol=_RELATIVE_TOLERANCE)


def _plain(name: str, value: float) -> float | str:
    if isinstance(value, str):
        return value
    number = value.item() if hasattr(value, "item") else value
    if isinstance(number, float) and not math.isfinite(number):
        raise DataError(f"{name} is {number}: record finite numbers only")
    return round(number, 5) if isinstance(number, float) else number
