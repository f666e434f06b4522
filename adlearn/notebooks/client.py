"""nbclient's client with what it lacks: one time limit for the whole notebook, and a Ctrl-C that is one."""

import asyncio
import contextlib
import signal
import time
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode


class Client(NotebookClient):
    """Gives each cell what is left of `timeout` seconds; SIGINT and SIGTERM raise `KeyboardInterrupt`."""

    def __init__(self, nb: NotebookNode, timeout: float, **options: Any):
        super().__init__(nb, timeout_func=self._left, coalesce_streams=True, **options)
        self.extra_arguments = ["--log-level=CRITICAL"]  # ipykernel warns about its own transport
        self.deadline = time.monotonic() + timeout
        self.interrupted = False

    def _left(self, _cell: NotebookNode) -> int:
        return max(1, round(self.deadline - time.monotonic()))  # 0 would mean "no limit" to nbclient

    async def async_start_new_kernel(self, **options: Any) -> None:
        """Start the kernel; nbclient's own signal handlers are replaced, they just kill it."""
        task, loop = asyncio.current_task(), asyncio.get_running_loop()

        def stop() -> None:
            self.interrupted = True
            task.cancel()

        with contextlib.suppress(RuntimeError):  # not the main thread, or Windows: no handlers there
            loop.add_signal_handler(signal.SIGINT, stop)
            loop.add_signal_handler(signal.SIGTERM, stop)
        await super().async_start_new_kernel(**options)

    def execute(self, **options: Any) -> NotebookNode:
        """Execute every cell; `options` go to the kernel manager's `start_kernel` (cwd, env)."""
        try:
            return super().execute(**options)
        except (DeadKernelError, asyncio.CancelledError) as error:
            if self.interrupted:
                raise KeyboardInterrupt from error
            raise
