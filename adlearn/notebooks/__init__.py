"""Notebooks as files: finding them, reading their sections, writing executed copies."""

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from .. import paths
from ..errors import NotebookError
from ..files import atomic_path

_NUMBERED = re.compile(r"\d\d_\w+")
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def folder() -> Path:
    """Where the notebooks live in this checkout."""
    return paths.root() / "notebooks"


def numbered(where: Path) -> list[Path]:
    """The notebooks `NN_family.ipynb` directly in `where`, in reading order."""
    return sorted(p for p in where.glob("*.ipynb") if _NUMBERED.fullmatch(p.stem))


def notebooks() -> list[Path]:
    """All notebooks of the checkout; `NotebookError` when there are none."""
    found = numbered(folder())
    if not found:
        raise NotebookError(f"no NN_family.ipynb in {folder()}: run this in a checkout of adlearn")
    return found


def find(name: str) -> Path:
    """The notebook meant by "3", "03" or "03_memory_bank"; `NotebookError` lists the choices."""
    wanted = name.removesuffix(".ipynb")
    wanted = wanted.zfill(2) if wanted.isdigit() else wanted
    for path in notebooks():
        if wanted in (path.stem, path.stem[:2]):
            return path
    choices = "\n".join(f"  {path.stem}" for path in notebooks())
    raise NotebookError(f"no notebook {name!r}; there are\n{choices}")


def family(path: Path) -> str:
    """`memory_bank` for `03_memory_bank.ipynb`: the name of its module in `adlearn.methods`."""
    return path.stem[3:]


def read(path: Path) -> NotebookNode:
    """The notebook at `path`, as nbformat 4; `NotebookError` when it is not a notebook."""
    try:
        return nbformat.read(path, as_version=4)
    except (nbformat.reader.NotJSONError, nbformat.ValidationError) as error:
        raise NotebookError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from error


def write(notebook: NotebookNode, path: Path) -> None:
    """Write `notebook` to `path` in one step."""
    with atomic_path(path) as temporary:
        nbformat.write(notebook, temporary)


def headings(markdown: str) -> list[str]:
    """The headings of a markdown cell, top to bottom; `#` lines inside fenced code are not headings."""
    return _HEADING.findall(_FENCE.sub("", markdown))


def sections(notebook: NotebookNode) -> list[str]:
    """For each cell, the last heading before it (or in it); "" before the first."""
    current, result = "", []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := headings(cell.source)):
            current = found[-1]
        result.append(current)
    return result


def runs(cell: NotebookNode) -> bool:
    """True for a code cell that a kernel would execute."""
    skipped = "skip-execution" in cell.metadata.get("tags", [])
    return cell.cell_type == "code" and bool(cell.source.strip()) and not skipped


def executed_cells(notebook: NotebookNode) -> int:
    """How many code cells have been executed."""
    return sum(cell.get("execution_count") is not None for cell in notebook.cells if cell.cell_type == "code")


def forget_execution(notebook: NotebookNode) -> None:
    """Remove outputs and execution counts, so that what is there afterwards was executed now."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
