"""A table on a page, and the same numbers in full as CSV."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mpu_cli.report.escape import csv_text, escape

Cell = str | float | int | None
_QUANTITY = re.compile(r"[±+\-−]?\.?\d\S*( … \S+| %| \(\S+ … \S+\))?")
_LONG = 24
"""Letters of a cell that keeps some width where the table is wider than the screen."""
_DATE = re.compile(r"\d{4}-\d\d-\d\d.{,20}")
_DIGEST = re.compile(r"[0-9a-f]{32,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageTable:
    """Rows of text under headings; the first cell of a row is its heading.

    `values` are the numbers in full, under `names`; without them the CSV holds what is shown.
    """

    name: str
    """Of the CSV file, without its suffix: letters, digits and hyphens."""
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: tuple[str, ...] = ()
    values: tuple[tuple[Cell, ...], ...] = ()

    def csv(self) -> str:
        """The numbers as CSV with a header; an empty cell stands for a number that is missing."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(map(csv_text, self.names or self.columns))
        for row in self.values if self.names else self.rows:
            writer.writerow([_plain(cell) for cell in row])
        return text.getvalue()

    def html(self) -> str:
        """The table in a box that scrolls by itself where the screen is narrow."""
        head = "".join(f'<th scope="col">{escape(name)}</th>' for name in self.columns)
        body = "\n".join(_row(row) for row in self.rows)
        # A box that scrolls must be reachable by keyboard, and then needs a name.
        return (
            f'<div class="box" role="region" tabindex="0" aria-label="{escape(self.caption)}">\n'
            f"<table>\n<caption><span>{escape(self.caption)}</span></caption>\n"
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n</div>"
        )

    def details(self, summary: str = "The numbers in full, as CSV") -> str:
        """The CSV to read, and to save."""
        text = self.csv()
        data = base64.b64encode(text.encode()).decode()
        file = f"{self.name}.csv"
        return (
            f"<details>\n<summary>{escape(summary)}</summary>\n"
            f'<p><a download="{escape(file)}" href="data:text/csv;base64,{data}">Save'
            f" {escape(file)}</a></p>\n"
            f'<pre tabindex="0">{escape(text)}</pre>\n</details>'
        )


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    parts = [f'<th scope="row"{_class(first)}>{escape(first)}</th>']
    for cell in rest:
        parts.append(f"<td{_class(cell)}>{escape(cell)}</td>")
    return f"<tr>{''.join(parts)}</tr>"


def _class(cell: str) -> str:
    if _DIGEST.fullmatch(cell):
        return ' class="digest"'
    if _QUANTITY.fullmatch(cell) or _DATE.fullmatch(cell) or cell == "–":
        return ' class="number"'
    return ' class="words"' if len(cell) > _LONG else ""


def _plain(cell: Cell) -> str:
    if cell is None or cell != cell:
        return ""
    return csv_text(cell) if isinstance(cell, str) else repr(cell)
