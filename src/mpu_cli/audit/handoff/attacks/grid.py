"""Rounding to the number grid on which the model was stored before it got noise.

The grid is the coarsest that holds the base exactly. A fine-tune in bfloat16 of a float32 base has
a grid that its base does not have; then the grid must show in the copies. With steps s and noise σ
the mean of cos(2π·copy/s) over the entries is exp(−2π²σ²/s²), and without a grid it is 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import pi, sqrt

import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.attacks._attack import Attack, CopyPool, Estimate
from mpu_cli.audit.handoff.attacks._weights import FittingAttacker, combined
from mpu_cli.checkpoint.dtypes import grid_step
from mpu_cli.checkpoint.header import STORED_NAMES

_GRIDS = {"bfloat16": torch.bfloat16, "float16": torch.float16}
_HELPS = 3.5
"""Rounding noise of size σ to steps above 3.5 σ leaves less than σ."""
_CLEAR = 6.0
"""Standard deviations by which the mean of cos(2π·copy/s) must exceed 0."""
_NOISE = (0.1, 0.2, 0.3, 0.45, 0.6, 0.7, 0.8)
"""Shares of (copy − base) that may be noise."""


class _Grid(FittingAttacker):
    """Of the grids that hold the base the coarsest counts; without a base, bfloat16 is tried."""

    def __init__(self, pool: CopyPool) -> None:
        super().__init__(pool)
        self._pool = pool
        self._grids = list(_GRIDS) if pool.has_base else ["bfloat16"]
        self._looked = False

    def observe(self, layer: AlignedLayer) -> None:
        """Rule out the grids that do not hold the base."""
        super().observe(layer)
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
        if not self._grids and not self._looked:
            self._looked = True  # in the first layer; all layers must have the same estimates
            self._grids = self._shown(layer)
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
        if layer.base is not None:
            yield from self._where_it_helps(layer, layer.base, grid)

    def _shown(self, layer: AlignedLayer) -> list[str]:
        """The grids that show in a copy or in a combination of copies."""
        found = set()
        for weights in self._fitted.weights().values():
            guess = combined(layer, weights)
            found |= {grid for grid in _GRIDS if shows(guess.values(), grid)}
        return [grid for grid in _GRIDS if grid in found]

    def _where_it_helps(self, layer: AlignedLayer, base: Tensors, grid: str) -> Iterator[Estimate]:
        """The linear estimate, rounded where the step exceeds the noise that may be left in it.

        The noise is tried as shares of (copy − base), the linear estimate's own among them.
        """
        whole = combined(layer, self._fitted.weights()["least squares"])
        for share in _NOISE:
            tensors = {}
            for name, tensor in whole.items():
                before = base[name].double()
                moved = tensor - before
                left = share * float(moved.square().mean().sqrt()) * (1 - share**2) ** 0.5
                guess = before + (1 - share**2) * moved
                near = guess.float().to(_GRIDS[grid]).double()
                step = grid_step(guess, STORED_NAMES[grid])
                tensors[name] = torch.where(step > _HELPS * left, near, guess)
            yield Estimate(f"rounded to {grid} where {share:g} of the change is noise", tensors)


def shows(tensors: Iterable[torch.Tensor], grid: str) -> bool:
    """Whether the entries of these matrices lie nearer to a grid's numbers than chance would."""
    total, count = 0.0, 0
    for tensor in tensors:
        values = tensor[tensor != 0].double() if tensor.ndim > 1 else tensor.new_zeros(0)
        steps = grid_step(values, STORED_NAMES[grid])
        total += float(torch.cos(2 * pi * (values / steps)).sum())
        count += len(values)
    return total > _CLEAR * sqrt(count / 2)  # the variance of a cosine is 1/2


ATTACK = Attack(
    "grid",
    "round to the number grid of the base, or one that shows in the copies: what noise below half a"
    " step of it hides comes back",
    "our own; noise below half a step of the grid hides nothing",
    _Grid,
)
