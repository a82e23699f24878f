"""The rows of an audit: what was forgotten, decoys that were not, a control group, cover rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from mpu_cli.data.duplicates import in_both
from mpu_cli.data.order import shuffled
from mpu_cli.data.row import Row
from mpu_cli.data.rows import read_rows
from mpu_cli.errors import BadDataError

LEAST = 5
"""Rows of a set, below which an area says nothing."""
_APART = (
    ("decoys", "forget", "a decoy is a row that was not forgotten: take it out of --decoys"),
    ("control", "forget", "a control row was not forgotten: take it out of --control"),
    ("control", "decoys", "the two are compared: take it out of one of them"),
    ("cover", "forget", "a cover row is not one that must be forgotten: take it out of --cover"),
    ("cover", "decoys", "a cover row was forgotten too: take it out of --decoys"),
    ("cover", "control", "a cover row was forgotten too: take it out of --control"),
)


@dataclass(frozen=True, slots=True)
class RowSets:
    """Rows by what they are to the update."""

    forget: Sequence[Row]
    decoys: Sequence[Row]
    """Rows like the forget rows that were neither forgotten nor trained on."""
    control: Sequence[Row] = ()
    """More such rows; empty = the decoys are cut in two halves and compared."""
    cover: Sequence[Row] = ()
    """Rows that were forgotten along with the forget rows; often empty."""

    def sampled(self, most: int) -> RowSets:
        """At most `most` rows of each set, in the files' order; the same on every machine."""
        return RowSets(
            *(
                [rows[i] for i in sorted(shuffled(len(rows), f"audit/{name}")[:most])]
                for name, rows in self.by_name().items()
            )
        )

    def by_name(self) -> dict[str, Sequence[Row]]:
        """The sets by the names of their options."""
        return {
            "forget": self.forget,
            "decoys": self.decoys,
            "control": self.control,
            "cover": self.cover,
        }


def read_sets(
    files: Mapping[str, str],
    mapping: Mapping[str, str] | None = None,
    *,
    delimiter: str | None = None,
    tell: Callable[[str], None] = lambda note: None,
) -> RowSets:
    """Read and check the rows; `files` has a location by the name of each set that is given.

    Raises:
        BadDataError: a file cannot be used, a set has fewer than `LEAST` rows, or a row is in two
            sets that are compared.
    """
    sets = {
        name: _without_alternates(read_rows(file, mapping, delimiter=delimiter, tell=tell))
        for name, file in files.items()
    }
    for name, rows in sets.items():
        if len(rows) < LEAST:
            raise BadDataError(
                f"--{name} {files[name]}: {len(rows)} rows, but an audit needs at least {LEAST}",
                "give more rows of the same kind",
            )
    for name, other, remedy in _APART:
        shared = in_both(sets.get(name, ()), sets.get(other, ()))
        if shared:
            more = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
            raise BadDataError(f"{shared[0][0]}: is also {shared[0][1]}{more}", remedy)
    return RowSets(**sets)


def _without_alternates(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, alternate=None) for row in rows]
