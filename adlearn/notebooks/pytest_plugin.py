"""What nbmake leaves out: a limit for the whole notebook, "it executed no code", the slowest notebooks."""

from collections.abc import Iterator
from typing import Any

import pytest

from ..runtime import dry_run
from . import executed_cells, read
from .client import Client
from .execute import LIMIT, TARGET

_SECONDS = pytest.StashKey[dict[str, float]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SECONDS] = {}
    if config.getoption("nbmake", default=False):
        import nbmake.nb_run

        # nbmake's time limit is one for each cell; this client spends it over the notebook.
        nbmake.nb_run.NotebookClient = Client


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    # Without --overwrite there is no executed copy to look at.
    if hasattr(item, "nbmake") and item.config.option.overwrite and executed_cells(read(item.path)) == 0:
        raise _failure(f"{item.path.name} executed no code")
    return result


def _failure(sentence: str) -> Exception:
    from nbmake.nb_result import NotebookError, NotebookResult
    from nbmake.pytest_items import NotebookFailedException

    return NotebookFailedException(NotebookResult(None, NotebookError(sentence, sentence, -1)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo) -> Iterator[Any]:
    if call.when == "call" and hasattr(item, "nbmake"):
        item.config.stash[_SECONDS][item.path.name] = call.duration
    return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if seconds := config.stash[_SECONDS]:
        terminalreporter.section("notebooks, slowest first")
        terminalreporter.write(timing_table(seconds, None if dry_run() else TARGET))


def timing_table(seconds: dict[str, float], target: float | None) -> str:
    """One line for each notebook, slowest first; with a `target`, it and whether it was kept."""
    lines = []
    for name, spent in sorted(seconds.items(), key=lambda pair: -pair[1]):
        line = f"{spent:7.1f} s   {name:<36}"
        if target is not None:
            line += f"target {target:.0f} s   {'OK' if spent <= target else 'over target'}"
        lines.append(line.rstrip() + "\n")
    return "".join(lines) + f"(hard limit {LIMIT} s each)\n"
