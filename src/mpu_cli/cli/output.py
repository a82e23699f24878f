"""How every command speaks.

One result on stdout, everything else on stderr (the contract is in app.py).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import typer

from mpu_cli.cli.progress import Lines, ProgressCallback, bar
from mpu_cli.cli.streams import print_json

if TYPE_CHECKING:  # a usage error needs none of it
    from rich.console import Console, RenderableType
    from rich.table import Table


class Output:
    """The voice of one command."""

    def __init__(self, context: typer.Context, *, as_json: bool, silent: bool = False) -> None:
        """`silent` says nothing at all: for all processes of a joint training but the first."""
        settings = (context.find_root().obj or {}) if context else {}
        self.quiet: bool = settings.get("quiet", False)
        self.verbose: bool = settings.get("verbose", False)
        self.as_json = as_json
        self.arguments: list[str] = settings.get("arguments", [])
        """The command line after `mpu`."""
        self._silent = silent
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    def result(
        self, data: Mapping[str, Any], *body: RenderableType, brief: str | None = None
    ) -> None:
        """The command's result: `data` as JSON, or `body` for a reader.

        With -q the line `brief` in its place, if there is one.
        """
        if self._silent:
            return
        if self.as_json:
            print_json(data)
            return
        for part in body if brief is None or not self.quiet else (brief,):
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
    def progress(self, what: str = "starting") -> Iterator[ProgressCallback]:
        """A live bar on a terminal, a timed line every so often elsewhere.

        The callback takes (what, done, total).
        """
        if self.quiet or self._silent:
            yield lambda what, done, total: None
        elif sys.stderr.isatty():
            with bar(self._err) as show:
                show(what, 0, 0)
                yield show
        else:
            with Lines(self.note) as lines:
                lines.show(what, 0, 0)
                yield lines.show


def _console(file: TextIO) -> Console:
    from rich.console import Console

    # Where nobody's terminal sets a width, lines are not broken: scripts read them.
    return Console(
        file=file,
        soft_wrap=True,
        highlight=False,
        emoji=False,
        width=None if file.isatty() else 200,
    )


def table(*columns: str, rows: Sequence[tuple[str, ...]], title: str | None = None) -> Table:
    """A plain table; numbers are already text."""
    from rich.table import Table
    from rich.text import Text

    result = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell) for cell in row))
    return result


def facts(pairs: Mapping[str, str]) -> Table:
    """Name and value, one pair a line."""
    from rich.table import Table
    from rich.text import Text

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
