"""GradAscent: the paper's formula in numpy, and the published defaults."""

from __future__ import annotations

from method_cases import MethodCase, Values, World, token_mean


def formula(now: World, before: World, start: World, p: Values) -> float:
    """Minus the mean loss of a forget token."""
    return -p["gamma"] * token_mean([row.nll for row in now.forget])


CASE = MethodCase(
    formula,
    published={"gamma": 1.0},
)
