"""Columns of rows' numbers as they are measured, under a condition or without one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mpu_cli.evaluation.statistics import Array


@dataclass(slots=True)
class MeasuredRows:
    """Columns by (set, metric), the reasons why others are missing, and the written texts."""

    columns: dict[tuple[str, str], Array] = field(default_factory=dict)
    reasons: dict[tuple[str, str], str] = field(default_factory=dict)
    written: dict[tuple[str, int], str] = field(default_factory=dict)
    """What the model wrote, by set and row."""

    def under(self, condition: str) -> MeasuredRows:
        """The same columns, each called `metric@condition`; the texts are left out."""
        return MeasuredRows(
            {
                (rows, f"{name}@{condition}"): column
                for (rows, name), column in self.columns.items()
            },
            {
                (rows, f"{name}@{condition}"): reason
                for (rows, name), reason in self.reasons.items()
            },
        )

    def add(self, other: MeasuredRows) -> None:
        """Add the columns and the reasons of another measurement."""
        self.columns |= other.columns
        self.reasons |= other.reasons


def together(parts: Iterable[MeasuredRows]) -> MeasuredRows:
    """The columns of several measurements in one."""
    whole = MeasuredRows()
    for part in parts:
        whole.add(part)
    return whole
