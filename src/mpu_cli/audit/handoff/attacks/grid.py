"""Rounding to the number grid on which the model was stored before it got noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.attacks._attack import Attack, CopyPool, Estimate
from mpu_cli.audit.handoff.attacks._weights import FittedWeights, combined

_GRIDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class _Grid:
    """The grid is the coarsest that holds the base exactly; without a base, bfloat16 is tried."""

    def __init__(self, pool: CopyPool) -> None:
        self._pool, self._fitted = pool, FittedWeights(pool)
        self._grids = list(_GRIDS) if pool.has_base else ["bfloat16"]

    def observe(self, layer: AlignedLayer) -> None:
        """Rule out the grids that do not hold the base."""
        self._fitted.observe(layer)
        if layer.base is not None:
            self._grids = [
                grid
                for grid in self._grids
                if all(
                    torch.equal(tensor.to(_GRIDS[grid]).float(), tensor)
                    for tensor in layer.base.values()
                )
            ]

    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """The copy, or each combination of copies, rounded."""
        if not self._grids:
            return
        grid = self._grids[0]
        for how, weights in self._fitted.weights().items():
            tensors = {
                name: tensor.float().to(_GRIDS[grid]).float()
                for name, tensor in combined(layer, weights).items()
            }
            suffix = f", {how}" if self._pool.size > 1 else ""
            yield Estimate(f"rounded to {grid}{suffix}", tensors)


ATTACK = Attack(
    "grid",
    "round to the number grid of the base: what noise below half a step of it hides comes back",
    "our own; noise below half a step of the grid hides nothing",
    _Grid,
)
