"""Putting drawn pictures on disk: in parallel, and never half a dataset under its final name.

A folder is drawn beside its place under a temporary name and renamed when it is whole. `factory.json` in it
says how it was drawn; a folder drawn otherwise is drawn again.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ...files import storage_errors
from ...runtime import progress

MANIFEST = "factory.json"
_CHUNK = 10
_WORTH_PROCESSES = 200  # fewer pictures are drawn before other processes have started
_STALE_SECONDS = 3600
_PART = ".part-"
# glibc would give the arrays of each picture back to the system, and fetch them again: a fifth of the time
_WORKER_ENVIRONMENT = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "268435456"}


@dataclass(frozen=True)
class Task:
    """One picture: its split ("train", "validation", "test"), kind and number."""

    split: str
    kind: str
    index: int


@dataclass(frozen=True)
class Order:
    """One folder to be drawn. `write(folder, task)` draws one picture and runs in another process (so it must
    be picklable); `finish(folder)` adds what the set needs besides; `manifest` identifies the result."""

    folder: Path
    tasks: Sequence[Task]
    write: Callable[[Path, Task], None]
    manifest: dict[str, Any]
    finish: Callable[[Path], None] = lambda folder: None

    def is_drawn(self) -> bool:
        """True if the folder is there and was drawn as asked for."""
        try:
            return json.loads((self.folder / MANIFEST).read_text(encoding="utf-8")) == self.manifest
        except (OSError, ValueError):
            return False


def save_png(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8, or a (H, W) mask as 0 and 255; light compression, for speed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    Image.fromarray(pixels).save(path, compress_level=1, compress_type=zlib.Z_RLE)


def fulfil(orders: Sequence[Order], workers: int | None = None) -> None:
    """Draw the orders that are not drawn yet, on `workers` processes (default: one per core).

    Safe against a kill at any moment and against a second process that draws the same. Raises `StorageError`
    when the disk is full or cannot be written.
    """
    missing = [order for order in orders if not order.is_drawn()]
    if not missing:
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(storage_errors(missing[0].folder.parent))
        parts = [stack.enter_context(_workshop(order.folder)) for order in missing]
        total = sum(len(order.tasks) for order in missing)
        submit = stack.enter_context(_processes(workers if total >= _WORTH_PROCESSES else 1))
        bar = stack.enter_context(progress(total=total, desc="drawing", unit="picture"))
        chunks: dict[Future, int] = {}
        left = []
        for number, (order, part) in enumerate(zip(missing, parts, strict=True)):
            batches = [order.tasks[i : i + _CHUNK] for i in range(0, len(order.tasks), _CHUNK)]
            chunks |= {submit(_write_chunk, order.write, part, batch): number for batch in batches}
            left.append(len(batches))
        for future in as_completed(chunks):
            bar.update(future.result())
            number = chunks[future]
            left[number] -= 1
            if left[number] == 0:
                _install(missing[number], parts[number])


def _write_chunk(write: Callable[[Path, Task], None], folder: Path, tasks: Sequence[Task]) -> int:
    for task in tasks:
        write(folder, task)
    return len(tasks)


def _install(order: Order, part: Path) -> None:
    """Give the finished folder its name; if another process was first, keep theirs: it is the same."""
    order.finish(part)
    (part / MANIFEST).write_text(json.dumps(order.manifest, indent=1), encoding="utf-8")
    part.chmod(0o755)
    if order.folder.exists() and not order.is_drawn():
        old = Path(tempfile.mkdtemp(dir=part.parent, prefix=f"{_PART}old-"))
        with contextlib.suppress(FileNotFoundError):
            os.rename(order.folder, old / order.folder.name)
        shutil.rmtree(old, ignore_errors=True)
    with contextlib.suppress(OSError) if order.is_drawn() else contextlib.nullcontext():
        os.rename(part, order.folder)


@contextlib.contextmanager
def _workshop(folder: Path) -> Iterator[Path]:
    """A temporary folder beside `folder`, removed afterwards; also removes what killed runs left behind."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(f"{_PART}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(leftover, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{_PART}{folder.name}-"))
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextlib.contextmanager
def _processes(workers: int | None) -> Iterator[Callable[..., Future]]:
    """A `submit` that runs in other processes, or at once in this one if there is one worker."""
    workers = workers or os.cpu_count() or 1
    if workers == 1 or multiprocessing.current_process().daemon:
        yield _at_once
        return
    context = multiprocessing.get_context("spawn")  # fork would copy the locks of PyTorch's threads
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        with _no_main_module(), _environment(_WORKER_ENVIRONMENT):
            for _ in range(workers):
                pool.submit(int)  # each starts one process, as none can be idle yet
        yield pool.submit
    finally:
        pool.shutdown(cancel_futures=True)


def _at_once(function: Callable, *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(function(*arguments))
    return future


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work forever."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            os.environ.pop(name)
        os.environ.update({name: before[name] for name in variables if name in before})


@contextlib.contextmanager
def _no_main_module() -> Iterator[None]:
    """Spawned processes import the caller's script again, which fails without an `if __name__` guard; they
    need nothing of it, so it is hidden while they start."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
