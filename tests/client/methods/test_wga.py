"""WGA: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

import numpy as np
from method_cases import MethodCase, Values, World, retained, token_mean


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Ascent weighted by p^β."""
    pairs = zip(now.forget, start.forget, strict=True)
    terms = [np.exp(-fixed.nll) ** p["beta"] * row.nll for row, fixed in pairs]
    return -p["gamma"] * token_mean(terms) + retained(now, before, p)


CASE = MethodCase(
    formula,
    published={"beta": 1.0, "gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"},
    weighted=True,
)
