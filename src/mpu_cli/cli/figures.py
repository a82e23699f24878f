"""Numbers in columns, for a terminal, a Markdown page or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from mpu_cli.cli.output import Output, table
from mpu_cli.errors import UsageError

TEXT, MARKDOWN, CSV = "text", "markdown", "csv"
_ARROWS = {"lower": "↓ lower", "higher": "↑ higher", "0": "near 0", "0.5": "near 0.5"}


def check_output_format(given: str, as_json: bool) -> None:
    """Refuse two formats at once.

    Raises:
        UsageError: the message names the flags.
    """
    if as_json and given != TEXT:
        raise UsageError(
            f"--json and --output-format {given} cannot both be printed", "leave one of them out"
        )


def print_figures(
    output: Output,
    form: str,
    data: Mapping[str, Any],
    body: Sequence[RenderableType],
    lines: Sequence[str],
    brief: str | None,
) -> None:
    """The result of a command: its figures, then further lines.

    In CSV the lines are messages, so that the output is a table alone.

    With -q a reader gets `brief` alone; who asked for Markdown or CSV gets all the same.
    """
    if form == CSV:
        for line in lines:
            output.note(line)
        lines = ()
    output.result(
        data,
        *body,
        *([f"- {line}" for line in lines] if form == MARKDOWN else lines),
        brief=brief if form == TEXT else None,
    )


def number(value: float | None, *, signed: bool = False) -> str:
    """Four decimals, or three digits where those say nothing; a dash for none."""
    if value is None or value != value:
        return "–"
    sign = "+" if signed else ""
    return (
        f"{value:{sign}.4f}"
        if abs(value) < 1000 and (abs(value) >= 1e-4 or value == 0)
        else f"{value:{sign}.3g}"
    )


def interval(low: float | None, high: float | None) -> str:
    """From … to, or a dash."""
    return f"{number(low)} … {number(high)}" if low is not None else "–"


def arrow(better: str) -> str:
    """Which way is better, for a reader."""
    return _ARROWS.get(better, better or "–")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown; the first column is text, the others numbers."""
    cells = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells
    )


def comma_separated(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV with a header line; numbers in full, nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [["" if cell is None or cell != cell else cell for cell in row] for row in rows]
    )
    return text.getvalue().rstrip("\n")


def grid(form: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[RenderableType]:
    """A table for a terminal or for Markdown, and an empty line."""
    return [
        (
            table(*columns, rows=[tuple(row) for row in rows])
            if form == TEXT
            else markdown(columns, rows)
        ),
        "",
    ]
