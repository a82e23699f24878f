"""Cover rows: rows of the client's choice that are forgotten along with the forget rows.

The server can tell forgotten rows from others by what the update does to them (`mpu audit update`).
It cannot tell why a row was forgotten, so rows that need not be forgotten hide the ones that must.
"""

from __future__ import annotations

from collections.abc import Sequence

from mpu_cli.data.duplicates import in_both
from mpu_cli.data.row import Row
from mpu_cli.errors import BadDataError


def with_cover(forget: Sequence[Row], cover: Sequence[Row]) -> list[Row]:
    """All rows to train on; each epoch's seeded order mixes them.

    Raises:
        BadDataError: a cover row is also a forget row, or of another form than all of them (an
            attacker would sort rows by form).
    """
    shared = in_both(cover, forget)
    if shared:
        more = f", and {len(shared) - 1} more" if len(shared) > 1 else ""
        raise BadDataError(
            f"{shared[0][0]}: is also {shared[0][1]}{more}",
            "a cover row is not one that must be forgotten: take it out of --cover",
        )
    forms = sorted({row.form for row in forget})
    for row in cover:
        if row.form not in forms:
            raise BadDataError(
                f"{row.where}: is {row.form}, and the forget rows are {' and '.join(forms)}",
                "cover rows hide only rows of their own form",
            )
    return [*forget, *cover]


def words(forget: int, cover: int) -> str:
    """Tell the user what becomes of the rows."""
    rows = "1 row is" if cover == 1 else f"{cover} rows are"
    return (
        f"cover: {rows} forgotten along with the {forget} forget rows; the answer probability of"
        " forget rows, printed below, is over both (mpu eval measures the forget rows alone)"
    )
