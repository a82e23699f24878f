"""Adafactor with an absolute learning rate: row and column second moments, so its update is smooth in the gradient."""

from __future__ import annotations

from typing import Any

import torch

from mpu_cli.training.optimizers import optimizer


@optimizer(source="Shazeer and Stern 1804.04235, algorithm 4; transformers.optimization.Adafactor", smooth=True)
def build(groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Matrices are normalised by row and column, vectors by entry; update clipping at RMS 1, no first moment.

    torch.optim.Adafactor is another optimizer: it multiplies the learning rate by RMS(θ).
    """
    from transformers import optimization

    adafactor: Any = optimization.Adafactor
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False}
    built: torch.optim.Optimizer = adafactor(groups, lr=learning_rate, **fixed)
    return built
