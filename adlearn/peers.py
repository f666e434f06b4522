"""What other libraries measure on the same images, features and splits, beside our numbers."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from .errors import DataError
from .paths import root

Settings = Mapping[str, Any]


def load() -> list[dict[str, Any]]:
    """anomalib's records in `data/anomalib.json`: method, settings, dataset, metrics.

    `adlearn/bench/peer_anomalib.py` says how they were measured. Raises `DataError` when the file is missing.
    """
    path = root() / "data" / "anomalib.json"
    if not path.is_file():
        raise DataError(f"{path} is missing: run from a checkout of the repository")
    return json.loads(path.read_text(encoding="utf-8"))["records"]


def beside(
    ours: Mapping[tuple[str, str], Mapping[str, float]],
    pairs: Mapping[str, tuple[str, Settings]],
    metric: str = "image_auroc",
    datasets: Iterable[str] | None = None,
) -> pd.DataFrame:
    """A table "ours / anomalib's" of `metric`, a row for each of our methods, a column for each data set.

    `ours` are a run's records by (method, data set). `pairs` names, for each of our methods, anomalib's
    method and the settings that single out its record; without `datasets`, the columns are those of these
    records. A number nobody measured is "-".
    """
    records = load()
    found = {name: [r for r in records if _matches(r, *pair)] for name, pair in pairs.items()}
    measured = dict.fromkeys(r["dataset"] for r in records if any(r in chosen for chosen in found.values()))
    columns = list(measured if datasets is None else datasets)
    table = {}
    for name, (method, settings) in pairs.items():
        if not found[name]:
            raise DataError(f"data/anomalib.json has no record of {method} with {dict(settings)}")
        theirs = {r["dataset"]: r.get(metric) for r in found[name]}
        cells = ((ours.get((name, d), {}).get(metric), theirs.get(d)) for d in columns)
        table[name] = [" / ".join("-" if v is None else f"{v:.3f}" for v in cell) for cell in cells]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns)


def _matches(record: Mapping[str, Any], method: str, settings: Settings) -> bool:
    return record["method"] == method and settings.items() <= record["settings"].items()
