"""Areas under ROC curves, harmonic means, confidence bounds from weighted rows, and verdicts."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LEVEL = 0.95
FEWEST = 20
"""Rows that a verdict needs; benchmarks/interval_errors.py measured error rates from here on."""
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
    """The share of others above each member, (n,), and of members below each other row, (h,).

    The mean of either is the area; they are its influence function (DeLong, DeLong and
    Clarke-Pearson 1988).
    """
    n, h = len(members), len(others)
    ranks = _ranks(np.concatenate([members, others]))
    return 1 - (ranks[:n] - _ranks(members)) / h, (ranks[n:] - _ranks(others)) / n


def harmonic_mean(parts: list[Array]) -> Array:
    """The harmonic mean of positive numbers, entry by entry; 0 where one of them is 0."""
    stacked = np.stack(np.broadcast_arrays(*parts))
    with np.errstate(divide="ignore"):
        return np.asarray(len(parts) / (1 / stacked).sum(axis=0))


@dataclass(frozen=True, slots=True)
class Bounds:
    """Two confidence intervals of one number."""

    wide: tuple[float, float]
    """95 %."""
    narrow: tuple[float, float]
    """90 %, which two one-sided tests at 5 % use."""


@dataclass(frozen=True, slots=True)
class Resampled:
    """A number under random weightings of the rows, with the unseen row at either limit."""

    ends: tuple[Array, Array]
    """(draws,) with the unseen row at one limit, and at the other; the number decides which is
    lower."""

    def bounds(self) -> Bounds | None:
        """Gaffke's bounds (see `weighted`), each from the outer end; None if a value is missing."""
        low, high, tail = np.minimum(*self.ends), np.maximum(*self.ends), (1 - LEVEL) / 2
        if np.isnan(low).any():
            return None
        # "hazen" because the unseen row's weights lie in the middle of equal steps.
        lows, highs = (
            np.quantile(end, tails, method="hazen")
            for end, tails in ((low, [tail, 2 * tail]), (high, [1 - tail, 1 - 2 * tail]))
        )
        return Bounds((float(lows[0]), float(highs[0])), (float(lows[1]), float(highs[1])))


def rate_interval(rows: Array) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval (1934) of the share of ones in (n,) 0s and 1s."""
    from scipy.special import betaincinv  # takes 0.2 s, and only sampled answers have such rows

    ones, zeros, tail = int(rows.sum()), len(rows) - int(rows.sum()), (1 - LEVEL) / 2
    low = float(betaincinv(ones, zeros + 1, tail)) if ones else 0.0
    high = float(betaincinv(ones + 1, zeros, 1 - tail)) if zeros else 1.0
    return low, high


def student_interval(values: Array) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of (n,) values that are about normal, such as one a seed.

    None for fewer than two. Rows need `Resampled`: they are not normal.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit  # as above

    quantile = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2))
    half = quantile * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def _ranks(values: Array) -> Array:
    """Ranks from 1 along the last axis; ties have the mean of their ranks.

    As scipy.stats.rankdata, whose import takes 0.75 s.
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
    """What the rows say about a difference; a dash if nothing is known about it.

    Equivalent: two one-sided tests at 5 % put it within ± margin (Schuirmann 1987), that is, the
    90 % interval lies within. Different: it is not equivalent, and the 95 % interval excludes zero.
    """
    if difference is None:
        return "–"
    if margin is not None and -margin < difference.narrow[0] and difference.narrow[1] < margin:
        return EQUIVALENT
    if difference.wide[0] > 0 or difference.wide[1] < 0:
        return DIFFERENT
    return UNDECIDED if margin is not None else NO_MARGIN


def rows_needed(margin: float, span: float = 1.0) -> int:
    """The fewest rows that show a difference within the margin if every row's difference is 0.

    Of n rows without a difference, up to 1 − .05^(1/n) of all rows could differ, by `span` at most
    (Clopper and Pearson's bound at 0 of n).
    """
    if margin >= span:
        return FEWEST
    return max(FEWEST, math.floor(math.log(1 - LEVEL) / math.log1p(-margin / span)) + 1)
