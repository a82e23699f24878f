"""Refuse two sets of rows that have common rows, such as a forget and a retain set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mpu_cli.data.duplicates import in_both
from mpu_cli.data.rows import Row
from mpu_cli.errors import BadDataError

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows, with the option that named their file; rows of one place are wordings of one row."""

    option: str
    rows: Sequence[Row]

    @property
    def size(self) -> int:
        """The number of rows, each counted once."""
        return len({row.where for row in self.rows})


def check_disjoint(first: RowSet, other: RowSet, *, allow: bool) -> str | None:
    """A warning with counts and places if the sets share rows (compared as in `duplicates`).

    Raises:
        BadDataError: all rows of one set are in the other, and `allow` is False.
    """
    shared = dict(reversed(in_both(first.rows, other.rows)))
    if not shared:
        return None
    shared_of_other = {place for place, _ in in_both(other.rows, first.rows)}
    places = [
        f"{place} = {shared[place]}"
        for place in dict.fromkeys(row.where for row in first.rows)
        if place in shared
    ]
    if len(places) > _SHOWN:
        places[_SHOWN:] = [f"and {len(places) - _SHOWN} more"]
    where = ", ".join(places)
    for one, two, count in ((first, other, len(shared)), (other, first, len(shared_of_other))):
        if count == one.size:
            message = f"{one.option}: all of its rows ({count}) are in {two.option} too: {where}"
            if not allow:
                raise BadDataError(
                    message,
                    "check that neither is the wrong file; --allow-overlap continues all the same",
                )
            return message
    return (
        f"{first.option}: {len(shared)} of its {first.size} rows are in {other.option} too: {where}"
    )
