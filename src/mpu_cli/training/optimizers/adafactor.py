"""Adafactor with an absolute learning rate.

Its second moments are those of rows and columns, so its update is smooth in the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mpu_cli.training.optimizers import Groups, optimizer
from mpu_cli.training.optimizers._tensorwise import EPSILON, Tensorwise

_DECAY = -0.8
_FLOOR = 1e-30


class Adafactor(Tensorwise):
    """transformers' Adafactor for matrices and stacked experts; one moment for a vector."""

    def direction(self, name: str, gradient: Tensor, state: dict[str, Any]) -> Tensor:
        """The gradient over √v, cut to a root mean square of 1; v = R Cᵀ / mean(R) for a matrix."""
        new = state["step"] ** _DECAY  # β₂ = 1 − t^(−0.8)
        if gradient.dim() < 2:
            mean = _moving(state, "second", gradient.square().mean(), new)
            direction = gradient / (mean.sqrt() + EPSILON)
        else:
            square = gradient.square() + _FLOOR
            rows = _moving(state, "rows", square.mean(-1), new)
            columns = _moving(state, "columns", square.mean(-2), new)
            by_row = (rows / rows.mean(-1, keepdim=True)).rsqrt_().unsqueeze(-1)
            direction = gradient * by_row * columns.unsqueeze(-2).rsqrt()
        return direction / direction.square().mean().sqrt().clamp(min=1.0)


def _moving(state: dict[str, Any], key: str, value: Tensor, share: float) -> Tensor:
    """Move the average under `key` towards `value` by `share`; on the first step, to it."""
    if key not in state:
        state[key] = torch.zeros_like(value)
    average: Tensor = state[key]
    return average.mul_(1 - share).add_(value, alpha=share)


@optimizer(
    source="Shazeer and Stern 1804.04235, algorithms 4 and 5; our own, in float32", smooth=True
)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> Tensorwise:
    """Transformers' Adafactor with scale_parameter and relative_step off, except for vectors.

    transformers normalises norms and biases entry by entry, which is not smooth: training them
    leaves an error of first order in the noise. torch.optim.Adafactor differs more: it multiplies
    the learning rate by RMS(θ).
    """
    return Adafactor(groups, learning_rate)
