"""The update between two rounds: what it shares with no copy of one round alone.

Two combinations of copies, each of weights that sum to one, differ by the update plus noise: the
model, the base and the frozen offset cancel. So the attacker needs no base. Weights that leave the
smallest difference cancel the noise, but for a random product with the update of about 1/√N.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import Attack, CopyPool, Estimate
from mpu_cli.audit.handoff.attacks._difference import copies_of, smallest_difference
from mpu_cli.audit.handoff.attacks._weights import FittedWeights, combined


class _BetweenRounds:
    """The copies of exactly two rounds."""

    def __init__(self, pool: CopyPool) -> None:
        self._rounds = (min(pool.rounds), max(pool.rounds))
        self._numbers = copies_of(pool.rounds)
        self._gram = np.zeros((pool.size, pool.size))
        self._fitted = [FittedWeights(pool.of(numbers)) for numbers in self._numbers]

    def observe(self, layer: AlignedLayer) -> None:
        """Add the layer's products."""
        self._gram += layer.scale * layer.gram
        for fitted, numbers in zip(self._fitted, self._numbers, strict=True):
            fitted.observe(layer.of(numbers))

    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """The smallest difference, and the difference of each round's guesses of its model."""
        ways = {"smallest difference": smallest_difference(self._gram, *self._numbers)}
        older, newer = (fitted.weights() for fitted in self._fitted)
        for how in older.keys() & newer.keys():
            weights = np.zeros(len(self._gram))
            weights[self._numbers[0]], weights[self._numbers[1]] = -older[how], newer[how]
            ways[f"{how} in each round"] = weights
        for how in sorted(ways):
            yield Estimate(how, combined(layer, ways[how]), noisy=True, between=self._rounds)


ATTACK = Attack(
    "between rounds",
    "subtract the copies of one round from those of the next: the model and the offset cancel, and"
    " the update in between is left",
    "our own; the differences of published models reveal updates as in arXiv 1912.07942",
    lambda pool: _BetweenRounds(pool) if len(set(pool.rounds)) == 2 else None,
)
