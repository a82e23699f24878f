"""Wiener's filter in the directions of the base's activations.

A gradient step on a matrix W adds multiples of its inputs x, so a task vector lies where the inputs
are large. The attacker runs the base on texts, turns each matrix of (copy − base) into the
eigenvectors of E[xxᵀ], and shrinks each direction by its own signal-to-noise ratio.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.attacks._attack import Attack, Estimate
from mpu_cli.audit.handoff.attacks._residual import on_base, residual
from mpu_cli.audit.handoff.attacks._weights import FittingAttacker

_FLOORS = {
    "the weakest tenth of directions": (0.1, 1.0),
    "the emptiest directions": (0.0, 1.0),
    "the emptiest directions, half of it": (0.0, 0.5),
    "the emptiest directions, a fifth of it": (0.0, 0.2),
}
"""How the noise's variance is read: the mean energy of the directions with the smallest
activations, or the smallest energies, whatever their activations; and the share of it that is
taken for noise, because a task vector can only raise it."""
_EMPTIEST = 0.02
"""The share of directions that count as emptiest: a smallest one alone would be chance."""


class _ActivationWiener(FittingAttacker):
    def estimates(self, layer: AlignedLayer) -> Iterator[Estimate]:
        """One for each way to read the noise."""
        moved = residual(layer, self._fitted)
        turned = {name: _turned(layer, moved, name) for name in layer.directions if name in moved}
        if not turned:
            return
        energies = {name: tensor.square().mean(dim=0) for name, tensor in turned.items()}
        for how, (weakest, share) in _FLOORS.items():
            noise = share * min(_floor(energy, weakest) for energy in energies.values())

            def shrink(name: str, noise: float = noise) -> torch.Tensor | None:
                if name not in turned:
                    return None
                kept = (1 - noise / energies[name].clamp(min=1e-300)).clamp(min=0)
                return _back(layer, moved, name, turned[name] * kept)

            yield Estimate(
                f"noise read from {how}", on_base(layer, moved, shrink, noise), noisy=True
            )


def _turned(layer: AlignedLayer, moved: Tensors, name: str) -> torch.Tensor:
    """(outputs, directions), the direction with the smallest activations first, float64."""
    directions = layer.directions[name]
    matrix = moved[name] if directions.inputs_last else moved[name].T
    return matrix @ directions.vectors.double()


def _back(layer: AlignedLayer, moved: Tensors, name: str, turned: torch.Tensor) -> torch.Tensor:
    directions = layer.directions[name]
    matrix = turned @ directions.vectors.double().T
    return matrix if directions.inputs_last else matrix.T


def _floor(energy: torch.Tensor, weakest: float) -> float:
    """The noise's variance, from the energy of each direction."""
    if weakest:
        return float(energy[: max(1, int(weakest * len(energy)))].mean())
    return float(energy.sort().values[: max(1, int(_EMPTIEST * len(energy)))].mean())


ATTACK = Attack(
    "activation Wiener",
    "shrink (copy − base) by its signal-to-noise ratio in each direction of the base's activations,"
    " on texts that a copy wrote or that were given",
    "Wiener's filter; that fine-tuning moves weights along large activations is common knowledge",
    lambda pool: _ActivationWiener(pool) if pool.has_base else None,
)
