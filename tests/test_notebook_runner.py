"""Executing, exporting and refreshing notebooks, on tiny ones."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat.v4
import pytest

from adlearn import paths
from adlearn.errors import NotebookError
from adlearn.notebooks import (
    executed_cells,
    export,
    family,
    find,
    folder,
    forget_execution,
    headings,
    notebooks,
    outputs,
    read,
    sections,
    write,
)
from adlearn.notebooks.execute import execute
from adlearn.notebooks.pytest_plugin import timing_table


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout in place of this one."""
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    for variable in ("ADLEARN_RUNS", "ADLEARN_RESULTS", "ADLEARN_PROFILE", "ADLEARN_DRY_RUN"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "notebooks" / "results").mkdir(parents=True)
    (tmp_path / "adlearn" / "methods").mkdir(parents=True)
    return tmp_path


def notebook(name: str, *cells: str) -> Path:
    """Write a notebook of `cells` (markdown if they start with "# ") and return its path."""
    make = [
        nbformat.v4.new_markdown_cell(text, id=f"c{i}")
        if text.startswith("# ")
        else nbformat.v4.new_code_cell(text, id=f"c{i}")
        for i, text in enumerate(cells)
    ]
    path = folder() / f"{name}.ipynb"
    write(nbformat.v4.new_notebook(cells=make), path)
    return path


RECORD = """
import json, os, pathlib
numbers = pathlib.Path(os.environ["ADLEARN_RESULTS"], "03_good.json")
numbers.parent.mkdir(parents=True, exist_ok=True)
numbers.write_text(json.dumps([os.environ["ADLEARN_PROFILE"], os.environ.get("ADLEARN_DRY_RUN")]))
print(os.path.basename(os.getcwd()), os.environ["ADLEARN_PROFILE"])
"""


def text_of(path: Path) -> str:
    return "".join(o.get("text", "") for c in read(path).cells if c.cell_type == "code" for o in c.outputs)


def test_a_good_notebook_leaves_a_copy_and_its_numbers_and_is_not_touched(checkout):
    path = notebook("03_good", "# Good", RECORD)
    before = path.read_bytes()
    execution = outputs.run(path, profile="gpu")
    assert execution.failure is None and execution.seconds > 0
    assert path.read_bytes() == before
    assert text_of(checkout / "runs" / "notebooks" / "03_good.ipynb") == "notebooks gpu\n"
    assert json.loads((checkout / "runs" / "results" / "03_good.json").read_text()) == ["gpu", None]
    assert not list((checkout / "runs").glob("results-*")), "temporary folders are removed"


def test_a_dry_run_is_kept_apart_from_real_copies(checkout):
    path = notebook("03_good", "import os\nprint(os.environ['ADLEARN_DRY_RUN'])")
    outputs.run(path, dry_run=True)
    assert text_of(checkout / "runs" / "dry-run" / "03_good.ipynb") == "1\n"
    assert not (checkout / "runs" / "notebooks").exists()


WAITS_FOR_ANOTHER = """
import os, pathlib, time
numbers = pathlib.Path(os.environ["ADLEARN_RESULTS"], "03_twin.json")
assert not numbers.exists()
numbers.write_text(str(os.getpid()))
pathlib.Path(f"started-{os.getpid()}").touch()
while len(list(pathlib.Path().glob("started-*"))) < 2:
    time.sleep(0.01)
assert numbers.read_text() == str(os.getpid())
"""


def test_two_runs_of_a_notebook_at_once_do_not_mix_their_numbers(checkout):
    path = notebook("03_twin", WAITS_FOR_ANOTHER)
    with ThreadPoolExecutor(2) as pool:
        assert [e.failure for e in pool.map(outputs.run, [path, path])] == [None, None]
    started = {p.name.removeprefix("started-") for p in folder().glob("started-*")}
    assert (checkout / "runs" / "results" / "03_twin.json").read_text() in started and len(started) == 2
    assert sorted(p.name for p in (checkout / "runs" / "notebooks").iterdir()) == ["03_twin.ipynb"]


def test_a_failing_cell_is_told_by_number_section_source_and_error_and_replaces_nothing(checkout):
    path = notebook("03_bad", "# One", "x = 0", "# Two", "y = 1 / x", "z = 2")
    good = checkout / "runs" / "notebooks" / "03_bad.ipynb"
    write(read(path), good)
    before, good_before = path.read_bytes(), good.read_bytes()
    with pytest.raises(NotebookError) as error:
        outputs.run(path)
    message = str(error.value)
    assert "code cell [2] of 3 (section 'Two')" in message
    assert "    y = 1 / x" in message and "ZeroDivisionError: division by zero" in message
    assert "\x1b" not in message
    assert path.read_bytes() == before and good.read_bytes() == good_before
    failed = read(good.with_name("03_bad.failed.ipynb"))
    assert [c.execution_count for c in failed.cells if c.cell_type == "code"] == [1, 2, None]


def test_outputs_are_refreshed_only_when_every_notebook_passed(checkout):
    good, bad = notebook("03_good", RECORD), notebook("04_bad", "assert False")
    before = good.read_bytes()
    with pytest.raises(NotebookError, match=r"04_bad\.ipynb failed: AssertionError"):
        outputs.refresh([good, bad])
    committed = checkout / "notebooks" / "results" / "03_good.json"
    assert good.read_bytes() == before and not committed.exists()
    outputs.refresh([good])
    assert text_of(good) == "notebooks cpu\n"
    assert json.loads(committed.read_text()) == ["cpu", ""]
    assert not (checkout / "runs" / "results").exists()


