"""The catalogue's figure and table: complete, legible, small, and safe to show."""

from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.collections import LineCollection

from adlearn import papers
from adlearn.errors import DataError
from adlearn.plotting import compact_png, searchable, timeline


@pytest.fixture(scope="module")
def catalogue():
    return papers.load()


@pytest.fixture(scope="module")
def figure(catalogue):
    drawn = timeline(catalogue)
    drawn.canvas.draw()
    return drawn


def plain(text):
    return " ".join(text.split())


def rows_of(html):
    """The text of each body cell of the table."""
    rows, inside = [], []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            inside.append(tag)
            if tag == "tr":
                rows.append([])
            elif tag == "td":
                rows[-1].append("")

        def handle_endtag(self, tag):
            assert inside.pop() == tag

        def handle_data(self, data):
            if "td" in inside:
                rows[-1][-1] += data

    Reader().feed(html)
    assert not inside
    return [row for row in rows if row]


def test_the_timeline_writes_every_core_method_once(figure, catalogue):
    core = catalogue.loc[catalogue["role"] == "core", "name"]
    written = [plain(text.get_text()) for text in figure.axes[0].texts]
    assert {name: written.count(plain(name)) for name in core} == dict.fromkeys(core, 1)


def test_the_timeline_has_a_dot_for_every_method_with_a_year(figure, catalogue):
    dated = catalogue[(catalogue["kind"] == "method") & catalogue["year"].notna()]
    counts = {dots.get_label(): len(dots.get_offsets()) for dots in figure.axes[0].collections}
    for role, count in dated["role"].value_counts().items():
        assert counts[role] == count


def test_no_text_of_the_timeline_overlaps_another_or_leaves_the_page(figure):
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts]
    page = figure.bbox
    for i, (name, box) in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, name
        for other, against in boxes[i + 1 :]:
            # Two pixels: the boxes of two lines may touch, their letters do not.
            wide = min(box.x1, against.x1) - max(box.x0, against.x0)
            high = min(box.y1, against.y1) - max(box.y0, against.y0)
            assert min(wide, high) <= 2, f"{name!r} and {other!r}"


def test_no_text_of_the_timeline_touches_a_dot(figure):
    axes = figure.axes[0]
    centres = np.concatenate([d.get_offsets() for d in axes.collections if d.get_label() in papers.ROLES])
    x, y = axes.transData.transform(centres).T
    for text in axes.texts:
        box = text.get_window_extent()
        touched = (x + 3 > box.x0) & (x - 3 < box.x1) & (y > box.y0) & (y < box.y1)
        assert not touched.any(), text.get_text()


def test_no_text_of_the_timeline_crosses_the_line_of_a_year(figure):
    axes = figure.axes[0]
    lines = next(c for c in axes.collections if isinstance(c, LineCollection))
    at = axes.transData.transform([segment[0] for segment in lines.get_segments()])[:, 0]
    for text in axes.texts[:-1]:  # the last is the title, above the lines
        box = text.get_window_extent()
        assert not ((at > box.x0) & (at < box.x1)).any(), text.get_text()


def test_the_timeline_fits_the_page_and_one_output(figure):
    assert figure.get_size_inches()[0] <= 8.5 and figure.get_size_inches()[1] <= 11
    assert len(compact_png(figure)) * 4 / 3 < 100_000


def test_the_table_has_every_method_and_fits_one_output(catalogue):
    html = searchable(catalogue).data
    methods = catalogue[catalogue["kind"] == "method"]
    assert len(html.encode()) < 100_000
    assert sorted(row[0] for row in rows_of(html)) == sorted(methods["name"])
    assert {len(row) for row in rows_of(html)} == {5}


def test_the_table_is_whole_without_its_script(catalogue):
    html = searchable(catalogue).data
    bare = html[: html.index("<script>")] + html.partition("</script>")[2]
    assert rows_of(bare) == rows_of(html) and "<input" not in bare


def test_the_table_is_the_same_every_time(catalogue):
    assert searchable(catalogue).data == searchable(catalogue.copy()).data


def test_what_a_paper_says_is_never_run_as_html(catalogue):
    evil = catalogue[catalogue["kind"] == "method"].head(1)
    evil = evil.assign(name="<b>x</b>", core_idea="a < b & c", url='javascript:"x"', title='"><img>')
    html = searchable(evil).data
    assert "<b>x" not in html and "<img" not in html and "javascript:" not in html
    assert rows_of(html)[0][0] == "<b>x</b>" and rows_of(html)[0][4] == "a < b & c"


@pytest.mark.parametrize("show", [timeline, searchable])
def test_a_catalogue_without_methods_or_columns_is_refused(show, catalogue):
    with pytest.raises(DataError, match="method"):
        show(catalogue[catalogue["kind"] == "dataset"])
    with pytest.raises(DataError, match=r"lacks the columns \['role'\]"):
        show(catalogue.drop(columns="role"))
    with pytest.raises(DataError, match="role"):
        show(catalogue.assign(role="hero"))
