"""Plain stochastic gradient descent: the update is the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mpu_cli.training.optimizers import Groups, optimizer


@optimizer(
    source="Robbins and Monro 1951; torch.optim.SGD",
    smooth=True,
    sharded=True,
    commutes_with_rotations=True,
)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """No momentum, so torch's weight decay is decoupled; rates are near 0.1, not AdamW's 1e-5."""
    return torch.optim.SGD(groups, lr=learning_rate)
