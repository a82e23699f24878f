"""Several copies, combined so that their noise cancels."""

from __future__ import annotations

from collections.abc import Iterator

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import Attack, Estimate
from mpu_cli.audit.handoff.attacks._weights import FittingAttacker, combined


class _Pooling(FittingAttacker):
    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """One for each way to find the weights."""
        for how, weights in self._fitted.weights().items():
            yield Estimate(how, combined(layer, weights), noisy=True)


ATTACK = Attack(
    "pooling",
    "combine copies with weights that cancel their noise: least squares for secret weights, the"
    " default α or nodes in the best order, α from the distances of the copies",
    "least squares as in linear regression through the base; zero-sum noise is arXiv 2602.23798",
    lambda pool: _Pooling(pool) if pool.size > 1 else None,
)
