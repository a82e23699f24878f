"""SatImp: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

import numpy as np
from method_cases import MethodCase, Values, World, retained, token_mean


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Ascent weighted by p^β1 (1 − p)^β2."""
    terms = []
    for row, fixed in zip(now.forget, start.forget, strict=True):
        probability = np.exp(-fixed.nll)
        terms.append(probability ** p["beta1"] * (1 - probability) ** p["beta2"] * row.nll)
    return -p["gamma"] * token_mean(terms) + retained(now, before, p)


CASE = MethodCase(
    formula,
    published={"beta1": 5.0, "beta2": 1.0, "gamma": 1.0, "alpha": 0.1, "retain_loss": "NLL"},
    training={"gamma": 20},  # its weights are small on rows that a model knows by heart
    weighted=True,
)
