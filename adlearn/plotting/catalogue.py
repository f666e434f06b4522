"""The field's catalogue, data/papers.csv, as a figure and as a table to search in."""

import textwrap
from collections.abc import Iterable
from hashlib import blake2b
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from ..errors import DataError
from ..papers import ROLES, SEPARATOR
from .style import BLUE, DPI, FAINT, MUTED, WIDTH, new_figure, styled

NEEDED = ("name", "title", "year", "kind", "notebook", "role", "core_idea", "url")
SPELLED = {"14_gan": "GAN", "21_three_d": "3D"}
HYPHENATED = ("one class", "multi class", "few shot", "vision language", "student teacher")

FIRST_YEAR = 2018
"""Everything older shares one column: there are few, over many years."""

# Pixels.
PAGE = round(WIDTH * DPI)
HEADER, YEARS = 34, 20
LABEL, NUMBER = 108, 17
BAND = 33
PAD = 6
INDENT = 6
GAP = 4
LINE = 13
DOT = 9
# Points and characters.
NAME_SIZE, LABEL_SIZE = 7.5, 8
NAME_WRAP, LABEL_WRAP = 14, 14

MARKERS = {
    "core": {"s": 24, "facecolors": BLUE, "edgecolors": BLUE},
    "variation": {"s": 19, "facecolors": "none", "edgecolors": BLUE, "linewidths": 1.1},
    "later": {"s": 12, "facecolors": "#A8B1BA", "edgecolors": "none"},
}


class Point(NamedTuple):
    """One method's dot, in pixels from the top left; `name` is "" when it is not written."""

    x: float
    y: float
    role: str
    name: str = ""


def family_name(notebook: str) -> str:
    """How a reader calls the family of `notebook`: "21_three_d" is "21 3D"."""
    number, _, rest = notebook.partition("_")
    words = rest.replace("_", " ")
    for pair in HYPHENATED:
        words = words.replace(pair, pair.replace(" ", "-"))
    return f"{number} {SPELLED.get(notebook, words[:1].upper() + words[1:])}"


@styled
def timeline(papers: pd.DataFrame) -> Figure:
    """Every method with a year, one row per family and one column per year; core methods by name.

    `papers` is `adlearn.papers.load()`. Raises `DataError` when it has no method with a year.
    """
    methods = _methods(papers).dropna(subset="year")
    if methods.empty:
        raise DataError("papers has no method with a year: pass adlearn.papers.load()")
    methods = methods.assign(column=(methods["year"].astype(int) - FIRST_YEAR + 1).clip(lower=0))
    edges = _column_edges(methods)
    top = HEADER + YEARS
    bands, points = [top], []
    for _, row in methods.groupby("notebook"):
        placed = [p for c, cell in row.groupby("column") for p in _place(cell, edges[c : c + 2], bands[-1])]
        points += placed
        bands.append(max(bands[-1] + BAND, *(_bottom(p) + PAD for p in placed)))
    axes = _canvas(edges[-1], bands[-1] + YEARS)
    families = [family_name(n) for n in sorted(methods["notebook"].unique())]
    _draw_grid(axes, bands, edges, families)
    _draw_years(axes, edges, (top - YEARS / 2, bands[-1] + YEARS / 2), methods["year"].min())
    _draw_points(axes, points)
    _draw_legend(axes, methods, len(families))
    return axes.figure


def _methods(papers: pd.DataFrame) -> pd.DataFrame:
    """The methods by notebook, role and year, or `DataError` naming what is wrong with `papers`."""
    if lacking := [c for c in NEEDED if c not in papers]:
        raise DataError(f"papers lacks the columns {lacking}: pass adlearn.papers.load()")
    methods = papers[papers["kind"] == "method"]
    if methods.empty:
        raise DataError("papers has no row whose kind is 'method': pass adlearn.papers.load()")
    if len(odd := methods[~methods["role"].isin(list(ROLES))]):
        raise DataError(f"papers: the role of {odd['name'].tolist()} must be one of {list(ROLES)}")
    order = methods.assign(rank=methods["role"].map(list(ROLES).index))
    return order.sort_values(["notebook", "rank", "year", "name"], kind="stable")


