"""What is shrunk: the best combination of a pool's copies, minus the base."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mpu_cli.audit.handoff.aligned import AlignedLayer
from mpu_cli.audit.handoff.alignment.products import Tensors
from mpu_cli.audit.handoff.attacks._weights import FittedWeights, combined

SMALLEST_SIDE = 16
"""A matrix with fewer rows or columns has no spectrum worth the name: it is shrunk as one."""


def residual(layer: AlignedLayer, fitted: FittedWeights) -> dict[str, torch.Tensor]:
    """(Least-squares combination − base) of a layer that has a base, float64, by name.

    It is the task vector plus noise, whose variance is the same in all tensors of a layer.
    """
    assert layer.base is not None
    whole = combined(layer, fitted.weights()["least squares"])
    return {name: tensor - layer.base[name].double() for name, tensor in whole.items()}


def shrunk_as_one(tensor: torch.Tensor, variance: float) -> torch.Tensor:
    """The tensor times one factor: Wiener's, for noise of this variance."""
    size = float(tensor.square().mean())
    return tensor * (max(0.0, 1 - variance / size) if size else 0.0)


def on_base(
    layer: AlignedLayer, moved: Tensors, shrink: Callable[[str], torch.Tensor | None], noise: float
) -> dict[str, torch.Tensor]:
    """Base + shrunk residual; a tensor for which `shrink` has nothing is shrunk as one."""
    assert layer.base is not None
    guess = {}
    for name, tensor in moved.items():
        special = shrink(name)
        shrunk = shrunk_as_one(tensor, noise) if special is None else special
        guess[name] = layer.base[name].double() + shrunk
    return guess
