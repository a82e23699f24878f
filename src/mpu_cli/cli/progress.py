"""How far a long command is: a live bar on a terminal.

Elsewhere a line at once that something takes long, then one every so often.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

ProgressCallback = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and out of how much (0 where nobody knows)."""

FIRST_SECONDS, EVERY_SECONDS = 1.5, 30.0
"""When the first line is printed, and how long after each the next one: a command that ends sooner prints none."""


class Lines:
    """Says on lines of text what a command is doing, from a thread of its own.

    One step, or one library call, may take minutes.
    """

    def __init__(
        self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`tell` is given each line; `clock` counts seconds."""
        self._tell, self._clock = tell, clock
        self._began = clock()
        self._what, self._done, self._total = "starting", 0, 0
        self._anchor = (self._began, 0)
        self._ended = threading.Event()

    def show(self, what: str, done: int, total: int) -> None:
        """Remember where the command is; the thread says it when it is time."""
        if total != self._total or done < self._done:
            # Another part, or work that an earlier run has done: speed is measured from here.
            self._anchor = (self._clock(), done)
        self._what, self._done, self._total = what, done, total

    def line(self) -> str:
        """What is being done, for how long the command has run, and how long it will still take."""
        now = self._clock()
        text = f"{self._what} ({duration(now - self._began)} so far"
        if self._total <= 0:
            return f"{text})"
        text += f", {100 * self._done // self._total} %"
        since, before = self._anchor
        # Less than a hundredth of the work predicts nothing: a file's header is written in no time.
        if self._done > before and 100 * (self._done - before) >= self._total:
            left = (now - since) * (self._total - self._done) / (self._done - before)
            text += f", about {duration(left)} left"
        return f"{text})"

    def __enter__(self) -> Lines:
        threading.Thread(target=self._speak, daemon=True, name="progress").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _speak(self) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            self._tell(self.line())
            wait = EVERY_SECONDS


class OverCopies:
    """The progress of a training of several copies alike, as a share of all their steps."""

    def __init__(
        self,
        show: ProgressCallback,
        names: Sequence[str],
        tell_step: Callable[[str], None] | None = None,
    ) -> None:
        """`tell_step` is given a line for every step, where somebody asked for that."""
        self._show, self._names, self._tell_step = show, list(names), tell_step
        self._done = self._total = 0

    def doing(self, what: str) -> None:
        """Something else than a step: a copy is loaded, or written."""
        self._show(what, self._done, self._total)

    def on_step(self, copy: str, step: int, total: int, loss: float) -> None:
        """Step `step` of `total` of one copy is done."""
        self._done, self._total = self._names.index(copy) * total + step, len(self._names) * total
        text = f"{copy}: step {step} of {total}, loss {loss:.4f}"
        self._show(text, self._done, self._total)
        if self._tell_step is not None:
            self._tell_step(text)


@contextmanager
def bar(console: Console) -> Iterator[ProgressCallback]:
    """One live line on a terminal, gone at the end."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as live:
        task = live.add_task("starting", total=None)

        def show(what: str, done: int, total: int) -> None:
            live.update(task, description=what, completed=done, total=total or None)

        yield show


def duration(seconds: float) -> str:
    """Minutes and seconds, 1:05, with hours 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
