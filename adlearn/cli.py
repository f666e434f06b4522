"""The command `adlearn`: what readers do with the notebooks, and what maintainers do to them."""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from . import paths
from .errors import DataError, NotebookError, StorageError, WeightsError
from .files import storage_errors

# Commands import what they need when they run: `adlearn --help` need not wait for all of it.


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 when it did what was asked, 1 when not, 130 after Ctrl-C."""
    os.environ.setdefault(
        "JUPYTER_PREFER_ENV_PATH", "1"
    )  # the kernel of this Python, not one in the home folder
    options = _parser().parse_args(arguments)
    try:
        return options.command(options)
    except (DataError, WeightsError, StorageError, NotebookError) as error:
        print(f"adlearn: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("adlearn: interrupted; nothing was replaced", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="adlearn", description="Run, check and measure the notebooks of adlearn."
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    run = _add(commands, "run", _run, "execute a notebook from start to end and print its results")
    run.add_argument("notebook", nargs="?", default="00", metavar="NN", help="number or name (default: 00)")
    run.add_argument("--profile", choices=("cpu", "gpu"), help="default: gpu when there is CUDA, else cpu")
    run.add_argument(
        "--dry-run", action="store_true", help="stop every loop after two batches, record nothing"
    )

    _add(commands, "lab", _lab, "open JupyterLab on the notebooks")
    _add(commands, "doctor", _doctor, "say which device, profile, weights and datasets are found")

    data = _add(commands, "data", _data, "list, draw or locate the datasets; empty the feature cache")
    data.add_argument("action", nargs="?", default="list", choices=("list", "draw", "path", "clear-cache"))

    bench = _add(commands, "bench", _bench, "time parts of adlearn beside a reference")
    bench.add_argument("name", nargs="?", help="one benchmark (default: all)")

    results = _add(commands, "results", _results, "print the committed results")
    results.add_argument(
        "--check", action="store_true", help="compare the last run with the committed numbers"
    )
    results.add_argument("--readme", action="store_true", help="fill the table in README.md")

    export = _add(commands, "export", _export, "write adlearn/methods from the notebooks")
    export.add_argument(
        "--check", action="store_true", help="change nothing; fail when a module is out of date"
    )

    copy = _add(commands, "copy", _copy, "copy a method's module and the helpers it needs to another project")
    copy.add_argument("family", help="a module of adlearn.methods: memory_bank, ...")
    copy.add_argument("folder", type=Path, help="the other project's folder; gets a package `adlearn`")

    outputs = _add(
        commands, "outputs", _outputs, "execute notebooks and refresh their committed outputs and numbers"
    )
    outputs.add_argument("notebooks", nargs="*", metavar="NN", help="numbers or names (default: all)")

    _add(commands, "test", _test, "everything `make test` does")
    return parser


def _add(commands, name: str, command, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(command=command)
    return parser


def _run(options: argparse.Namespace) -> int:
    from .notebooks import find
    from .notebooks.outputs import run
    from .runtime import dry_run

    path = find(options.notebook)
    dry = options.dry_run or dry_run()
    execution = run(path, options.profile, dry)
    print(f"{path.name}: {execution.seconds / 60:.1f} minutes")
    if not dry:
        print(_table(paths.results_dir(), path.stem))
    return 0


def _lab(options: argparse.Namespace) -> int:
    from .notebooks import folder

    return subprocess.run([sys.executable, "-m", "jupyterlab", str(folder())]).returncode


def _doctor(options: argparse.Namespace) -> int:
    from .doctor import examine

    findings = examine()
    for finding in findings:
        print(finding)
    return int(any(finding.broken for finding in findings))


def _data(options: argparse.Namespace) -> int:
    action = {"list": _list_data, "draw": _draw_data, "path": _print_path, "clear-cache": _clear_cache}
    action[options.action]()
    return 0


def _list_data() -> None:
    from .data.catalogue import available

    for data in available():
        names = [f"{data.name}/{category}" for category in data.categories] or [data.name]
        print(f"{'found  ' if data.present else 'missing'}  {data.where}\n         {' '.join(names)}")


def _draw_data() -> None:
    from .data.catalogue import available, load

    for data in available():
        if data.name in ("factory", "implanted"):
            for category in data.categories:
                print(load(f"{data.name}/{category}"), flush=True)


def _print_path() -> None:
    print(paths.data_dir())


def _clear_cache() -> None:
    folder = paths.cache_dir() / "features"  # never all of a folder the reader may share with others
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with storage_errors(folder):
        shutil.rmtree(folder, ignore_errors=not folder.exists())
    print(f"{folder}: {size / 1e6:.0f} MB removed")


def _bench(options: argparse.Namespace) -> int:
    from .bench import benchmarks
    from .bench.report import machine, report

    known = benchmarks()
    if options.name is not None and options.name not in known:
        raise DataError(f"no benchmark {options.name!r}; there are: {', '.join(known) or 'none'}")
    chosen = known if options.name is None else {options.name: known[options.name]}
    print(machine())
    for name, benchmark in chosen.items():
        print(report(name, benchmark()), flush=True)
    return 0


def _results(options: argparse.Namespace) -> int:
    if options.check:
        from .notebooks.suite import numbers_agree

        return 0 if numbers_agree(paths.results_dir()) else 1
    if options.readme:
        from .results import write_readme

        print("README.md " + ("changed" if write_readme(paths.root() / "README.md") else "is up to date"))
    else:
        print(_table(paths.committed_results_dir()))
    return 0


def _table(folder: Path, notebook: str = "") -> str:
    """The results in `folder` (of one notebook, or all), as text."""
    from .results import table

    if not any(folder.glob(f"{notebook}*.json")):
        return "no results were recorded"
    return table(notebook, folder).to_string(index=False)


def _export(options: argparse.Namespace) -> int:
    from .notebooks.export import export
    from .notebooks.suite import modules_agree

    if options.check:
        return 0 if modules_agree() else 1
    changed = export()
    print("\n".join(f"adlearn/methods/{name}" for name in changed) or "adlearn/methods is up to date")
    return 0


def _copy(options: argparse.Namespace) -> int:
    from .copying import copy_method

    files, packages = copy_method(options.family, options.folder)
    print(*files, sep="\n")
    print(f"It needs: pip install {' '.join(packages)}")
    return 0


def _outputs(options: argparse.Namespace) -> int:
    from .notebooks import find, notebooks
    from .notebooks.outputs import refresh

    refresh([find(name) for name in options.notebooks] or notebooks())
    return 0


def _test(options: argparse.Namespace) -> int:
    from .notebooks.suite import run_suite

    return 0 if run_suite() else 1


if __name__ == "__main__":
    sys.exit(main())
