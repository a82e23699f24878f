"""Which place of a copy holds which member of the anchor, from a table of scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from mpu_cli.architectures.layout import Index

ScoresOf = Callable[[Index, Index], np.ndarray]
CLEAR = 5.0
"""A match is clear if its score is this many times the RMS of the scores of all other members.

The best of thousands of unrelated members reaches about 4.
"""


@dataclass(frozen=True, slots=True)
class Matching:
    """The anchor's member at each place of the copy."""

    order: Index
    clear: int
    """Places whose match is clear."""


def settle(best: Index, scores_of: ScoresOf, clear: int) -> Matching:
    """Turn the best member of each place into a permutation.

    Args:
        best: by place, the member with the largest score.
        scores_of: scores of some places and members.
        clear: see `Matching`.
    """
    claims = np.bincount(best, minlength=len(best))
    if bool((claims == 1).all()):
        return Matching(best, clear)
    order = best.copy()
    disputed = np.flatnonzero(claims[best] > 1)
    free = np.flatnonzero(claims != 1)
    places, members = linear_sum_assignment(-scores_of(disputed, free))
    order[disputed[places]] = free[members]
    return Matching(order, clear)


def grouped(group_scores: np.ndarray, member_scores: np.ndarray) -> tuple[Index, Index]:
    """A matching of groups, and of the members inside each.

    Args:
        group_scores: (groups, groups), place by anchor.
        member_scores: (groups, size, groups, size), place by anchor.

    Returns:
        The anchor's group at each place, (groups,), and its member there, (groups, size).
    """
    groups, size = member_scores.shape[:2]
    total, inside = group_scores.astype(np.float64), np.zeros((groups, groups, size), np.int64)
    for place in range(groups):
        for group in range(groups):
            scores = member_scores[place, :, group]
            chosen = linear_sum_assignment(-scores)[1]
            inside[place, group] = chosen
            total[place, group] += scores[np.arange(size), chosen].sum()
    order = linear_sum_assignment(-total)[1]
    return order, np.stack([inside[place, group] for place, group in enumerate(order)])