def test_a_notebook_saved_while_it_runs_is_not_overwritten(checkout):
    path = notebook("03_edited", "from pathlib import Path\nPath('03_edited.ipynb').write_text('{}')")
    with pytest.raises(NotebookError, match="was saved while it was running"):
        outputs.refresh([path])
    assert path.read_text() == "{}"


def test_two_executions_tidy_to_the_same_bytes(checkout):
    path = notebook("03_same", "# Same", "import ipywidgets\nprint(1)\nipywidgets.IntSlider()")
    outputs.refresh([path])
    first = path.read_bytes()
    outputs.refresh([path])
    assert path.read_bytes() == first
    assert b"widget" not in first.replace(b"ipywidgets", b"") and text_of(path) == "1\n"


def test_a_dead_kernel_and_a_slow_notebook_are_told_in_a_sentence(checkout):
    dead = execute(notebook("03_dead", "import os", "os._exit(1)"), quiet=True)
    assert "the kernel died" in dead.failure and "[2] of 2" in dead.failure
    slow = execute(notebook("03_slow", "x = 1", "import time; time.sleep(60)"), limit=1, quiet=True)
    assert "took longer than 1 s" in slow.failure and slow.seconds < 30


def test_a_notebook_without_code_fails(checkout):
    assert execute(notebook("03_empty", "# Only words"), quiet=True).failure.endswith("it executed no code")


@pytest.mark.parametrize("name", ["3", "03", "03_good", "03_good.ipynb"])
def test_a_notebook_is_found_by_number_or_name(checkout, name):
    path = notebook("03_good", "1")
    assert find(name) == path and family(path) == "good"


def test_an_unknown_notebook_lists_the_choices_and_an_empty_checkout_says_so(checkout):
    with pytest.raises(NotebookError, match=r"no NN_family\.ipynb in"):
        notebooks()
    notebook("03_good", "1")
    with pytest.raises(NotebookError, match=r"no notebook '7'; there are\n  03_good"):
        find("7")


def test_a_file_that_is_no_notebook_is_named(checkout):
    (folder() / "03_good.ipynb").write_text("not json")
    with pytest.raises(NotebookError, match=r"03_good\.ipynb is not a notebook"):
        read(folder() / "03_good.ipynb")


def test_sections_follow_headings_but_not_comments_in_fenced_code(checkout):
    path = notebook("03_good", "# A", "1", "# B\n```python\n# no heading\n```\n## C", "2")
    assert sections(read(path)) == ["A", "A", "C", "C"]
    assert headings("#no heading\n## Two ##\n####### seven") == ["Two"]


def test_forgetting_an_execution_leaves_nothing_executed(checkout):
    book = read(notebook("03_good", "1"))
    book.cells[0].execution_count = 4
    assert executed_cells(book) == 1
    forget_execution(book)
    assert executed_cells(book) == 0


EXPORTED = "#| export\nimport math\n\n\ndef area(r: float) -> float:\n    return math.pi * r**2"


def test_export_is_complete_stable_and_importable(checkout):
    notebook("00_plain", "1 + 1")
    notebook("03_circle", "# Circle\n\n> Round things.", "r = 1", EXPORTED)
    assert export.differences() == ["adlearn/methods/circle.py is missing"]
    assert export.export() == ["circle.py"] and export.export() == [] and export.differences() == []
    module = (export.methods_dir() / "circle.py").read_text()
    assert str(checkout) not in module and "notebooks/03_circle.ipynb" in module and "r = 1" not in module
    names = {}
    exec(module, names)
    assert names["__all__"] == ["area"] and names["__doc__"] == "Round things."
    assert sorted(p.name for p in checkout.rglob("*.py")) == ["circle.py"], "no side files"


def test_the_export_check_tells_hand_edits_and_orphans_and_export_repairs_them(checkout):
    notebook("03_circle", EXPORTED)
    export.export()
    module = export.methods_dir() / "circle.py"
    module.write_text(module.read_text() + "# by hand\n")
    (export.methods_dir() / "gone.py").touch()
    (export.methods_dir() / "__init__.py").touch()
    edited, orphan = export.differences()
    assert "circle.py is not what its notebook exports" in edited and "gone.py has no notebook" in orphan
    assert export.export() == ["circle.py", "gone.py"] and export.differences() == []
    assert (export.methods_dir() / "__init__.py").exists()


def test_code_that_cannot_be_exported_names_the_notebook(checkout):
    notebook("03_circle", "#| export\nfrom . import x")
    with pytest.raises(NotebookError, match=r"03_circle\.ipynb cannot be exported"):
        export.differences()


def test_under_nbmake_empty_notebooks_fail_and_the_limit_is_the_whole_notebooks(checkout):
    notebook("00_good", "1")
    notebook("01_empty", "# Only words")
    notebook("02_slow", "import time; time.sleep(4)", "time.sleep(4)")
    options = ["-p", "adlearn.notebooks.pytest_plugin", "--nbmake", "--overwrite", "--nbmake-timeout=6"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "--rootdir", str(checkout), str(folder())],
        capture_output=True,
        text=True,
        cwd=checkout,
    )
    assert result.returncode == 1 and "2 failed, 1 passed" in result.stdout
    assert "01_empty.ipynb executed no code" in result.stdout
    summary = result.stdout.split("slowest first")[1]
    assert summary.index("02_slow") < summary.index("00_good") and "target 150 s   OK" in summary


def test_the_timing_table_is_sorted_and_says_what_is_over_target():
    slow, quick, _ = timing_table({"quick": 10.0, "slow": 200.0}, 150).splitlines()
    assert slow.split() == ["200.0", "s", "slow", "target", "150", "s", "over", "target"]
    assert quick.endswith("OK")
    assert "target" not in timing_table({"quick": 10.0}, None)
