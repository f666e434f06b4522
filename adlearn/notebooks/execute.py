"""Executing a notebook in a kernel of this interpreter, and saying what went wrong if something did."""

import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from . import executed_cells, forget_execution, read, runs, sections
from .client import Client

# 04 trains some forty flows: six minutes on idle cores, and machines are noisy.
LIMIT = 1200
"""Seconds a whole notebook may take."""

TARGET = 150
"""Seconds a notebook should take on two idle cores."""

_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Execution:
    """What became of one notebook: the executed copy (up to `failure`, if there is one) and the seconds."""

    notebook: NotebookNode
    seconds: float
    failure: str | None


def execute(
    path: Path, environment: Mapping[str, str] | None = None, limit: float = LIMIT, quiet: bool = False
) -> Execution:
    """Execute the notebook at `path` from start to end, its folder being the working directory.

    `environment` is added to the kernel's. The file is read, never written. Ctrl-C stops the kernel and
    raises `KeyboardInterrupt`; everything else that goes wrong is told in `Execution.failure`.
    """
    notebook = read(path)
    forget_execution(notebook)
    # Nobody watches progress bars inside the kernel.
    kernel_environment = {**os.environ, "ADLEARN_PROGRESS": "0", **(environment or {})}
    began = time.monotonic()
    with tqdm(total=sum(map(runs, notebook.cells)), unit="cell", disable=quiet, file=sys.stderr) as bar:
        watch = _Watch(notebook, bar)
        client = Client(
            notebook,
            limit,
            kernel_name="python3",
            on_cell_execute=watch.cell_starts,
            on_cell_executed=watch.cell_ends,
        )
        failure = _failure(client, watch, limit, cwd=str(path.parent), env=kernel_environment)
    if failure is None and executed_cells(notebook) == 0:
        failure = "it executed no code"
    if failure is not None:
        failure = f"{path.name} failed: {failure}"
    return Execution(notebook, time.monotonic() - began, failure)


class _Watch:
    """Follows a client through its notebook: moves the progress bar, knows the cell it is in."""

    def __init__(self, notebook: NotebookNode, bar: tqdm):
        self.sections, self.bar, self.total = sections(notebook), bar, bar.total
        self.number, self.section, self.cell = 0, "", None

    def cell_starts(self, cell: NotebookNode, cell_index: int) -> None:
        self.number, self.section, self.cell = self.number + 1, self.sections[cell_index], cell
        self.bar.set_description_str(self.section)

    def cell_ends(self, **_: Any) -> None:
        self.bar.update()

    def place(self) -> str:
        """The cell being executed, as Jupyter numbers it, with its section and source."""
        if self.cell is None:
            return "before the first cell"
        section = f" (section {self.section!r})" if self.section else ""
        source = "\n".join(f"    {line}" for line in self.cell.source.splitlines())
        return f"in code cell [{self.number}] of {self.total}{section}:\n\n{source}\n"


def _failure(client: Client, watch: _Watch, limit: float, **kernel: Any) -> str | None:
    """Execute; None, or what went wrong and where."""
    try:
        client.execute(**kernel)
    except CellExecutionError as error:
        return f"{error.ename} {watch.place()}\n{_traceback(watch.cell, error)}"
    except CellTimeoutError:
        return f"it took longer than {limit:.0f} s and was stopped {watch.place()}"
    except DeadKernelError:
        return f"the kernel died (out of memory?) {watch.place()}"
    except RuntimeError as error:
        return f"the kernel did not start: {error}"
    return None


def _traceback(cell: NotebookNode, error: CellExecutionError) -> str:
    """The cell's traceback without colours, or the error's own words when the cell holds none."""
    lines = [line for output in cell.outputs if output.output_type == "error" for line in output.traceback]
    return _ANSI.sub("", "\n".join(lines) or f"{error.ename}: {error.evalue}")
