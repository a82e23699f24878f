"""Means with 95 % t intervals, and one curve read at a level of the other.

Shared by benchmarks, not one itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, stdev

# Two-sided 95 % quantiles of Student's t by degrees of freedom; 1.96 beyond is a little too narrow,
# and is not needed.
_T = (
    12.706,
    4.303,
    3.182,
    2.776,
    2.571,
    2.447,
    2.365,
    2.306,
    2.262,
    2.228,
    2.201,
    2.179,
    2.160,
    2.145,
    2.131,
    2.120,
    2.110,
    2.101,
    2.093,
    2.086,
    2.080,
    2.074,
    2.069,
    2.064,
    2.060,
    2.056,
    2.052,
    2.048,
    2.045,
    2.042,
)


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """The mean and half the width of its 95 % t interval; None with fewer than two values."""
    half = None
    if len(values) > 1:
        half = _T[min(len(values) - 1, len(_T)) - 1] * stdev(values) / len(values) ** 0.5
    return {"mean": fmean(values), "half": half, "n": len(values)}


def shown(found: dict[str, float | None] | None, digits: int = 3) -> str:
    """`mean ± half`, or a dash."""
    if found is None:
        return "–"
    half = "" if found["half"] is None else f" ±{found['half']:.{digits}f}"
    return f"{found['mean']:.{digits}f}{half}"


def read_at(level: float, points: Sequence[tuple[float, float]]) -> float | None:
    """The y of a curve where its x first falls to `level`, linear between points.

    None if it never does.

    Args:
        level: below the first point's x.
        points: (x, y) along the curve, for example by rising learning rate from the untrained model
            on.
    """
    for (x, y), (next_x, next_y) in pairwise(points):
        if next_x <= level < x:
            share = (x - level) / (x - next_x)
            return y + share * (next_y - y)
    return None
