"""`perturb --max-exposure`: no handoff after which clients know more than a share of the model."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from mpu_cli.errors import GateError
from mpu_cli.server.lineage.exposure import Prior, ledger
from mpu_cli.server.lineage.records import HandoffRecord


def require_unknown(
    most: float | None,
    new: Sequence[HandoffRecord],
    earlier: Collection[HandoffRecord],
    prior: Prior,
) -> None:
    """Refuse a draw, before anything is written.

    Args:
        most: the largest share of what the base alone leaves unknown that may become known to a
            client of this draw, or to all clients of the lineage together; None = any.
        new: the records of the draw.
        earlier: all other records of the lineage.
        prior: what is unknown before the first copy.

    Raises:
        GateError: the holder, both shares, and what lets it know less.
    """
    if most is None:
        return
    told = ledger([*earlier, *new], {record.holder for record in new})
    unit = new[0].relative_to.replace("-", " ")
    lefts = [*told.by_holder.items(), ("all clients together", told.all_together)]
    for who, left in lefts:
        known = 1 - left / prior.size if prior.size else 1.0  # the base gives all of it away
        if known > most:
            raise GateError(
                f"--max-exposure {most:g}: with this handoff {who} would know {known:.3g} of the"
                f" {unit} ({left:.3g} stays unknown)",
                _remedy(new[0], alone=who in told.by_holder, is_first=not earlier),
            )


def _remedy(record: HandoffRecord, *, alone: bool, is_first: bool) -> str:
    fixed = f"the lineage's offset is fixed at {record.offset:g}"
    if not alone and record.size > 1:
        return (
            f"{'give a larger --offset' if is_first else fixed}: only an offset stays unknown when"
            " clients pool all copies; nothing was written"
        )
    offset = ", a larger --offset" if is_first else ""
    pooled = ", fewer --copies, or --split" if len(record.copies) > 1 else ""
    why = "" if is_first else f" ({fixed})"
    return f"give a larger --kappa{offset}{pooled}{why}; nothing was written"
