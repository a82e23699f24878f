"""The result of reading any format: rows as plain values with their places, or errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpu_cli.errors import BadDataError


class RowError(Exception):
    """One row cannot be used; `mpu data check` lists all such rows of a file."""

    def __init__(self, where: str, message: str, hint: str, *, empty: bool = False) -> None:
        super().__init__(f"{where}: {message}")
        self.where, self.message, self.hint, self.empty = where, message, hint, empty

    def as_error(self) -> BadDataError:
        """The error of a command that needs every row."""
        return BadDataError(f"{self.where}: {self.message}", self.hint)


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file in order, and its columns if the format declares them (CSV, Parquet)."""

    rows: list[tuple[str, Any]]
    """(place, value): "forget.jsonl:3" or "forget.json row 3", and an object or a `RowError`."""
    columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """How the file was read where its content decided, such as "columns separated by ';'"."""