def _wrapped(name: str) -> str:
    return textwrap.fill(name, NAME_WRAP, break_long_words=False, break_on_hyphens=False)


def _text_width(text: str) -> float:
    """Pixels of the longest line of a name."""
    font = FontProperties(family="DejaVu Sans", size=NAME_SIZE)
    widths = [text_to_path.get_text_width_height_descent(t, font, False)[0] for t in text.split("\n")]
    return max(widths) * DPI / 72


def _column_edges(methods: pd.DataFrame) -> np.ndarray:
    """Pixels: the columns fit their longest name and share what the page has left."""
    widths = np.full(methods["column"].max() + 1, 4.0 * DOT)
    for row in methods[methods["role"] == "core"].itertuples():
        widths[row.column] = max(widths[row.column], _text_width(_wrapped(row.name)))
    widths += PAD + INDENT + GAP
    widths += max(0.0, PAGE - LABEL - widths.sum()) / len(widths)
    return LABEL + np.concatenate([[0.0], widths.cumsum()])


def _place(cell: pd.DataFrame, edges: np.ndarray, top: float) -> list[Point]:
    """The names of a cell one under another, then its other dots in lines as wide as the column."""
    x, y = edges[0] + PAD, top + PAD + LINE / 2
    points = []
    for name in cell.loc[cell["role"] == "core", "name"]:
        points.append(Point(x, y, "core", _wrapped(name)))
        y = _bottom(points[-1]) + LINE / 2
    others = cell.loc[cell["role"] != "core", "role"]
    per_line = int((edges[1] - edges[0] - PAD) // DOT)
    for i, role in enumerate(others):
        points.append(Point(x + i % per_line * DOT, y + i // per_line * DOT, role))
    return points


def _bottom(point: Point) -> float:
    lines = point.name.count("\n") + 1 if point.name else 1
    return point.y + (lines - 0.5) * LINE


def _canvas(width: float, height: float) -> Axes:
    """Axes over the whole figure, in pixels from the top left."""
    figure = new_figure(height / DPI, width / DPI, layout="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return axes


def _draw_grid(axes: Axes, bands: list[float], edges: np.ndarray, families: list[str]) -> None:
    """A row per family, every second one tinted, and a hairline before every year."""
    for i, (top, bottom, family) in enumerate(zip(bands, bands[1:], families, strict=False)):
        if i % 2 == 0:
            axes.axhspan(top, bottom, color="#F3F5F8", linewidth=0, zorder=0)
        number, _, rest = family.partition(" ")
        style = {"va": "top", "fontsize": LABEL_SIZE, "linespacing": 1.15, "parse_math": False}
        axes.text(PAD, top + PAD, number, color=MUTED, **style)
        axes.text(PAD + NUMBER, top + PAD, textwrap.fill(rest, LABEL_WRAP), **style)
    axes.vlines(edges[:-1], bands[0], bands[-1], color=FAINT, linewidth=0.6, zorder=0.5)


def _draw_years(axes: Axes, edges: np.ndarray, heights: Iterable[float], oldest: int) -> None:
    labels = [f"to {FIRST_YEAR - 1}", *map(str, range(FIRST_YEAR, FIRST_YEAR + len(edges) - 2))]
    if oldest < FIRST_YEAR - 1:
        labels[0] = f"{oldest}–{FIRST_YEAR - 1}"
    for y in heights:
        for x, label in zip(edges, labels, strict=False):
            axes.text(x + PAD - 3, y, label, va="center", fontsize=8.5, fontweight="bold", color=MUTED)


def _draw_points(axes: Axes, points: list[Point]) -> None:
    """One collection per role, labelled with it, and the names."""
    for role, marker in MARKERS.items():
        xy = np.array([(p.x, p.y) for p in points if p.role == role]).reshape(-1, 2)
        axes.scatter(*xy.T, label=role, zorder=2, **marker)
    for p in points:
        if p.name:
            style = {"fontsize": NAME_SIZE, "va": "top", "linespacing": 1.2, "parse_math": False}
            axes.text(p.x + INDENT, p.y - LINE / 2 + 1, p.name, **style)


def _draw_legend(axes: Axes, methods: pd.DataFrame, families: int) -> None:
    """The title on the left and what the dots mean on the right, above the years."""
    title = f"{len(methods)} methods in {families} families"
    axes.text(PAD, HEADER / 2, title, va="center", fontsize=10.5, fontweight="bold")
    dots = axes.collections[-len(MARKERS) :]
    counts = methods["role"].value_counts()
    labels = [f"{ROLES[role]} ({counts.get(role, 0)})" for role in MARKERS]
    right = axes.get_xlim()[1] - PAD
    axes.legend(
        dots, labels, ncols=len(dots), loc="center right", bbox_to_anchor=(right, HEADER / 2),
        bbox_transform=axes.transData, fontsize=8.5, handletextpad=0.1, columnspacing=1.2, borderaxespad=0,
    )  # fmt: skip


TABLE = """<div id="{id}" data-lm-suppress-shortcuts="true">
<style>
#{id} .box {{ max-height: 30em; overflow: auto; border: 1px solid #8886; }}
#{id} table {{ width: 100%; margin: 0; border-collapse: collapse; table-layout: auto; }}
#{id} td:last-child {{ width: 55%; }}
#{id} th, #{id} td {{ text-align: left; vertical-align: top; white-space: normal; padding: 0.3em 0.6em; }}
#{id} input {{ width: 18em; margin: 0.5em 0.8em 0.5em 0; padding: 0.3em 0.5em; font: inherit;
  color: inherit; background: transparent; border: 1px solid #888a; border-radius: 3px; }}
</style>
<details><summary>{count} methods</summary>
<div class="box"><table><thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody></table></div></details>
<script>
{{
  const here = document.currentScript?.closest("div"), box = here ?? document.getElementById("{id}");
  const rows = [...box.querySelectorAll("tbody tr")], summary = box.querySelector("summary");
  const input = document.createElement("input"), words = rows.map(r => r.textContent.toLowerCase());
  input.type = "search";
  input.placeholder = "filter: patchcore, 2022 flow ...";
  input.setAttribute("aria-label", "filter the methods");
  input.oninput = () => {{
    const wanted = input.value.toLowerCase().split(/\\s+/);
    rows.forEach((r, i) => r.hidden = !wanted.every(w => words[i].includes(w)));
    summary.textContent = `${{rows.filter(r => !r.hidden).length}} of {count} methods`;
  }};
  box.querySelector(".box").before(input);
  box.querySelector("details").open = true;
}}
</script>
</div>"""


def searchable(papers: pd.DataFrame) -> HTML:
    """Every method as a table with a filter above it; a folded plain table where scripts are not run.

    `papers` is `adlearn.papers.load()`. Raises `DataError` when it has no methods.
    """
    methods = _methods(papers)
    head = "".join(f"<th>{title}</th>" for title in ("name", "year", "family", "role", "idea"))
    body = "\n".join(_table_row(row) for row in methods.itertuples())
    # Named by its content: unlike a random name, it leaves a notebook that is run again unchanged.
    name = "methods-" + blake2b(body.encode(), digest_size=4).hexdigest()
    return HTML(TABLE.format(id=name, count=len(methods), head=head, body=body))


def _table_row(row: Any) -> str:
    name = escape(row.name)
    if row.url.startswith(("https://", "http://")):
        name = f'<a href="{escape(row.url.split(SEPARATOR)[0])}" title="{escape(row.title)}">{name}</a>'
    year = "" if pd.isna(row.year) else str(row.year)
    cells = [name, year, escape(family_name(row.notebook)), ROLES[row.role], escape(row.core_idea)]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
