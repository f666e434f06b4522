"""The field's catalogue: every paper, which notebook it belongs to and where it stands here."""

import pandas as pd

from .errors import DataError
from .paths import root

# Between the addresses of one paper.
SEPARATOR = " ; "
COLUMNS = ("key", "name", "title", "year", "venue", "kind", "notebook", "role", "built", "core_idea", "url")
ROLES = {"core": "core method", "variation": "variation", "later": "later"}


def load() -> pd.DataFrame:
    """`data/papers.csv`, one row per entry; `year` is a nullable integer, missing text is "".

    `kind` is method, dataset, survey or background. `notebook` and `role` say where a method is (or will be)
    taught and how: core, variation or later; `built` is its class or function there, "" while there is none.
    Raises `DataError` when the file is not there or lacks a column.
    """
    path = root() / "data" / "papers.csv"
    if not path.is_file():
        raise DataError(f"{path} is missing: run from a checkout of the repository")
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if lacking := [c for c in COLUMNS if c not in frame]:
        raise DataError(f"{path} lacks the columns {lacking}")
    return frame.assign(year=pd.to_numeric(frame["year"], errors="coerce").astype("Int64"))


def methods(notebook: str | None = None) -> pd.DataFrame:
    """The methods (of one notebook, or all), oldest first."""
    frame = load()
    frame = frame[frame["kind"] == "method"]
    if notebook is not None:
        frame = frame[frame["notebook"] == notebook]
    return frame.sort_values(["year", "name"], kind="stable").reset_index(drop=True)


def family(notebook: str) -> str:
    """Markdown: the family tree that ends a notebook, every paper with a line on where it stands here."""
    lines = ["| paper | year | here | idea |", "| --- | --- | --- | --- |"]
    for row in methods(notebook).itertuples():
        name = _linked(row.name, row.url) if row.url else row.name
        year = "" if pd.isna(row.year) else row.year
        here = f"{ROLES[row.role]}: `{row.built}`" if row.built else "not yet"
        lines.append(f"| {name} | {year} | {here} | {row.core_idea} |")
    return "\n".join(lines)


def _linked(name: str, addresses: str) -> str:
    """`name`, linked to the first of `addresses` (joined by `SEPARATOR`); the others as numbers."""
    first, *others = addresses.split(SEPARATOR)
    return " ".join([f"[{name}]({first})", *(f"[[{n}]]({url})" for n, url in enumerate(others, start=2))])
