"""Rows of a forget, retain or holdout file: read, recognised and checked before any model is loaded.

A file is JSON Lines, JSON, CSV, Parquet or plain text (`formats/`), on this machine or on the Hub (`source.py`). These
forms of a row are recognised by their keys; other keys are tolerated, so TOFU's and MUSE's files work as they are:

    {"question": …, "answer": …}          TOFU (Maini et al. 2401.06121), MUSE's knowledge questions (Shi et al. 2407.06460)
    {"prompt": …, "completion": …}        or "gt", in MUSE's verbatim set
    {"messages": [{"role": …, "content": …}, …]}    a chat whose last turn is the assistant's
    {"text": …}                           plain text, every token of it counts; so are MUSE's lists of bare texts

All but the last may have an `alternate`: the answer to give instead (DPO). Other names are mapped: docs/data.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.data.formats import read_table
from mpu_cli.data.formats.table import RowError, Table
from mpu_cli.data.forms import HINT, KEYS, TOOLS, Message, Row, recognise
from mpu_cli.data.mapping import nearest_column
from mpu_cli.data.source import find_data
from mpu_cli.errors import BadDataError

__all__ = ["Message", "Row", "Scan", "read_rows", "scan_rows"]


@dataclass(frozen=True, slots=True)
class Scan:
    """A file read to its end: the rows that can be used, and what is wrong with each of the others."""

    rows: list[Row]
    bad: list[RowError]


def read_rows(location: str | Path, mapping: Mapping[str, str] | None = None) -> list[Row]:
    """Read all rows of a file, in the file's order.

    Args:
        location: a path, or `hf://datasets/org/name[@revision]/path/file.jsonl`.
        mapping: field → column, for a file with other names (`mapping.parse_mapping`).

    Raises:
        BadDataError: the file is missing, a directory, unreadable, not UTF-8, broken or empty; a row is broken, of no
            form or of two forms, or its answer is missing, empty or not text. One line that names the file and the line
            or row.
    """
    scan = scan_rows(location, mapping)
    if scan.bad:
        raise scan.bad[0].as_error() from None
    return scan.rows


def scan_rows(location: str | Path, mapping: Mapping[str, str] | None = None) -> Scan:
    """Like `read_rows`, but a bad row is collected, not raised.

    Raises:
        BadDataError: the file as a whole cannot be read, has no rows, or lacks a mapped column.
    """
    mapping = mapping or {}
    path = find_data(location)
    table = read_table(path, KEYS | set(TOOLS) | set(mapping.values()))
    if not table.rows:
        raise BadDataError(f"{path.name} has no rows", HINT)
    _require_columns(table, mapping, path.name)
    rows, bad = [], []
    for where, value in table.rows:
        try:
            if isinstance(value, RowError):
                raise value
            rows.append(recognise(value, where, mapping))
        except RowError as error:
            bad.append(error)
    return Scan(rows, bad)


def _require_columns(table: Table, mapping: Mapping[str, str], name: str) -> None:
    """Where the file declares its columns, one error stands for all rows; JSON's rows each have keys of their own."""
    if table.columns is None:
        return
    for field, column in mapping.items():
        if column not in table.columns:
            raise BadDataError(f"{name}: no column {column!r} (--map {field}={column})", nearest_column(column, table.columns))
    if not mapping and not KEYS & set(table.columns):
        found = ", ".join(map(repr, table.columns)) or "none"
        raise BadDataError(f"{name}: no recognised form, columns found: {found}", HINT)
