"""Adam-mini: one second moment for each head, row or vector."""

from __future__ import annotations

import numpy as np
import pytest
from optimizer_cases import RATE, SIZE, OptimizerCase, adam

from mpu_cli.errors import BadModelError
from mpu_cli.training import optimizers


def mean(name: str, square: np.ndarray) -> np.ndarray:
    """Over a head of q, k and v, a row of other matrices and experts, a vector."""
    if square.ndim == 1:
        return np.full_like(square, square.mean())
    rows = square.mean(-1, keepdims=True)
    if any(f".{role}_proj." in name for role in "qkv"):
        rows = np.repeat(rows.reshape(-1, SIZE).mean(1), SIZE)[:, None]
    return np.broadcast_to(rows, square.shape)


def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """Adam with these means for the second moments."""
    return adam(gradients, lambda square: mean(name, square))


CASE = OptimizerCase(rule)


def test_adam_mini_refuses_a_model_whose_heads_it_does_not_know() -> None:
    """An unknown model_type is bad input that names the flag."""
    with pytest.raises(BadModelError, match="--optimizer adam-mini: unknown model_type 'nobody'"):
        optimizers.get("adam-mini").build([], RATE, {"model_type": "nobody"})
