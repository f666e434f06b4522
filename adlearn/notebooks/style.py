"""The rules for notebooks that a program can check: `problems` tells each broken one in a sentence."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from nbformat import NotebookNode

from . import headings, read, runs

MEDIAN_LINES, MOST_LINES, CLASS_LINES = 8, 25, 60
OUTPUT_KB, FILE_KB = 100, 1000

_EXPORT = re.compile(r"#\|\s*export\b")
_CHECK = re.compile(r"""\bcheck\(\s*["'](\d\d\.\w+)["']""")
_EMBEDDED = re.compile(r"base64,[A-Za-z0-9+/=]+")
_MACHINE = {
    "a path of one machine": re.compile(
        r"(?<![\w.])/(?:home|root|work|tmp|Users|private|var)/|site-packages"
    ),
    "a local address": re.compile(r"https?://(?:localhost|127\.)"),
}
_ADDRESS = re.compile(r"\bat 0x[0-9a-f]{6,}")


def problems(path: Path) -> list[str]:
    """What is wrong with the committed notebook at `path`; cells are numbered as Jupyter numbers them."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if runs(cell)]
    found = [*_start(path.stem, cells), *_lengths(cells), *_words(notebook), *_executed(cells)]
    found += [*_outputs(cells), *_machine(notebook), *_exported(cells), *_exercises(path, notebook)]
    if (size := path.stat().st_size / 1000) > FILE_KB:
        found.append(f"the file has {size:.0f} KB, at most {FILE_KB}")
    return found


def solution_problems(path: Path) -> list[str]:
    """What is wrong with the solutions notebook at `path`."""
    found = [] if _checked(read(path)) else ["it checks no exercise"]
    if not (path.parent.parent / path.name).is_file():
        found.append("there is no notebook of its name")
    return found


def _start(name: str, cells: list[NotebookNode]) -> Iterator[str]:
    calls = [node for node in ast.walk(_tree(cells[0])) if isinstance(node, ast.Call)] if cells else []
    starts = [call for call in calls if ast.unparse(call.func) in ("adlearn.start", "start") and call.args]
    if not any(ast.unparse(call.args[0]) == repr(name) for call in starts):
        yield f'the first code cell does not call adlearn.start("{name}")'


def _lengths(cells: list[NotebookNode]) -> Iterator[str]:
    lengths = [_length(cell) for cell in cells]
    if lengths and median(lengths) > MEDIAN_LINES:
        yield f"half of the code cells have more than {MEDIAN_LINES} lines (median {median(lengths)})"
    for number, (cell, length) in enumerate(zip(cells, lengths, strict=True), start=1):
        has_class = any(isinstance(node, ast.ClassDef) for node in _tree(cell).body)
        most = CLASS_LINES if has_class and _EXPORT.match(cell.source) else MOST_LINES
        if length > most:
            yield f"cell [{number}] has {length} lines, at most {most}"


def _length(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) and not line.startswith("#|") for line in cell.source.splitlines())


def _words(notebook: NotebookNode) -> Iterator[str]:
    number, heading, words = 0, "the beginning", False
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            found = headings(cell.source)
            heading = found[-1] if found else heading
            words = _ends_in_words(cell.source) or (words and not found)
        elif runs(cell):
            number += 1
            if not words:
                yield f"no sentence between {heading!r} and cell [{number}]"


def _ends_in_words(markdown: str) -> bool:
    lines = [line for line in markdown.splitlines() if line.strip()]
    return bool(lines) and not lines[-1].startswith("#")


def _executed(cells: list[NotebookNode]) -> Iterator[str]:
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        yield "its cells were not executed once each, from top to bottom (make outputs)"
    for number, cell in enumerate(cells, start=1):
        yield from (f"cell [{number}] ends in {o.ename}" for o in cell.outputs if o.output_type == "error")


def _outputs(cells: list[NotebookNode]) -> Iterator[str]:
    for number, cell in enumerate(cells, start=1):
        if (size := len(json.dumps(cell.outputs)) / 1000) > OUTPUT_KB:
            yield f"the output of cell [{number}] has {size:.0f} KB, at most {OUTPUT_KB}"
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        for kind in sorted(k for k in kinds if k.startswith("image/") and k != "image/png"):
            yield f"cell [{number}] shows {kind}: figures are PNG"
        if _ADDRESS.search(_text(cell.outputs)):
            yield f"cell [{number}] prints a memory address, which changes with each run"


def _machine(notebook: NotebookNode) -> Iterator[str]:
    for position, cell in enumerate(notebook.cells):
        text = cell.source + _text(cell.get("outputs", []))
        for what, pattern in _MACHINE.items():
            if match := pattern.search(text):
                where = text[max(0, match.start() - 20) : match.end() + 20]
                yield f"{what} in the cell at position {position}: ...{where!r}..."


def _text(outputs: list[NotebookNode]) -> str:
    """What outputs say, without images: chance alone finds "/tmp/" in base64."""
    parts = []
    for output in outputs:
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        parts += [output.get("text", ""), *map(str, data.values()), *output.get("traceback", [])]
    return _EMBEDDED.sub("", "\n".join(parts))


def _exported(cells: list[NotebookNode]) -> Iterator[str]:
    for number, cell in enumerate(cells, start=1):
        if _EXPORT.match(cell.source):
            yield from (f"cell [{number}]: {problem}" for problem in _export_problems(_tree(cell)))


def _export_problems(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        public = isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
        if public and ast.get_docstring(node) is None:
            yield f"{node.name} has no docstring"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and (missing := _without_hints(node)):
            yield f"{node.name} has no type hint for {', '.join(missing)}"
        elif isinstance(node, ast.Name) and node.id in ("print", "display", "plt"):
            yield f"exported code uses {node.id}"
        elif isinstance(node, ast.Global):
            yield f"exported code changes the global {', '.join(node.names)}"


def _without_hints(function: ast.FunctionDef) -> list[str]:
    given = function.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    untyped = [a.arg for a in arguments if a is not None and a.annotation is None]
    names = [name for name in untyped if name not in ("self", "cls")]
    return names + (["its result"] if function.returns is None and function.name != "__init__" else [])


def _exercises(path: Path, notebook: NotebookNode) -> Iterator[str]:
    # An unsolved exercise may stand in a comment or in the text.
    asked = sorted({name for cell in notebook.cells for name in _CHECK.findall(cell.source)})
    solution = path.parent / "solutions" / path.name
    solved = _checked(read(solution)) if solution.is_file() else set()
    for name in asked:
        if not name.startswith(path.stem[:2] + "."):
            yield f"exercise {name} has another notebook's number"
        elif name not in solved:
            yield f"exercise {name} is not checked in solutions/{path.name}"


def _checked(notebook: NotebookNode) -> set[str]:
    """The exercises a notebook really checks: comments do not count."""
    calls = [n for c in notebook.cells if runs(c) for n in ast.walk(_tree(c)) if isinstance(n, ast.Call)]
    checks = [call for call in calls if ast.unparse(call.func).split(".")[-1] == "check" and call.args]
    return {str(call.args[0].value) for call in checks if isinstance(call.args[0], ast.Constant)}


def _tree(cell: NotebookNode) -> ast.Module:
    """The cell's code without IPython's own lines."""
    plain = [re.sub(r"^(\s*)[%!].*", r"\1pass", line) for line in cell.source.splitlines()]
    return ast.parse("\n".join(plain))
