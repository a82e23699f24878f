"""Intervals over seeds, each with its own draw of the noise: shared, not a benchmark.

The unit is the seed: it decides the order of the rows, and the draws that belong to it decide the
noise. A noisy run is compared with the noise-free run of its own seed; several draws of one seed,
and several methods, are averaged within the seed first, so that the seeds are independent. Over the
seeds the interval is Student's t, so it covers seeds and draws. Methods are those of the table and
no sample of others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.special import stdtrit

from mpu_cli.evaluation.statistics import Bounds

HOLDS, DOES_NOT_HOLD, NOT_DECIDED = "holds", "does not hold", "not decided by this data"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds."""

    mean: float
    seeds: int
    error: float | None
    """Standard error; None with fewer than two seeds."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """The mean of independent values, one for each seed.

        Raises:
            ValueError: there is none.
        """
        if not values:
            raise ValueError("no values")
        count = len(values)
        return cls(fmean(values), count, stdev(values) / count**0.5 if count > 1 else None)

    def interval(self, level: float = 0.95, tests: int = 1) -> tuple[float, float]:
        """Student's t interval; with several tests, their joint level is at least `level`.

        Bonferroni: each has (1 − level) / tests. Without limits if there is only one seed.
        """
        if self.error is None:
            return -math.inf, math.inf
        tail = (1 - level) / 2 / tests
        half = float(stdtrit(self.seeds - 1, 1 - tail)) * self.error
        return self.mean - half, self.mean + half

    def bounds(self) -> Bounds:
        """As `evaluation.statistics.verdict` reads them: 95 %, and 90 % for two one-sided tests."""
        return Bounds(self.interval(0.95), self.interval(0.90))


def below(estimate: Estimate, limit: float) -> str:
    """Whether a mean is below a limit, by one-sided tests at 5 % (the 90 % interval's ends)."""
    low, high = estimate.interval(0.90)
    return HOLDS if high < limit else DOES_NOT_HOLD if low > limit else NOT_DECIDED


def over_seeds(groups: Iterable[Mapping[int | None, Sequence[float]]]) -> Estimate:
    """The mean of groups (methods, say): draws within a seed first, then groups, then seeds.

    Only seeds that every group has count.

    Args:
        groups: for each group the values of each seed's draws.
    """
    found = list(groups)
    shared = set.intersection(*(set(group) for group in found)) if found else set()
    return Estimate.of(
        [fmean(fmean(group[seed]) for group in found) for seed in sorted(shared, key=str)]
    )
