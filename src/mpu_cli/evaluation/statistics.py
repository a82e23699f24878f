"""Intervals by resampling rows, areas under ROC curves, and the equivalence test: every function works on arrays (…, n)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def auc(members: Array, others: Array) -> Array:
    """The chance that a member scores *lower* than another, ties half: (…, n), (…, h) → (…).

    The area under the ROC curve of a test that calls low scores members (Mann and Whitney 1947); scores are losses.
    """
    n, h = members.shape[-1], others.shape[-1]
    ranks = rankdata(np.concatenate([members, others], axis=-1), axis=-1)
    above = ranks[..., n:].sum(axis=-1) - h * (h + 1) / 2
    return np.asarray(above / (n * h))


def resampled(columns: Mapping[str, int], seed: int, resamples: int = RESAMPLES) -> dict[str, NDArray[np.int64]]:
    """Row numbers drawn with replacement, (resamples, n) for each set of n rows: the same for the same seed and sizes."""
    return {name: np.random.default_rng([seed, *name.encode()]).integers(0, n, (resamples, n)) for name, n in columns.items()}


def interval(draws: Array, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of resampled values: Efron's percentile interval. A resample without a value does not count."""
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


FEWEST = 6
"""Rows that a verdict needs: of fewer, all differ in the same direction by chance more often than one time in twenty."""
EQUIVALENT, DIFFERENT, UNDECIDED = "equivalent", "different", "not enough data"


def equivalence(draws: Array, margin: float | None, level: float = LEVEL) -> str:
    """Two one-sided tests of a difference's resampled values at level 1 − `level` (Schuirmann 1987).

    Equivalent: the interval of level 2·`level` − 1 (90 %) lies within ± margin (no margin allows no difference at all).
    Different: it is not, and the interval of `level` leaves out zero. Otherwise the rows are too few to tell.
    """
    low, high = interval(draws, 2 * level - 1)
    if (low == high == 0) if not margin else (-margin < low and high < margin):
        return EQUIVALENT
    low, high = interval(draws, level)
    return DIFFERENT if low > 0 or high < 0 else UNDECIDED


def harmonic_mean(parts: list[Array]) -> Array:
    """Of positive numbers, entry by entry; 0 where one of them is 0."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    with np.errstate(divide="ignore"):
        return np.asarray(len(parts) / (1 / stacked).sum(axis=0))
