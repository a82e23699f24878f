"""Whether the numbers of a handoff's record can be those of a handoff.

Whoever holds the master secret can sign any record, and so can an mpu with a mistake. Numbers that
no handoff has would divide by zero or be undone wrongly much later, so reading refuses them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mpu_cli.server.denoising import LARGEST, SMALLEST

if TYPE_CHECKING:
    from mpu_cli.server.lineage.records import HandoffRecord

_MOST_COPIES = 9999  # as names of copies allow
_LARGEST_NOISE = 1e6


def implausible(record: HandoffRecord) -> tuple[str, str] | None:
    """The first field that cannot be right and why, or None."""
    names = [copy.name for copy in record.copies]
    positions = [copy.position for copy in record.copies]
    coefficients = [copy.coefficient for copy in record.copies]
    if record.denoising == "harmonic":
        possible = all(SMALLEST <= value <= LARGEST for value in coefficients)
    else:
        possible = all(SMALLEST <= abs(value) <= LARGEST for value in coefficients)
        possible = possible and len(set(coefficients)) == len(coefficients)
    checks = (
        ("copies", "lists no copies, or one twice", 0 < len(set(names)) == len(names)),
        ("size", f"is not from 1 to {_MOST_COPIES}", 1 <= record.size <= _MOST_COPIES),
        (
            "copies",
            "has positions that the draw does not have",
            len(set(positions)) == len(positions) and max(positions, default=0) < record.size,
        ),
        ("copies", "has an α or a node that cannot be", possible),
        ("kappa", "is not a size of noise", 0 <= record.kappa <= _LARGEST_NOISE),
        ("offset", "is not a size of noise", 0 <= record.offset <= _LARGEST_NOISE),
        ("sigma", "holds a number below zero", all(value >= 0 for value in record.sigma.values())),
        ("shard_bytes", "is 0", record.shard_bytes > 0),
    )
    return next(((field, why) for field, why, holds in checks if not holds), None)
