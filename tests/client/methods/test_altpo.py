"""AltPO: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

from method_cases import MethodCase, Values, World, preferred


def formula(now: World, before: World, start: World, p: Values) -> float:
    """The loss of DPO; the alternates come from the model."""
    return preferred(now, before, p)


CASE = MethodCase(
    formula,
    published={"beta": 0.1, "gamma": 1.0, "alpha": 1.0, "retain_loss": "NLL"},
)
