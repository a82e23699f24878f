"""Areas under ROC curves and their placements, harmonic means, confidence bounds from weighted rows, and the verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES = 10_000
FEWEST = 20
"""Rows that a verdict needs: the error rates were measured from here on (benchmarks/interval_errors.py)."""
EQUIVALENT, DIFFERENT, UNDECIDED, NO_MARGIN = (
    "equivalent",
    "different",
    "not enough data",
    "no margin",
)


def auc(members: Array, others: Array) -> Array:
    """The chance that a member scores *lower* than another, ties half: (…, n), (…, h) → (…).

    The area under the ROC curve of a test that calls low scores members (Mann and Whitney 1947);
    scores are losses.
    """
    n, h = members.shape[-1], others.shape[-1]
    ranks = _ranks(np.concatenate([members, others], axis=-1))
    above = ranks[..., n:].sum(axis=-1) - h * (h + 1) / 2
    return np.asarray(above / (n * h))


def placements(members: Array, others: Array) -> tuple[Array, Array]:
    """Each member's share of others that score higher, (n,), and each other's share of members that score lower, (h,).

    The mean of either is the area, and they are its influence function: DeLong, DeLong and
    Clarke-Pearson 1988.
    """
    n, h = len(members), len(others)
    ranks = _ranks(np.concatenate([members, others]))
    return 1 - (ranks[:n] - _ranks(members)) / h, (ranks[n:] - _ranks(others)) / n


def harmonic_mean(parts: list[Array]) -> Array:
    """Of positive numbers, entry by entry; 0 where one of them is 0."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    with np.errstate(divide="ignore"):
        return np.asarray(len(parts) / (1 / stacked).sum(axis=0))


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is known of a number.

    A 95 % interval, and the 90 % one that two one-sided tests at 5 % look at.
    """

    wide: tuple[float, float]
    narrow: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Draws:
    """A number under many random weightings of the rows, with an unseen row at either end of what is possible: (draws,) each."""

    ends: tuple[Array, Array]
    """With the unseen row at one end, and at the other.

    Which of them is lower depends on the number.
    """

    def bounds(self) -> Bounds | None:
        """Gaffke's (see `weighted`), each of the end that lies further out.

        None where a draw has no value.
        """
        low, high, tail = np.minimum(*self.ends), np.maximum(*self.ends), (1 - LEVEL) / 2
        if np.isnan(low).any():
            return None
        # The draws of the unseen row's weight lie in the middle of equal steps, which is how this
        # rule reads them.
        lows, highs = (
            np.quantile(end, each, method="hazen")
            for end, each in ((low, [tail, 2 * tail]), (high, [1 - tail, 1 - 2 * tail]))
        )
        return Bounds((float(lows[0]), float(highs[0])), (float(lows[1]), float(highs[1])))


def rate_interval(rows: Array) -> tuple[float, float]:
    """Of the share of ones among zeros and ones, (n,).

    Clopper and Pearson's exact 95 % interval (1934).
    """
    from scipy.special import betaincinv  # 0.2 s, and only sampled answers have such rows

    ones, zeros, tail = int(rows.sum()), len(rows) - int(rows.sum()), (1 - LEVEL) / 2
    low = float(betaincinv(ones, zeros + 1, tail)) if ones else 0.0
    high = float(betaincinv(ones + 1, zeros, 1 - tail)) if zeros else 1.0
    return low, high


def _ranks(values: Array) -> Array:
    """From 1 along the last axis, ties the mean of theirs.

    scipy.stats.rankdata, whose import takes three quarters of a second.
    """
    ordered = np.sort(values, axis=-1).reshape(-1, values.shape[-1])
    rows = values.reshape(ordered.shape)
    below, up_to = (
        np.stack(
            [np.searchsorted(line, row, side) for line, row in zip(ordered, rows, strict=True)]
        )
        for side in ("left", "right")
    )
    return np.asarray((below + up_to + 1) / 2).reshape(values.shape)


def verdict(difference: Bounds | None, margin: float | None) -> str:
    """What the rows say of a difference; a dash where nothing is known of it.

    Equivalent: two one-sided tests at 5 % put it within ± margin (Schuirmann 1987), that is, the 90
    % interval lies within. Different: not so, and the 95 % interval leaves out zero.
    """
    if difference is None:
        return "–"
    if margin is not None and -margin < difference.narrow[0] and difference.narrow[1] < margin:
        return EQUIVALENT
    if difference.wide[0] > 0 or difference.wide[1] < 0:
        return DIFFERENT
    return UNDECIDED if margin is not None else NO_MARGIN


def rows_needed(margin: float, span: float = 1.0) -> int:
    """The fewest rows with which a difference of 0 in every row is shown to lie within the margin.

    Of n rows without a difference, up to 1 − .05^(1/n) of all rows could differ, by `span` at most
    (Clopper and Pearson's bound at 0 of n).
    """
    if margin >= span:
        return FEWEST
    return max(FEWEST, math.floor(math.log(1 - LEVEL) / math.log1p(-margin / span)) + 1)
