"""What becomes of an executed notebook: a copy to look at, or the new committed outputs."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nbformat import NotebookNode

from .. import paths
from ..errors import NotebookError
from ..files import storage_errors, write_text
from . import write
from .execute import Execution, execute

_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
_LANGUAGE = {
    "name": "python",
    "file_extension": ".py",
    "pygments_lexer": "ipython3",
}
_WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path, profile: str | None = None, dry_run: bool = False) -> Execution:
    """Execute `path`; its copy goes to `runs_dir()/notebooks`, its numbers to `results_dir()`.

    A dry run keeps its copy in `runs_dir()/dry-run` and no numbers. A notebook that fails leaves its copy as
    `<name>.failed.ipynb` beside the good one, changes no numbers and raises `NotebookError`.
    """
    environment = {"ADLEARN_PROFILE": profile} if profile else {}
    environment |= {"ADLEARN_DRY_RUN": "1"} if dry_run else {}
    place = paths.runs_dir() / ("dry-run" if dry_run else "notebooks")
    with _own_results() as measured:
        execution = _execute_and_keep(path, place, {**environment, "ADLEARN_RESULTS": str(measured)})
        _deliver(measured, path, paths.results_dir())
    return execution


def refresh(chosen: Sequence[Path]) -> None:
    """Execute the `chosen` notebooks with the cpu profile; replace them and their numbers when all passed.

    When one was saved meanwhile nothing is replaced (`NotebookError`): its author would lose that.
    """
    before = [path.read_bytes() for path in chosen]
    with _own_results() as measured:
        environment = {"ADLEARN_PROFILE": "cpu", "ADLEARN_DRY_RUN": "", "ADLEARN_RESULTS": str(measured)}
        place = paths.runs_dir() / "notebooks"
        executed = [_execute_and_keep(path, place, environment).notebook for path in chosen]
        for path, old in zip(chosen, before, strict=True):
            if path.read_bytes() != old:
                raise NotebookError(f"{path.name} was saved while it was running; nothing was replaced")
        for path, notebook in zip(chosen, executed, strict=True):
            write(tidy(notebook), path)
            _deliver(measured, path, paths.committed_results_dir())


@contextlib.contextmanager
def _own_results() -> Iterator[Path]:
    """A folder for the numbers of one process: two runs of one notebook must not mix theirs."""
    with storage_errors(paths.runs_dir()):
        paths.runs_dir().mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=paths.runs_dir(), prefix="results-")
    with temporary as folder:
        yield Path(folder)


def _execute_and_keep(path: Path, place: Path, environment: Mapping[str, str]) -> Execution:
    execution = execute(path, environment)
    copy = place / (path.name if execution.failure is None else f"{path.stem}.failed.ipynb")
    write(execution.notebook, copy)
    if execution.failure is not None:
        raise NotebookError(f"{execution.failure}\nwhat was executed so far: {copy}")
    return execution


def _deliver(measured: Path, path: Path, where: Path) -> None:
    numbers = measured / f"{path.stem}.json"
    if numbers.is_file():
        write_text(where / numbers.name, numbers.read_text(encoding="utf-8"))


def tidy(notebook: NotebookNode) -> NotebookNode:
    """Remove in place what differs between equal runs: times, Python versions, widgets (random ids)."""
    notebook.metadata = {"kernelspec": dict(_KERNEL), "language_info": dict(_LANGUAGE)}
    notebook.nbformat_minor = max(5, notebook.nbformat_minor)
    for number, cell in enumerate(notebook.cells):
        cell.setdefault("id", f"cell-{number}")
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
    return notebook
