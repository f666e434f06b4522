"""Writing `adlearn/methods` from the `#| export` cells of the notebooks, with nbdev's exporter."""

import tempfile
from pathlib import Path

from .. import paths
from ..errors import NotebookError
from ..files import write_text
from . import family, notebooks


def methods_dir() -> Path:
    """Where the generated modules live."""
    return paths.root() / "adlearn" / "methods"


def rendered() -> dict[str, str]:
    """The text of each module, by file name, as the notebooks say it now."""
    texts = {f"{family(path)}.py": render(path) for path in notebooks()}
    return {name: text for name, text in texts.items() if text is not None}


def render(path: Path) -> str | None:
    """The module that the notebook at `path` exports; None when it exports nothing."""
    from nbdev.export import nb_export
    from nbdev.maker import ModuleMaker

    class Maker(ModuleMaker):
        """Names the notebook by its place in the repository, wherever the module is written."""

        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.dest2nb = f"notebooks/{path.name}"
            self.hdr = f"# %% {self.dest2nb}"

    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "adlearn" / "methods"
        try:
            nb_export(path, lib_path=library, name=family(path), mod_maker=Maker)
        except (SyntaxError, ValueError) as error:
            raise NotebookError(f"{path.name} cannot be exported: {error}") from error
        module = library / f"{family(path)}.py"
        return module.read_text(encoding="utf-8") if module.is_file() else None


def present() -> dict[str, str]:
    """The text of each generated module on disk, by file name."""
    modules = sorted(p for p in methods_dir().glob("*.py") if p.name != "__init__.py")
    return {p.name: p.read_text(encoding="utf-8") for p in modules}


def export() -> list[str]:
    """Bring `adlearn/methods` up to date; return the names of the modules written or removed."""
    wanted, there = rendered(), present()
    changed = sorted(name for name in wanted | there if wanted.get(name) != there.get(name))
    for name in changed:
        if name in wanted:
            write_text(methods_dir() / name, wanted[name])
        else:
            (methods_dir() / name).unlink()
    return changed


def differences() -> list[str]:
    """One line for each module that is not what the notebooks export."""
    wanted, there = rendered(), present()
    lines = []
    for name in sorted(wanted | there):
        if name not in there:
            lines.append(f"adlearn/methods/{name} is missing")
        elif name not in wanted:
            lines.append(f"adlearn/methods/{name} has no notebook that exports it")
        elif wanted[name] != there[name]:
            lines.append(f"adlearn/methods/{name} is not what its notebook exports (make export)")
    return lines
