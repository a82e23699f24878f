"""Muon: on matrices, momentum orthogonalised by Newton–Schulz in float32; elsewhere, Adam."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mpu_cli.training.optimizers import Groups, optimizer
from mpu_cli.training.optimizers._blocks import is_embedding
from mpu_cli.training.optimizers._tensorwise import Tensorwise, adam

MOMENTUM = 0.95
STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_RMS = 0.2


class Muon(Tensorwise):
    """Muon for matrices and each expert of a stack; Adam with one v a tensor for the others."""

    def direction(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """0.2 √max(rows, columns) · orthogonalised Nesterov momentum, of RMS about 0.2."""
        if gradient.dim() not in (2, 3) or is_embedding(name) or "norm" in name:
            return adam(gradient, gradient.square().mean(), state)
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        scale: float = _RMS * max(gradient.shape[-2:]) ** 0.5
        return orthogonalised(gradient.lerp(momentum, MOMENTUM)).mul_(scale)


def orthogonalised(matrix: Tensor) -> Tensor:
    """About U V of the decomposition U S V of (…, R, C): singular values between 0.7 and 1.2.

    Five steps X ← aX + (bA + cA²) X, A = X Xᵀ, in the matrix's own precision: torch.optim.Muon
    computes in bfloat16 and differs by 3e-3 between copies of the same function. Zero stays zero.
    """
    a, b, c = COEFFICIENTS
    x: Tensor = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-20)
    for _ in range(STEPS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


@optimizer(
    source=(
        "Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; scale of Liu et al."
        " 2502.16982"
    ),
    smooth=True,
    commutes_with_rotations=True,
)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> Tensorwise:
    """Momentum 0.95, Nesterov, 5 steps, AdamW's learning rates, no weight decay by default."""
    return Muon(groups, learning_rate)
