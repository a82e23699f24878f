"""NPO: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

import numpy as np
from method_cases import MethodCase, Values, World, log_sigmoid, retained


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Row sums against the reference's."""
    pairs = zip(now.forget, before.forget, strict=True)
    terms = [
        -2 / p["beta"] * log_sigmoid(p["beta"] * (row.nll.sum() - ref.nll.sum()))
        for row, ref in pairs
    ]
    return p["gamma"] * float(np.mean(terms)) + retained(now, before, p)


CASE = MethodCase(
    formula,
    published={"beta": 0.1, "gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"},
)
