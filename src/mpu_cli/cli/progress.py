"""Progress of a long command: a live bar on a terminal, lines at intervals elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mpu_cli.foreign_text import shown

if TYPE_CHECKING:
    from rich.console import Console

ProgressCallback = Callable[[str, int, int], None]
"""Takes the current step, the amount done, and the total (0 if unknown)."""

FIRST_SECONDS, EVERY_SECONDS = 1.5, 30.0
"""Seconds before the first line and between lines; a faster command prints none."""


class Lines:
    """Prints lines of progress from a separate thread, because one step may take minutes."""

    def __init__(
        self, print_line: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`print_line` gets each line; `clock` counts seconds."""
        self._print_line, self._clock = print_line, clock
        self._began = clock()
        self._what, self._done, self._total = "starting", 0, 0
        self._anchor = (self._began, 0)
        self._ended = threading.Event()

    def show(self, what: str, done: int, total: int) -> None:
        """Store the state of the command for the next line."""
        if total != self._total or done < self._done:
            # A new step, or one that resumes earlier work: measure the speed from here.
            self._anchor = (self._clock(), done)
        self._what, self._done, self._total = what, done, total

    def line(self) -> str:
        """The current step, the time so far, the share done and the time left."""
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
        threading.Thread(target=self._run, daemon=True, name="progress").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def _run(self) -> None:
        wait = FIRST_SECONDS
        while not self._ended.wait(wait):
            self._print_line(self.line())
            wait = EVERY_SECONDS


class OverCopies:
    """Progress of training several copies in the same way, as a share of all steps."""

    def __init__(
        self,
        show: ProgressCallback,
        names: Sequence[str],
        print_step: Callable[[str], None] | None = None,
    ) -> None:
        """`print_step`, if given, gets a line for every step."""
        self._show, self._names, self._print_step = show, list(names), print_step
        self._done = self._total = 0

    def doing(self, what: str) -> None:
        """Show other work than a step: a copy is loaded or written."""
        self._show(what, self._done, self._total)

    def on_step(self, copy: str, step: int, total: int, loss: float) -> None:
        """Show that `step` of `total` steps of one copy are done."""
        self._done, self._total = self._names.index(copy) * total + step, len(self._names) * total
        text = f"{copy}: step {step} of {total}, loss {loss:.4f}"
        self._show(text, self._done, self._total)
        if self._print_step is not None:
            self._print_step(text)


@contextmanager
def bar(console: Console) -> Iterator[ProgressCallback]:
    """Show one live line on a terminal and remove it at the end."""
    from rich.markup import escape
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
            live.update(task, description=escape(shown(what)), completed=done, total=total or None)

        yield show


def duration(seconds: float) -> str:
    """Minutes and seconds such as 1:05, or with hours 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
