"""What the records state about copies: the numbers that `perturb` printed, for any copies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from mpu_cli.server.lineage.exposure import Prior, noise_of, prior
from mpu_cli.server.lineage.records import HandoffRecord


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """Everything that one holder, or all together, have been given so far."""

    holder: str
    handoffs: tuple[str, ...]
    """Ids."""
    stated: float


def stated(
    records: Sequence[HandoffRecord], names: Mapping[str, Collection[str]], groups: Collection[str]
) -> float:
    """The stated exposure of some copies: at most how much stays unknown, in the noise's unit.

    Args:
        records: of the handoffs that the copies are from.
        names: the copies that are held, by handoff id.
        groups: the layers that were attacked: if every layer has a prior of its own, those count.
    """
    held = [
        replace(
            record, copies=tuple(copy for copy in record.copies if copy.name in names[record.id])
        )
        for record in records
    ]
    return of_groups(prior(records), groups).left(noise_of(held))


def of_groups(whole: Prior, groups: Collection[str]) -> Prior:
    """The prior of some groups, by their shares of the unit."""
    shares = {group: share for group, share in whole.shares.items() if group in groups}
    total = sum(shares.values())
    if not total:
        return whole
    return replace(
        whole,
        shares={group: share / total for group, share in shares.items()},
        sizes={group: whole.sizes[group] for group in shares},
    )


def ledger(records: Sequence[HandoffRecord]) -> list[LedgerRow]:
    """What each holder of a lineage and all together were given, interrupted handoffs included."""
    before = prior(records)
    holders = dict.fromkeys(record.holder for record in records)
    rows = [(holder, [it for it in records if it.holder == holder]) for holder in holders]
    if len(rows) > 1:
        rows.append(("all together", list(records)))
    return [
        LedgerRow(name, tuple(it.id for it in held), before.left(noise_of(held)))
        for name, held in rows
    ]
