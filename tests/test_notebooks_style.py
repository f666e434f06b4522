"""The committed notebooks keep the checkable rules, and the checks see what breaks them."""

from pathlib import Path

import nbformat.v4
import pytest
from nbformat import NotebookNode

from adlearn.notebooks import folder, numbered, write
from adlearn.notebooks.style import problems, solution_problems

NOTEBOOKS = numbered(folder())
SOLUTIONS = numbered(folder() / "solutions")


def test_there_are_notebooks_and_00_is_where_to_start():
    assert NOTEBOOKS and NOTEBOOKS[0].stem == "00_start_here"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_keeps_the_rules(path: Path):
    assert problems(path) == []


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda p: p.stem)
def test_solutions_check_the_exercises_of_a_notebook(path: Path):
    assert solution_problems(path) == []


def code(source: str, *outputs: NotebookNode) -> NotebookNode:
    return nbformat.v4.new_code_cell(source, outputs=list(outputs))


def text(source: str) -> NotebookNode:
    return nbformat.v4.new_markdown_cell(source)


def shown(kind: str, value: str) -> NotebookNode:
    return nbformat.v4.new_output("display_data", {kind: value})


START = code('import adlearn\n\nrun = adlearn.start("03_good")')
TITLE = text("# Good\n\nA sentence.")
EXPORT = code(
    '#| export\ndef area(r: float) -> float:\n    """Area of a circle."""\n    return 3 * r\n\n\n'
    'class A:\n    """A."""\n    def __init__(self, x: int): ...'
)


@pytest.fixture
def book(tmp_path: Path):
    """A function that writes the cells, executed in order, as 03_good.ipynb and returns its problems."""

    def check(*cells: NotebookNode, counts: list[int] | None = None) -> list[str]:
        runnable = [cell for cell in cells if cell.cell_type == "code"]
        for cell, count in zip(runnable, counts or range(1, len(runnable) + 1), strict=True):
            cell.execution_count = count
        path = tmp_path / "03_good.ipynb"
        write(nbformat.v4.new_notebook(cells=list(cells)), path)
        return problems(path)

    return check


def test_a_notebook_that_keeps_the_rules_has_no_problems(book):
    figure = code(
        "%matplotlib inline\nfigure()", shown("image/png", "x/tmp/y"), shown("text/html", "base64,/tmp/")
    )
    assert book(TITLE, START, text("## Two\n\nWords."), EXPORT, figure, text("https://a.org/work/b")) == []


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        (code("x = 1\n" * 26), "cell [2] has 26 lines, at most 25"),
        (code("class A:\n" + "    x = 1\n" * 30), "cell [2] has 31 lines, at most 25"),
        (
            code("#| export\nclass A:\n    '''A.'''\n" + "    x = 1\n" * 60),
            "cell [2] has 62 lines, at most 60",
        ),
        (text("## Bare heading"), "no sentence between 'Bare heading' and cell [2]"),
        (code("1", shown("text/plain", "x" * 100_001)), "the output of cell [2] has 100 KB, at most 100"),
        (code("1", shown("image/svg+xml", "<svg/>")), "cell [2] shows image/svg+xml: figures are PNG"),
        (code("1", shown("text/plain", "<A at 0x7f00aa11>")), "cell [2] prints a memory address"),
        (code("1", nbformat.v4.new_output("error", ename="E", evalue="")), "cell [2] ends in E"),
        (code("p = '/home/me/data'"), "a path of one machine in the cell at position 2"),
        (code("1", shown("text/plain", "lib/site-packages/x.py")), "a path of one machine"),
        (text("see http://localhost:8888/lab"), "a local address in the cell at position 2"),
        (code("#| export\ndef f(x, y: int) -> int:\n    '''F.'''"), "f has no type hint for x"),
        (code("#| export\ndef f(x: int):\n    '''F.'''"), "f has no type hint for its result"),
        (code("#| export\ndef f() -> None: ..."), "f has no docstring"),
        (code("#| export\ndef _f() -> None:\n    print(1)"), "exported code uses print"),
        (code("#| export\ndef _f() -> None:\n    plt.plot(1)"), "exported code uses plt"),
        (code("#| export\ndef _f() -> None:\n    global g"), "exported code changes the global g"),
        (
            text('Exercise: `check("03.1", answer)`'),
            "exercise 03.1 is not checked in solutions/03_good.ipynb",
        ),
        (code('# check("02.1", answer)'), "exercise 02.1 has another notebook's number"),
    ],
)
def test_a_broken_rule_is_told_with_its_place(book, cell, problem):
    assert any(problem in found for found in book(TITLE, START, cell, code("last")))


def test_the_first_code_cell_starts_the_notebook_under_its_own_name(book):
    assert book(TITLE, code('adlearn.start("02_other")')) == book(TITLE, code("1")) != []


def test_most_cells_are_short(book):
    assert any("median 9" in found for found in book(TITLE, START, *[code("x = 1\n" * 9) for _ in range(3)]))


@pytest.mark.parametrize("counts", [[2, 3], [2, 1], [1, 3]])
def test_cells_are_executed_in_order(book, counts):
    assert any("from top to bottom" in found for found in book(TITLE, START, code("1"), counts=counts))


def test_a_notebook_over_a_megabyte_is_too_big(book):
    assert any("the file has" in found for found in book(TITLE, START, text("x" * 1_000_001)))


def test_an_exercise_is_solved_by_a_check_that_runs(book, tmp_path):
    solution = tmp_path / "solutions" / "03_good.ipynb"
    asked = code('# check("03.1", answer)')
    write(nbformat.v4.new_notebook(cells=[code('# check("03.1", 4)')]), solution)
    assert "exercise 03.1 is not checked in solutions/03_good.ipynb" in book(TITLE, START, asked)
    assert solution_problems(solution) == ["it checks no exercise"]
    write(nbformat.v4.new_notebook(cells=[code('check("03.1", 4)')]), solution)
    assert book(TITLE, START, asked) == [] == solution_problems(solution)
    assert "there is no notebook of its name" in solution_problems(tmp_path / "03_good.ipynb")
