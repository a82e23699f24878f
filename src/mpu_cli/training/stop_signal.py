"""Ctrl-C and SIGTERM during training: the first waits for a checkpoint, the second ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mpu_cli.modeling import processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_SIGNAL = 1.0
"""Seconds in which a launcher repeats the Ctrl-C that its processes already have."""


class StopSignal:
    """A context that catches both signals; they raise KeyboardInterrupt unless `defer` was called.

    With several processes, a signal to any of them stops all: the trainer calls `asked_of_any`
    after each step.
    """

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        """`tell` is called with a line when the first signal is deferred."""
        self._tell = tell
        self._deferred = False
        self._first: float | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether this process was asked to stop."""
        return self._first is not None

    def asked_of_any(self) -> bool:
        """Whether any process was asked to stop; all processes must call it."""
        return any(processes.gather(self.asked))

    def defer(self) -> None:
        """From now on, let the first signal wait for `asked_of_any` or `end_if_asked`."""
        self._deferred = True

    def end_if_asked(self) -> None:
        """End now if a signal is waiting, and let the next one end at once; all processes call it.

        Raises:
            KeyboardInterrupt: a signal had come.
        """
        self._deferred = False
        if self.asked_of_any():
            raise KeyboardInterrupt

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            # A signal that was ignored from the start (nohup) stays ignored.
            caught = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._hear) for number in caught}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # torchrun ends the other processes when the first has ended: that is no second Ctrl-C.
            among_others = self.asked and processes.this_process().size > 1
            signal.signal(number, signal.SIG_IGN if among_others else handler)

    def _hear(self, *_: object) -> None:
        if self._first is None and self._deferred:
            self._first = time.monotonic()
            with suppress(RuntimeError):  # the signal came while the same stream was being written
                self._tell(
                    "interrupted: a checkpoint is written after this step; interrupt again to end"
                    " at once without it"
                )
            return
        echoed = self._first is not None and time.monotonic() - self._first < _SAME_SIGNAL
        if not (echoed and processes.this_process().size > 1):
            raise KeyboardInterrupt
