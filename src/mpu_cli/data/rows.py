"""Rows of a forget, retain or holdout file: read, recognised and checked before a model is loaded.

A file is JSON Lines, JSON, CSV, Parquet or plain text (`formats/`), on this machine or on the Hub
(`source.py`). The keys of a row decide its form; other keys are ignored, so the files of TOFU
(Maini et al. 2401.06121) and MUSE (Shi et al. 2407.06460) can be used unchanged:

    {"question": …, "answer": …}          TOFU, MUSE's knowledge questions
    {"prompt": …, "completion": …}        or "gt" in place of completion: MUSE's verbatim set
    {"messages": [{"role": …, "content": …}, …]}    a chat whose last turn is the assistant's
    {"text": …}                           plain text, of which every token counts; MUSE's lists of
                                          bare texts are read as such rows

All but the last may have an `alternate`: the answer to give instead (DPO). Columns of other names
are mapped, see docs/data.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpu_cli.data.formats import read_table
from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.data.mapping import nearest_column
from mpu_cli.data.row import Message, Row
from mpu_cli.data.row_schema import HINT, KEYS, TOOLS, recognise
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError

__all__ = ["Message", "Row", "Scan", "Tell", "ignore", "read_rows", "read_scan", "scan_rows"]

Tell = Callable[[str], None]
"""Receives a note for the user."""


def ignore(note: str) -> None:
    """A `Tell` that drops the note."""


@dataclass(frozen=True, slots=True)
class Scan:
    """A whole file: the rows that can be used, and what is wrong with each of the others."""

    rows: list[Row]
    bad: list[RowError]
    values: list[Any]
    """The value that each usable row was read from, with keys that are not part of its form."""
    notes: tuple[str, ...]
    """How the file was read where that is not obvious: one sentence each, with the file's name."""


def read_rows(
    location: str | Path,
    mapping: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    tell: Tell = ignore,
) -> list[Row]:
    """Read all rows of a file, in the file's order.

    Args:
        location: a path, or `hf://datasets/org/name[@revision]/path/file.jsonl`.
        mapping: field → column, for a file with other names (`mapping.parse_mapping`).
        delimiter: the delimiter of a CSV file; None = detect it from the header.
        tell: receives notes on how the file was read where that is not obvious.

    Raises:
        BadDataError: the file is missing, a directory, unreadable, another program's, broken or
            empty; or a row is broken, has no form or two, or its answer is missing, empty or not
            text. The message is one line that names the file and the line or row.
    """
    return read_scan(location, mapping, delimiter=delimiter, tell=tell).rows


def read_scan(
    location: str | Path,
    mapping: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    tell: Tell = ignore,
    beside: Collection[str] = (),
) -> Scan:
    """Read all rows as `read_rows` does, and keep the values that they were read from.

    Args:
        location: see `read_rows`.
        mapping: see `read_rows`.
        delimiter: see `read_rows`.
        tell: see `read_rows`.
        beside: more columns to read, which are part of no form.

    Raises:
        BadDataError: see `read_rows`.
    """
    scan = scan_rows(location, mapping, delimiter=delimiter, beside=beside)
    if scan.bad:
        raise scan.bad[0].as_error() from None
    for note in scan.notes:
        tell(note)
    return scan


def scan_rows(
    location: str | Path,
    mapping: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    beside: Collection[str] = (),
) -> Scan:
    """Read all rows as `read_scan` does, but collect errors of rows instead of raising the first.

    Raises:
        BadDataError: the file as a whole cannot be read, has no rows, or lacks a mapped column.
    """
    mapping = mapping or {}
    path = find_data(location)
    table = read_table(path, {*KEYS, *TOOLS, *mapping.values(), *beside}, delimiter)
    if not table.rows:
        raise BadDataError(f"{path.name} has no rows", HINT)
    _require_columns(table, mapping, path.name)
    rows, bad, values = [], [], []
    for where, value in table.rows:
        try:
            if isinstance(value, RowError):
                raise value
            rows.append(recognise(value, where, mapping))
            values.append(value)
        except RowError as error:
            bad.append(error)
    return Scan(rows, bad, values, tuple(f"{path.name}: {note}" for note in table.notes))


def _require_columns(table: Table, mapping: Mapping[str, str], name: str) -> None:
    """Raise one error for the whole file if it declares its columns and lacks one.

    JSON declares none: each of its rows has its own keys.
    """
    if table.columns is None:
        return
    for field, column in mapping.items():
        if column not in table.columns:
            raise BadDataError(
                f"{name}: no column {column!r} (--map {field}={column})",
                nearest_column(column, table.columns),
            )
    if not mapping and not KEYS & set(table.columns):
        columns = ", ".join(map(repr, table.columns)) or "none"
        raise BadDataError(f"{name}: no recognised form, columns found: {columns}", HINT)
