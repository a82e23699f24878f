"""How every command speaks: one result on stdout, everything else on stderr (the contract is in app.py)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from mpu_cli.cli.streams import print_json

ProgressCallback = Callable[[str, int, int], None]
StepCallback = Callable[[str, int, int, float], None]


class Output:
    """The voice of one command."""

    def __init__(self, context: typer.Context, *, as_json: bool, silent: bool = False) -> None:
        """`silent` says nothing at all: for all processes of a joint training but the first."""
        settings = (context.find_root().obj or {}) if context else {}
        self.quiet: bool = settings.get("quiet", False)
        self.verbose: bool = settings.get("verbose", False)
        self.as_json = as_json
        self._silent = silent
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    def result(self, data: Mapping[str, Any], *body: RenderableType) -> None:
        """The command's result: `data` as JSON, or `body` for a reader."""
        if self._silent:
            return
        if self.as_json:
            print_json(data)
            return
        for part in body:
            self._out.print(part, markup=False) if isinstance(part, str) else self._out.print(part)

    def warn(self, text: str) -> None:
        """Something the reader must not miss."""
        if not self._silent:
            self._err.print(f"mpu: warning: {text}", markup=False)

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if not self.quiet and not self._silent:
            self._err.print(f"mpu: {text}", markup=False)

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """A live bar on a terminal, nothing elsewhere; the callback takes (what, done, total)."""
        silent = self.quiet or self._silent or not sys.stderr.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeRemainingColumn())
        with Progress(*columns, console=self._err, disable=silent, transient=True) as bar:
            task = bar.add_task("", total=None)

            def show(what: str, done: int, total: int) -> None:
                bar.update(task, description=what, completed=done, total=total)

            yield show

    @contextmanager
    def training(self) -> Iterator[StepCallback]:
        """Like `progress`, for training: copy, step, loss, steps per second, time left."""
        silent = self.quiet or self._silent or not sys.stderr.isatty()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._err, disable=silent) as bar:
            tasks: dict[str, Any] = {}

            def show(copy: str, step: int, total: int, loss: float) -> None:
                if copy not in tasks:
                    tasks[copy] = bar.add_task(copy, total=total, loss=loss, speed="")
                speed = bar.tasks[tasks[copy]].speed
                bar.update(tasks[copy], completed=step, loss=loss, speed=f"{speed:.2f} steps/s" if speed else "")
                if self.verbose and silent:
                    self.note(f"{copy}: step {step} of {total}, loss {loss:.4f}")

            yield show


def _console(file: TextIO) -> Console:
    # Where nobody's terminal sets a width, lines are not broken: scripts read them.
    return Console(file=file, soft_wrap=True, highlight=False, emoji=False, width=None if file.isatty() else 200)


def table(*columns: str, rows: Sequence[tuple[str, ...]], title: str | None = None) -> Table:
    """A plain table; numbers are already text."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def facts(pairs: Mapping[str, str]) -> Table:
    """Name and value, one pair a line."""
    result = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in pairs.items():
        result.add_row(Text(name), Text(value))  # what the other party wrote is never markup
    return result


def size(number: float) -> str:
    """Bytes as a short text, decimal units as the Hub shows them."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def share(number: float) -> str:
    """A ratio with three digits that mean something, also when it is tiny."""
    return f"{number:.3g}"


def unknown(left: float) -> str:
    """An exposure: what is left unknown, at most."""
    return share(left) if left else "nothing (≤ 1e-5)"
