"""What `mpu perturb` reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mpu_cli.server.lineage.exposure import Exposure, Ledger, exposure_of, ledger
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.publishing.function_check import LayerCheck


@dataclass(frozen=True, slots=True)
class PerturbResult:
    """What was published and what it exposes."""

    handoffs: tuple[HandoffRecord, ...]
    exposure: Exposure
    """Of the whole draw."""
    ledger: Ledger
    """Of the holders of this draw, with everything that they hold of the lineage."""
    test_secret: bool
    new_lineage: bool = False
    checks: tuple[LayerCheck, ...] = ()
    probe: Mapping[str, float] = field(default_factory=dict)
    advice: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    """Reasons against a default, for readers who ask for more."""

    @property
    def relative_to(self) -> str:
        """The unit of κ and of the exposure: task-vector or weights."""
        return self.handoffs[0].relative_to


def published(lineage: Lineage, records: Sequence[HandoffRecord]) -> PerturbResult:
    """The result for handoffs of one draw that are in place, as the lineage's records tell it."""
    draw = [record for record in lineage.handoffs.values() if record.draw == records[0].draw]
    return PerturbResult(
        handoffs=tuple(records),
        exposure=exposure_of(draw),
        ledger=ledger(lineage.handoffs.values(), {record.holder for record in records}),
        test_secret=lineage.secret.origin == "test",
    )
