"""Output of the commands: the result on stdout, everything else on stderr (see app.py)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

import typer

from mpu_cli.cli.progress import Lines, ProgressCallback, bar
from mpu_cli.cli.streams import print_json, printable
from mpu_cli.errors import MpuError, StoppedError
from mpu_cli.foreign_text import cell, one_line, visible

if TYPE_CHECKING:  # rich is slow to import, and a usage error does not need it
    from rich.console import (
        Console,
        ConsoleOptions,
        ConsoleRenderable,
        RenderableType,
        RenderHook,
        RenderResult,
    )
    from rich.table import Table


def error_fields(error: MpuError) -> dict[str, Any]:
    """An error as --json prints it."""
    kind = type(error).__name__.removesuffix("Error")
    return {
        "kind": "Interrupted" if isinstance(error, StoppedError) else kind,
        "message": one_line(printable(error.message, "utf-8")),
        "hint": None if error.hint is None else one_line(printable(error.hint, "utf-8")),
        "exit_code": error.exit_code,
    }


class Output:
    """Prints the result and the messages of one command."""

    def __init__(self, context: typer.Context, *, as_json: bool, silent: bool = False) -> None:
        """`silent` prints nothing: for every process of a distributed run except the first."""
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
        """Print the result: `data` as JSON, or `body`, or with -q only the line `brief`."""
        if self._silent:
            return
        if self.as_json:
            print_json(data)
            return
        for part in body if brief is None or not self.quiet else (brief,):
            self._print(part)

    def refuse(self, error: MpuError, data: Mapping[str, Any], *body: RenderableType) -> NoReturn:
        """Print the result, then fail; with --json stdout holds one object, which has the error."""
        if not self.as_json:
            self.result(data, *body)
            raise error
        self.result({**data, "error": error_fields(error)})
        raise typer.Exit(error.exit_code)

    def _print(self, part: RenderableType) -> None:
        from rich.text import Text

        # On a terminal, wrap text at words, but never a command ("  mpu …") or lines of CSV.
        is_text = isinstance(part, str | Text)
        whole = is_text and (not self._out.is_terminal or str(part).startswith("  "))
        whole = whole or (isinstance(part, str) and "\n" in part)
        with self._out.capture() as captured:
            self._out.print(part, markup=False, soft_wrap=whole)
        for line in captured.get().removesuffix("\n").split("\n"):
            print(line if is_text else line.rstrip(), file=self._out.file)

    def warn(self, text: str) -> None:
        """Print a warning, also with -q."""
        if not self._silent:
            self._err.print(f"mpu: warning: {one_line(text)}", markup=False)

    def note(self, text: str) -> None:
        """Print a note, but not with -q."""
        if not self.quiet and not self._silent:
            self._err.print(f"mpu: {one_line(text)}", markup=False)

    @property
    def error_console(self) -> Console:
        """The console of stderr, for live tables."""
        return self._err

    @contextmanager
    def progress(self, what: str = "starting") -> Iterator[ProgressCallback]:
        """Show progress: a bar on a terminal, or else a line now and then.

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

    # Text wraps at words on a terminal, but not in a pipe or a file: scripts read it.
    is_terminal = file.isatty()
    console = Console(
        file=file,
        soft_wrap=not is_terminal,
        highlight=False,
        emoji=False,
        width=None if is_terminal else 200,
    )
    console.push_render_hook(_visible_only())
    return console


def _visible_only() -> RenderHook:
    """Escape, in all that a console prints, what could move the cursor or turn the text."""
    from rich.console import RenderHook
    from rich.segment import Segment

    class VisiblePart:
        def __init__(self, part: ConsoleRenderable) -> None:
            self._part = part

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for segment in console.render(self._part, options):
                # rich's own codes are in segments of their own.
                yield (
                    segment if segment.control else Segment(visible(segment.text), segment.style)
                )

    class VisibleParts(RenderHook):
        def process_renderables(
            self, renderables: list[ConsoleRenderable]
        ) -> list[ConsoleRenderable]:
            return [VisiblePart(part) for part in renderables]

    return VisibleParts()


def table(*columns: str, rows: Sequence[tuple[str, ...]], title: str | None = None) -> Table:
    """A table without borders; all cells are text."""
    from rich.table import Table
    from rich.text import Text

    result = Table(
        title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in columns:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(Text(cell(text)) for text in row))
    return result


def facts(pairs: Mapping[str, str]) -> Table:
    """A table of names and values, one pair per line."""
    from rich.table import Table
    from rich.text import Text

    result = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    result.add_column(style="bold")
    result.add_column(overflow="fold")
    for name, value in pairs.items():
        result.add_row(Text(cell(name)), Text(cell(value)))  # never markup: it may be foreign
    return result


def size(number: float) -> str:
    """Bytes as short text in decimal units, as on the Hub."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError("unreachable")


def share(number: float) -> str:
    """A ratio with three significant digits."""
    return f"{number:.3g}"


def unknown(left: float, attack: str = "") -> str:
    """An exposure: at most how much stays unknown, and after which attack."""
    return (share(left) if left else "nothing (≤ 1e-5)") + f" {attack}" * bool(left and attack)
