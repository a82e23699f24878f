"""Random weights of the rows, with one for a row that was not seen: the source of all intervals.

The upper bound of a mean whose rows lie in [a, b] is the 97.5 % quantile of Σ w_i x_i + w_0 b, with
weights (w_0, …, w_n) uniform on the simplex; the lower bound is the 2.5 % quantile with a in place
of b (Gaffke 2005; Learned-Miller and Thomas, arXiv 1905.06208). This is the Bayesian bootstrap
(Rubin 1981) with one more row, at the limit. For rows that are 0 or 1 it is Clopper and Pearson's
exact bound; for n equal rows it says that up to 1 − α^(1/n) of all rows could differ; for many rows
it is as wide as Student's. That it covers for every distribution is conjectured, not proved, beyond
these cases; benchmarks/interval_errors.py measures it.

An area under a ROC curve is a mean of placements (DeLong 1988) over members and over others. Both
are weighted, and the smaller set has the unseen row. If the area is θ, all pairs of n rows are in
order with probability at most θ^n, which gives the bound at an area of 1; the rest is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from mpu_cli.evaluation.columns import Columns
from mpu_cli.evaluation.metrics import row_metrics
from mpu_cli.evaluation.statistics import Array, placements

_BLOCK = 2**21
"""Weights in memory at a time for each set (16 MiB)."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Weights:
    """Random weights of one set of n rows."""

    rows: Array
    """(draws, n), uniform on the simplex: each draw sums to 1."""
    uniform: Array
    """(draws,), evenly spaced in (0, 1), in random order."""

    def unseen(self, rows: int) -> Array:
        """The weight of the unseen row beside so many rows, (draws,): Beta(1, rows)."""
        return np.asarray(-np.expm1(np.log(self.uniform) / rows))


def draw_weights(sizes: Mapping[str, int], seed: int, draws: int) -> Iterator[dict[str, Weights]]:
    """Weights for each set, in blocks of draws; seed, name and size decide them.

    Args:
        sizes: rows by set.
        seed: of the random numbers.
        draws: how many weightings in total.
    """
    sources = {name: np.random.default_rng([seed, *name.encode()]) for name in sizes}
    uniform = {name: (source.permutation(draws) + 0.5) / draws for name, source in sources.items()}
    step = max(1, _BLOCK // max(sizes.values(), default=1))
    for start in range(0, draws, step):
        stop = min(start + step, draws)
        block = {}
        for name, size in sizes.items():
            rows = sources[name].standard_exponential((stop - start, size))
            rows /= rows.sum(axis=1, keepdims=True)
            block[name] = Weights(rows, uniform[name][start:stop])
        yield block


@dataclass(frozen=True, slots=True)
class WeightedColumns(Columns):
    """Columns whose means and areas are arrays (draws,), with the unseen row at one limit."""

    weights: Mapping[str, Weights] = field(default_factory=dict)
    seen: dict[object, Array] = field(default_factory=dict)
    """Means and areas of the rows without the unseen one, (draws,); both limits share them."""
    high: bool = True
    """Whether the unseen row lies at the upper limit."""

    def average(self, key: tuple[str, str]) -> Array:
        """The mean under each weighting, (draws,); NaN if it has no bounds (`_bounded`)."""
        weights = self.weights[key[0]]
        if key not in self.seen:
            return np.full(len(weights.uniform), np.nan)
        unseen = weights.unseen(int((~np.isnan(self.values[key])).sum()))
        return self._with_unseen(self.seen[key], unseen, _limits(key[1]))

    def area_between(self, members: tuple[str, str], others: tuple[str, str]) -> Array:
        """The area under each weighting, (draws,); NaN if one set has a single row."""
        inside, outside = self.weights[members[0]], self.weights[others[0]]
        n, h = inside.rows.shape[1], outside.rows.shape[1]
        if min(n, h) < 2:
            return np.full(len(inside.uniform), np.nan)
        if (members, others) not in self.seen:
            of_members, of_others = placements(self.values[members], self.values[others])
            area = inside.rows @ of_members + outside.rows @ of_others - of_members.mean()
            self.seen[members, others] = np.clip(area, 0, 1)
        unseen = inside.unseen(n) if n <= h else outside.unseen(h)
        return self._with_unseen(self.seen[members, others], unseen, (0.0, 1.0))

    def _with_unseen(self, seen: Array, unseen: Array, limits: tuple[float, float]) -> Array:
        return np.asarray(seen + unseen * (limits[int(self.high)] - seen))


def both_ends(
    view: Columns, weights: Mapping[str, Weights]
) -> tuple[WeightedColumns, WeightedColumns]:
    """The columns with the unseen row at the lower and at the upper limit.

    In the retain record it lies at the opposite limit.
    """
    low, high = _ends(view, weights, _means(view, weights))
    if view.retain_record is not None:
        other_low, other_high = _ends(view.retain_record, weights, {})
        low, high = replace(low, retain_record=other_high), replace(high, retain_record=other_low)
    return low, high


def _ends(
    view: Columns, weights: Mapping[str, Weights], seen: dict[object, Array]
) -> tuple[WeightedColumns, WeightedColumns]:
    plain: dict[str, Any] = {
        part.name: getattr(view, part.name)
        for part in fields(Columns)
        if part.name != "retain_record"
    }
    low = WeightedColumns(**plain, retain_record=None, weights=weights, seen=seen, high=False)
    return low, replace(low, high=True)


def _means(view: Columns, weights: Mapping[str, Weights]) -> dict[object, Array]:
    """The mean of every column that has bounds, under each weighting, (draws,).

    All columns of a set are one product of matrices.
    """
    means_by_key: dict[object, Array] = {}
    for name, own in weights.items():
        keys = [
            key
            for key, values in view.values.items()
            if key[0] == name and _bounded(key[1], values)
        ]
        if not keys:
            continue
        columns = np.stack([view.values[key] for key in keys])
        known = ~np.isnan(columns)
        means = np.where(known, columns, 0.0) @ own.rows.T
        if not known.all():
            means /= known.astype(np.float64) @ own.rows.T
        # Weights sum to 1 only up to rounding, and no interval may leave the limits.
        lows, highs = np.array([_limits(metric) for _, metric in keys]).T
        means_by_key |= dict(zip(keys, np.clip(means, lows[:, None], highs[:, None]), strict=True))
    return means_by_key


def _bounded(name: str, values: Array) -> bool:
    """Whether two rows or more have a number, and all numbers lie within the metric's limits."""
    numbers = values[~np.isnan(values)]
    if name.partition("@")[0] not in row_metrics() or len(numbers) < 2:
        return False
    low, high = _limits(name)
    return bool(numbers.min() >= low - _ROUNDING and numbers.max() <= high + _ROUNDING)


def _limits(name: str) -> tuple[float, float]:
    return row_metrics()[name.partition("@")[0]].limits
