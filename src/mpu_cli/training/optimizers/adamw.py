"""AdamW: the optimizer of MPU's paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mpu_cli.training.optimizers import Groups, optimizer


@optimizer(
    source="Loshchilov and Hutter 1711.05101, algorithm 2; torch.optim.AdamW",
    smooth=False,
    sharded=True,
)
def build(groups: Groups, learning_rate: float, config: Mapping[str, Any]) -> torch.optim.Optimizer:
    """β = (0.9, 0.999), ε = 1e-8; not smooth, because each entry has its own second moment."""
    # The fused kernel reads each tensor once; the default loop on a CPU reads it about ten times.
    fused = all(
        parameter.device.type in ("cpu", "cuda")
        for group in groups
        for _, parameter in group["params"]
    )
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=fused)
