"""Numbers in columns, for a terminal, a Markdown page or a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType

from mpu_cli.cli.output import Output, table
from mpu_cli.errors import UsageError
from mpu_cli.report.numbers import interval as interval
from mpu_cli.report.numbers import number as number

TEXT, MARKDOWN, CSV = "text", "markdown", "csv"
_ARROWS = {"lower": "↓ lower", "higher": "↑ higher", "0": "near 0", "0.5": "near 0.5"}


def check_output_format(given: str, as_json: bool) -> None:
    """Refuse --json together with another format.

    Raises:
        UsageError: the message names the flags.
    """
    if as_json and given != TEXT:
        raise UsageError(f"--json excludes --output-format {given}", "leave one of them out")


def print_figures(
    output: Output,
    form: str,
    data: Mapping[str, Any],
    body: Sequence[RenderableType],
    lines: Sequence[str],
    brief: str | None,
) -> None:
    """Print the result of a command: its figures, then further lines.

    For CSV the lines go to stderr, so that stdout holds only a table. -q prints only `brief`, but
    does not shorten Markdown and CSV.
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


def probability(value: float) -> str:
    """Three decimals without the leading zero: .250."""
    return f"{value:.3f}".removeprefix("0")


def arrow(better: str) -> str:
    """The better direction, with an arrow."""
    return _ARROWS.get(better, better or "–")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown; the first column is text, the others are numbers."""
    cells = [list(columns), ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells
    )


def comma_separated(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """CSV with a header line; numbers in full, an empty cell for NaN or None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(
        [["" if cell is None or cell != cell else cell for cell in row] for row in rows]
    )
    return text.getvalue().rstrip("\n")


def grid(form: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[RenderableType]:
    """A table for a terminal or in Markdown, and an empty line."""
    if form == TEXT:
        return [table(*columns, rows=[tuple(row) for row in rows]), ""]
    return [markdown(columns, rows), ""]


def not_shown(hidden: int) -> list[str]:
    """The line that says how to see the hidden numbers, if there are any."""
    return [f"{hidden} more numbers are not shown; give --all to see them"] if hidden else []
