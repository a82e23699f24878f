"""What every format gives.

Rows as plain values, each with its place, and what is wrong with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpu_cli.errors import BadDataError


class RowError(Exception):
    """One row cannot be used.

    The rest of the file still can be read (`mpu data check` lists all of them).
    """

    def __init__(self, where: str, message: str, hint: str, *, empty: bool = False) -> None:
        super().__init__(f"{where}: {message}")
        self.where, self.message, self.hint, self.empty = where, message, hint, empty

    def as_error(self) -> BadDataError:
        """What a command that needs every row raises."""
        return BadDataError(f"{self.where}: {self.message}", self.hint)


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one file in its order, and its columns where the format declares them (CSV, Parquet)."""

    rows: list[tuple[str, Any]]
    """(place, value): "forget.jsonl:3" or "forget.json row 3", and an object as a dict, or a `RowError`."""
    columns: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    """How the file was understood where that had to be seen from its content.

    "columns separated by ';'".
    """
