"""Steps as local processes, each forked from one that has imported the libraries.

Importing torch and transformers costs about four CPU seconds, more than most steps of a small
experiment. The standard library's fork server imports them once; every step is then a process of
its own, with a working directory of its own, forked in milliseconds. The fork server starts no
thread and computes nothing before it forks. It dies with this process, and every step dies with it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import ForkServerProcess

from mpu_cli.experiment.child import Task, perform_forked
from mpu_cli.experiment.step import Step

IMPORTED = (
    "mpu_cli.experiment.child",
    "mpu_cli.experiment.imported",
)
_GRACE = 10.0
"""Seconds that a stopped step has to save a checkpoint."""


class LocalExecutor:
    """Runs tasks in processes of this machine."""

    def __init__(self, *, threads: int = 1) -> None:
        """`threads` is the number of threads of each step."""
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(IMPORTED))
        self._threads = str(threads)
        self._running: dict[str, ForkServerProcess] = {}

    def start(self, task: Task, step: Step) -> None:
        """Begin a task."""
        before = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = self._threads  # the fork server starts with it
        process = self._context.Process(target=perform_forked, args=(task,))
        try:
            process.start()
        finally:
            if before is None:
                del os.environ["OMP_NUM_THREADS"]
            else:
                os.environ["OMP_NUM_THREADS"] = before
        self._running[task.key] = process

    def wait(self, seconds: float) -> Mapping[str, int]:
        """Wait until a task ends, `seconds` at most; the exit codes of those that ended, by key.

        A negative code is the number of the signal that ended the task.
        """
        wait_for([process.sentinel for process in self._running.values()], seconds)
        ended = {}
        for key, process in list(self._running.items()):
            if process.exitcode is not None:
                ended[key] = process.exitcode
                process.close()
                del self._running[key]
        return ended

    def stop(self) -> None:
        """End all tasks: a training saves a checkpoint first."""
        for number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, 1.0)):
            for process in self._running.values():
                with suppress(ProcessLookupError, TypeError):
                    os.killpg(process.pid or 0, number)
            last = time.monotonic() + seconds
            while self._running and time.monotonic() < last:
                self.wait(0.1)
