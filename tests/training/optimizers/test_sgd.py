"""SGD: the gradient."""

from __future__ import annotations

import numpy as np
from optimizer_cases import OptimizerCase


def rule(name: str, gradients: list[np.ndarray]) -> np.ndarray:
    """The last gradient: θ − lr · (g + decay · θ)."""
    return gradients[-1]


CASE = OptimizerCase(rule, rate=2e-2, round_rate=0.03)
