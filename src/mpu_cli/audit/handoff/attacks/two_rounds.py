"""The weights of the copies, read off two rounds.

Weights that cancel the noise of both rounds leave the update as their difference, which is much
smaller than the task vector, so they are found more exactly than with the base. A client knows its
own part of that update: published copies moved by Σ w_k Δ_k, and it made the Δ_k. With these as
vectors of any weight nothing is left, and the weights are exact. A secret α or node lasts a round.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpu_cli.audit.handoff.aligned import AlignedLayer, products
from mpu_cli.audit.handoff.attacks._attack import Attack, CopyPool, Estimate
from mpu_cli.audit.handoff.attacks._difference import copies_of, smallest_difference
from mpu_cli.audit.handoff.attacks._weights import combined


class _TwoRounds:
    """Two rounds, at least one with several copies."""

    def __init__(self, pool: CopyPool) -> None:
        self._older, self._newer = copies_of(pool.rounds)
        self._size = pool.size
        self._gram = np.zeros((pool.size, pool.size))
        self._with_changes: np.ndarray | None = None

    def observe(self, layer: AlignedLayer) -> None:
        """Add the products of the copies, and of the changes that the client made itself."""
        self._gram += layer.scale * layer.gram
        changes = [change for change in layer.changes if change is not None]
        if changes:
            whole = layer.scale * products(layer.copies, layer.base, changes)
            before = self._with_changes
            self._with_changes = whole if before is None else before + whole

    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """The copies of the newer round, with the weights that two rounds give away."""
        found = {"smallest difference": self._gram}
        if self._with_changes is not None:
            found["with the client's own updates"] = self._with_changes
        for how, gram in found.items():
            free = range(self._size, len(gram))
            weights = smallest_difference(gram, self._older, self._newer, free)
            newer = np.zeros(self._size)
            newer[self._newer] = weights[self._newer]
            yield Estimate(how, combined(layer, newer), noisy=True)


ATTACK = Attack(
    "two rounds",
    "weights that make the copies of two rounds differ least; with --update the client also"
    " subtracts its own updates, and finds secret weights exactly",
    "our own; linear least squares",
    lambda pool: _TwoRounds(pool) if len(set(pool.rounds)) == 2 and pool.size > 2 else None,
)
