"""AdamW: algorithm 2 of its paper."""

from __future__ import annotations

import numpy as np
from optimizer_cases import OptimizerCase, adam

from mpu_cli.training import optimizers


def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Each entry is divided by its own size."""
    return adam(gradients, lambda square: square)


CASE = OptimizerCase(rule)


def test_it_is_not_smooth() -> None:
    """Its size of a step does not follow the gradient, so copies do not cancel."""
    assert not optimizers.get("adamw").smooth
