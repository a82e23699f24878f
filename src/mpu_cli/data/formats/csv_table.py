"""CSV as RFC 4180 and Python's csv module have it: commas, a header, quotes doubled inside quotes."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import Any

from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.errors import BadDataError

_HINT = "the first line of a CSV file names the columns, with commas between them"


def read_csv(source: str, name: str) -> Table:
    """Every cell is text; a row's place is the line it starts on.

    Raises:
        BadDataError: no usable header, or a quote that is never closed. Too few or too many cells are that row's
            `RowError`.
    """
    limit = csv.field_size_limit()
    # The module's limit of 131,072 letters is less than a book chapter; a cell cannot be longer than its file.
    csv.field_size_limit(max(limit, len(source) + 1))
    try:
        return _read(source, name)
    finally:
        csv.field_size_limit(limit)


def _read(source: str, name: str) -> Table:
    reader = csv.reader(io.StringIO(source, newline=""), strict=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[str, Any]] = []
    start = 1
    try:
        for cells in reader:
            where, start = f"{name}:{start}", reader.line_num + 1
            if not cells:
                continue
            if not columns:
                columns = _header(cells, where)
            elif len(cells) != len(columns):
                message = f"{len(cells)} cells, but the header names {len(columns)} columns"
                rows.append((where, RowError(where, message, "quote cells that hold commas or line breaks")))
            else:
                rows.append((where, dict(zip(columns, cells, strict=True))))
    except csv.Error as error:
        raise BadDataError(f"{name}:{start}: broken CSV ({error})", "close every quote; double a quote inside one") from None
    return Table(rows, columns)


def _header(cells: list[str], where: str) -> tuple[str, ...]:
    columns = tuple(cell.strip() for cell in cells)
    # A column without a name is how pandas writes its index; it cannot be asked for, so it does no harm.
    named = [column for column in columns if column]
    twice = next((column for column, count in Counter(named).items() if count > 1), None)
    if twice is not None:
        raise BadDataError(f"{where}: the column {twice!r} occurs twice", "rename one of them")
    if not named:
        raise BadDataError(f"{where}: no column has a name", _HINT)
    if len(columns) == 1 and (other := next((mark for mark in ";\t|" if mark in columns[0]), None)):
        raise BadDataError(f"{where}: columns separated by {other!r}, expected commas", "save it with commas between the columns")
    return columns
