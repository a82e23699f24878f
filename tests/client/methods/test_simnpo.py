"""SimNPO: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

import numpy as np
from method_cases import MethodCase, Values, World, log_sigmoid, retained


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Row means, no reference; the margin stands outside β."""
    terms = [
        -2 / p["beta"] * log_sigmoid(p["beta"] / len(row.y) * row.nll.sum() - p["delta"])
        for row in now.forget
    ]
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)


CASE = MethodCase(
    formula,
    published={"beta": 4.5, "delta": 0.0, "gamma": 0.125, "alpha": 1.0, "retain_loss": "NLL"},
    sensitive={"delta": 0.5},
)
