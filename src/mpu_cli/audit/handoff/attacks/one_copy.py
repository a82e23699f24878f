"""One copy, with its reparameterization undone."""

from __future__ import annotations

from collections.abc import Iterator

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import Attack, Estimate


class _OneCopy:
    def observe(self, layer: AlignedLayer) -> None:
        """Nothing to fit."""

    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """The copy itself."""
        yield Estimate("aligned", layer.copies[0], noisy=True)


ATTACK = Attack(
    "one copy",
    "undo the reparameterization of one copy; with the base, also move the copy towards it",
    "Wiener's filter with one coefficient",
    lambda pool: _OneCopy() if pool.size == 1 else None,
)
