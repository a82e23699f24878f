"""CSV with a header, as in RFC 4180; the delimiter may be another one, as in Excel's files."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from typing import Any

from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.errors import BadDataError

DELIMITERS = (",", ";", "\t", "|")
"""Delimiters to try on a header; the first of the best wins."""
_NAMES = {"\t": "tabs", " ": "spaces"}
_HINT = "the first line of a CSV file must name the columns; --delimiter sets the delimiter"
_EXCEL = re.compile(r"sep=(.)(?:\r\n|\r|\n)")
"""A first line that tells Excel the delimiter."""


def read_csv(
    source: str, name: str, wanted: Collection[str] = (), delimiter: str | None = None
) -> Table:
    """Read a table of texts; a row's place is the line that it starts on.

    Args:
        source: the file's text.
        name: its name in messages.
        wanted: the columns that may be used, from which the delimiter is detected.
        delimiter: the delimiter; None = from Excel's `sep=` line, else detected from the header.

    Raises:
        BadDataError: no usable header, or an open quote. A row with too few or too many cells is a
            `RowError` in the table.
    """
    excel = _EXCEL.match(source)
    chosen = delimiter or (excel[1] if excel else _sniffed(source, wanted))
    limit = csv.field_size_limit()
    # The default limit of 131,072 characters is less than a book chapter.
    csv.field_size_limit(max(limit, len(source) + 1))
    try:
        rows, columns = _read(
            source[excel.end() :] if excel else source, name, chosen, 1 if excel else 0
        )
    finally:
        csv.field_size_limit(limit)
    return Table(
        rows,
        columns,
        () if delimiter or chosen == "," else (f"columns separated by {_shown(chosen)}",),
    )


def looks_like_csv(source: str, wanted: Collection[str]) -> bool:
    """Whether the first line is a header that names two or more of the wanted columns."""
    return any(len(set(wanted) & set(_cells(source, delimiter))) > 1 for delimiter in DELIMITERS)


def _sniffed(source: str, wanted: Collection[str]) -> str:
    """The delimiter with the most wanted columns, then with the most columns, then the comma."""

    def fit(delimiter: str) -> tuple[int, int]:
        cells = _cells(source, delimiter)
        return len(set(wanted) & set(cells)), len(cells)

    return max(DELIMITERS, key=fit)


def _cells(source: str, delimiter: str) -> list[str]:
    """The cells of the header; none if it is broken."""
    start = source.lstrip("\r\n")[:100_000]
    try:
        cells = next(csv.reader(io.StringIO(start, newline=""), delimiter=delimiter), [])
    except csv.Error:
        return []
    return [cell.strip() for cell in cells]


def _read(
    source: str, name: str, delimiter: str, before: int
) -> tuple[list[tuple[str, Any]], tuple[str, ...]]:
    """The rows and the columns; `before` lines of the file precede `source`."""
    reader = csv.reader(io.StringIO(source, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, Any]] = []
    start = before + 1
    try:
        for cells in reader:
            where, start = f"{name}:{start}", before + reader.line_num + 1
            if not cells:
                continue
            if not columns:
                columns = _header(cells, where)
            elif len(cells) != len(columns):
                message = f"{len(cells)} cells, but the header names {len(columns)} columns"
                hint = (
                    f"quote cells that contain {_shown(delimiter)} or line breaks, or set another"
                    " --delimiter"
                )
                rows.append((where, RowError(where, message, hint)))
            else:
                rows.append((where, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise BadDataError(
            f"{name}:{start}: broken CSV ({error})", "close every quote; double a quote inside one"
        ) from None
    return rows, columns


def _shown(delimiter: str) -> str:
    return _NAMES.get(delimiter, repr(delimiter))


def _header(cells: list[str], where: str) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    # pandas writes its index as a column without a name; no field can be mapped to it.
    named = [column for column in columns if column]
    twice = next((column for column, count in Counter(named).items() if count > 1), None)
    if twice is not None:
        raise BadDataError(f"{where}: the column {twice!r} occurs twice", "rename one of them")
    if not named:
        raise BadDataError(f"{where}: no column has a name", _HINT)
    return columns
