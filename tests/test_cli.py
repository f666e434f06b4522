"""The command line: exit codes, one-line errors, what each command prints."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat.v4
import pytest

import adlearn.doctor
from adlearn import bench, cli, paths, weights
from adlearn.bench import Row
from adlearn.bench.report import report
from adlearn.doctor import Finding, examine
from adlearn.errors import DataError, NotebookError, StorageError, WeightsError
from adlearn.notebooks import folder, outputs, suite, write
from adlearn.notebooks.execute import Execution


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two notebooks, in place of this one."""
    for variable in [name for name in os.environ if name.startswith("ADLEARN_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setattr(paths, "root", lambda: tmp_path)
    (tmp_path / "notebooks" / "results").mkdir(parents=True)
    for name in ("00_start_here", "03_memory_bank"):
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import time; time.sleep(30)")])
        write(book, folder() / f"{name}.ipynb")
    return tmp_path


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Instead of executing notebooks, note what would be."""
    calls = []

    def run(path: Path, profile: str | None, dry_run: bool) -> Execution:
        calls.append((path.stem, profile, dry_run))
        return Execution(nbformat.v4.new_notebook(), 90.0, None)

    monkeypatch.setattr(outputs, "run", run)
    monkeypatch.setattr(outputs, "refresh", lambda chosen: calls.append([p.stem for p in chosen]))
    return calls


RESULTS = {
    "notebook": "03_memory_bank",
    "profile": "cpu",
    "records": [{"method": "PatchCore", "dataset": "elpv/mono", "image_auroc": 0.91}],
}


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ([], ("00_start_here", None, False)),
        (["3"], ("03_memory_bank", None, False)),
        (["03", "--profile", "gpu", "--dry-run"], ("03_memory_bank", "gpu", True)),
    ],
)
def test_run_passes_notebook_profile_and_dry_run(checkout, executed, capsys, arguments, call):
    assert cli.main(["run", *arguments]) == 0
    assert executed == [call]
    assert "1.5 minutes" in capsys.readouterr().out


def test_run_prints_the_notebooks_results(checkout, executed, capsys):
    results = checkout / "runs" / "results"
    results.mkdir(parents=True)
    (results / "03_memory_bank.json").write_text(json.dumps(RESULTS))
    assert cli.main(["run", "03"]) == 0
    out = capsys.readouterr().out
    assert "PatchCore" in out and "0.91" in out
    assert cli.main(["run", "00"]) == 0
    assert "no results were recorded" in capsys.readouterr().out


def test_an_environment_that_asks_for_a_dry_run_gets_one(checkout, executed, monkeypatch):
    monkeypatch.setenv("ADLEARN_DRY_RUN", "1")
    cli.main(["run"])
    assert executed == [("00_start_here", None, True)]


def test_outputs_refreshes_all_notebooks_or_those_named(checkout, executed):
    assert cli.main(["outputs"]) == 0 == cli.main(["outputs", "3"])
    assert executed == [["00_start_here", "03_memory_bank"], ["03_memory_bank"]]


@pytest.mark.parametrize("kind", [DataError, WeightsError, NotebookError, StorageError])
def test_our_errors_are_one_line_without_traceback_and_exit_1(checkout, monkeypatch, capsys, kind):
    def fail(*_):
        raise kind("the sentence")

    monkeypatch.setattr(outputs, "run", fail)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == "adlearn: the sentence\n"


def test_an_unknown_notebook_lists_the_choices(checkout, capsys):
    assert cli.main(["run", "12"]) == 1
    assert "00_start_here" in capsys.readouterr().err


def test_ctrl_c_stops_kernel_and_command_with_one_line(checkout):
    script = """if True:
        import sys, pathlib
        from adlearn import cli, paths
        paths.root = lambda: pathlib.Path(sys.argv[1])
        sys.exit(cli.main(["run"]))
    """
    command = [sys.executable, "-c", script, str(checkout)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while "0/1" not in process.stderr.readline():  # the bar appears: the kernel is being started
        pass
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "adlearn: interrupted; nothing was replaced"
    assert "Traceback" not in errors
    assert not list((checkout / "runs").glob("*"))


def test_export_check_fails_until_exported(checkout, capsys):
    cells = [nbformat.v4.new_code_cell("#| export\nx = 1")]
    write(nbformat.v4.new_notebook(cells=cells), folder() / "03_memory_bank.ipynb")
    assert cli.main(["export", "--check"]) == 1
    assert "memory_bank.py is missing" in capsys.readouterr().out
    assert cli.main(["export"]) == 0 == cli.main(["export", "--check"])


def test_results_check_names_what_differs(checkout, capsys):
    measured = checkout / "runs" / "results" / "03_memory_bank.json"
    measured.parent.mkdir(parents=True)
    committed = checkout / "notebooks" / "results" / "03_memory_bank.json"
    committed.write_text(json.dumps(RESULTS))
    measured.write_text(json.dumps(RESULTS))
    assert cli.main(["results", "--check"]) == 0
    measured.write_text(json.dumps(RESULTS).replace("0.91", "0.71"))
    assert cli.main(["results", "--check"]) == 1
    assert "0.71" in capsys.readouterr().out


def test_clear_cache_removes_features_and_nothing_else(checkout, monkeypatch, capsys):
    monkeypatch.setenv("ADLEARN_CACHE", str(checkout / "shared"))
    (checkout / "shared" / "features").mkdir(parents=True)
    (checkout / "shared" / "features" / "a").write_bytes(b"0" * 3_000_000)
    (checkout / "shared" / "precious").touch()
    assert cli.main(["data", "clear-cache"]) == 0
    assert "3 MB removed" in capsys.readouterr().out
    assert [p.name for p in (checkout / "shared").iterdir()] == ["precious"]
    assert cli.main(["data", "clear-cache"]) == 0, "nothing left to remove is no error"


def test_data_path_is_where_datasets_go(checkout, capsys):
    assert cli.main(["data", "path"]) == 0
    assert capsys.readouterr().out == f"{checkout / 'data'}\n"


def test_data_list_names_every_dataset_and_whether_it_is_there(checkout, capsys):
    (checkout / "data" / "btad" / "01").mkdir(parents=True)
    assert cli.main(["data"]) == 0
    lines = capsys.readouterr().out.splitlines()
    state = {line.split()[1]: line.split()[0] for line in lines if not line.startswith(" ")}
    assert state[str(checkout / "data" / "btad")] == "found"
    assert state[str(checkout / "data" / "visa")] == "missing"
    assert any("elpv/mono" in line for line in lines)


def test_bench_prints_ratios_and_the_machine_and_refuses_unknown_names(monkeypatch, capsys):
    rows = [Row("distance", 0.5, "sklearn", 2.0, "same numbers")]
    monkeypatch.setattr(bench, "benchmarks", lambda: {"knn": lambda: rows, "other": lambda: rows[:0]})
    assert cli.main(["bench", "knn"]) == 0
    out = capsys.readouterr().out
    assert "4.00x" in out and "torch threads" in out and "other" not in out
    assert cli.main(["bench", "nothing"]) == 1
    assert "there are: knn, other" in capsys.readouterr().err


def test_a_report_shows_seconds_and_milliseconds():
    assert "500.00 ms" in report("knn", [Row("a", 0.5, "b", 2.0)]) and "2.00 s" in report(
        "knn", [Row("a", 0.5, "b", 2.0)]
    )


def test_doctor_finds_nothing_broken_here(checkout, capsys):
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    for word in (
        "Python",
        "device",
        "profile",
        "checksum right",
        "elpv",
        "mvtec_ad",
        "data folder",
        "free disk",
    ):
        assert word in out
    assert "BROKEN" not in out
    assert not list(checkout.rglob("probe"))


def test_doctor_tells_what_is_broken_and_fails(checkout, monkeypatch, capsys):
    def damaged(*_):
        raise WeightsError("pip install them again")

    monkeypatch.setattr(weights, "verify", damaged)
    monkeypatch.setenv("ADLEARN_PROFILE", "tpu")
    (checkout / "file").touch()
    monkeypatch.setenv("ADLEARN_RUNS", str(checkout / "file" / "runs"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 1e9))
    assert cli.main(["doctor"]) == 1
    broken = [f.what for f in examine() if f.broken]
    assert broken == ["profile", weights.DEFAULT_BACKBONE, "runs folder"]
    out = capsys.readouterr().out
    assert "-> pip install them again" in out and "make room" in out


def test_a_finding_that_only_could_be_better_is_not_marked_ok():
    assert str(Finding("a", "b", "do")).startswith("-") and str(Finding("a", "b")).startswith("ok")
    assert adlearn.doctor._existing(Path("/no/such/folder")) == Path("/")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch):
    """Replace the stages of the suite: a function that sets which of them pass, and the list of those run."""
    ran = []

    def stage(name: str, passes: bool) -> suite.Stage:
        return name, lambda: ran.append(name) or passes

    def set_stages(quick: dict[str, bool], slow: dict[str, bool]) -> None:
        monkeypatch.setattr(suite, "_quick_stages", lambda: [stage(n, p) for n, p in quick.items()])
        monkeypatch.setattr(suite, "_notebook_stages", lambda _: [stage(n, p) for n, p in slow.items()])

    return set_stages, ran


def test_the_suite_stops_before_notebooks_when_a_quick_stage_fails(checkout, stages):
    set_stages, ran = stages
    set_stages({"lint": True, "unit": False, "more": True}, {"notebooks": True})
    assert cli.main(["test"]) == 1 and ran == ["lint", "unit"]


def test_the_suite_goes_through_all_notebook_stages_and_fails_at_the_end(checkout, stages, capsys):
    set_stages, ran = stages
    set_stages({"unit": True}, {"notebooks": False, "solutions": True})
    assert cli.main(["test"]) == 1 and ran == ["unit", "notebooks", "solutions"]
    assert "=== notebooks: FAILED" in capsys.readouterr().out
    set_stages({"unit": True}, {"notebooks": True})
    assert cli.main(["test"]) == 0


def test_a_suite_without_notebooks_fails_clearly(checkout, stages, capsys):
    for path in folder().glob("*.ipynb"):
        path.unlink()
    stages[0]({}, {})
    assert cli.main(["test"]) == 1
    assert "no NN_family.ipynb" in capsys.readouterr().err
    assert not suite.nbmake(folder(), checkout / "copies")
