"""Claim by claim, what the runs say and a verdict by a rule that was fixed before: not a benchmark.

Every rule is one sentence in `RULES`; the functions below do what it says and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from paper_intervals import (
    DOES_NOT_HOLD,
    HOLDS,
    NOT_DECIDED,
    Estimate,
    below,
    over_seeds,
)
from paper_runs import Run, Table

from mpu_cli.errors import BadDataError

LIMIT = 1.0
"""Degradation, in percent, that the paper calls small."""
FREE = 0.1
"""A reparameterization that changes the update by less than this share of what another order of the
rows changes is called free."""

ONE_SIDED = "by a one-sided test at 5 %; does not hold if such a test puts it above"
RULES: Mapping[str, str] = {
    "a": f"holds if the degradation at κ = .1 is below {LIMIT:g} % {ONE_SIDED}. For *most methods*"
    " it holds if it does for more than half, and does not if it does not for at least half",
    "b": "holds if some method at κ = .01 is better than its noise-free runs by more than their"
    " standard deviation over the seeds, and the improvement is above 0 by one-sided tests at 5 %"
    " for all methods together (Bonferroni); does not hold if the same tests put every method's"
    " improvement below that standard deviation",
    "c": "*several copies help* holds if the error of m copies with harmonic denoising, divided by"
    f" that of one noisy copy (geometric mean), is below 1 {ONE_SIDED}",
    "d": "*the reparameterization is free* holds if the error of an update without noise, divided"
    f" by that of another order of the rows, is below {FREE:g} {ONE_SIDED}",
    "e": "*an offset costs less than another order of the rows* holds if its error, divided by that"
    f" of another order, is below 1 {ONE_SIDED}",
    "f": "*extrapolation gains* holds if its error, divided by that of harmonic denoising"
    f" (geometric mean), is below 1 {ONE_SIDED}",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One question with its answer."""

    setting: str
    estimate: Estimate
    verdict: str


def by_seed(runs: Sequence[Run], value: Callable[[Run], float]) -> dict[int | None, list[float]]:
    """The values of each seed's draws."""
    found: dict[int | None, list[float]] = {}
    for run in runs:
        found.setdefault(run.seed, []).append(value(run))
    return found


def degradation(table: Table, run: Run) -> float:
    """How much of the noise-free run's score is lost, in percent; negative if it is better."""
    free = table.noise_free[run.baseline]
    return 100 * (free.score - run.score) / free.score


def change(table: Table, name: str) -> Callable[[Run], float]:
    """The change of `forget` or `retain` against the noise-free run, in points of 100."""

    def changed(run: Run) -> float:
        return 100 * float(getattr(run, name) - getattr(table.noise_free[run.baseline], name))

    return changed


def mean_degradation(table: Table, runs: Sequence[Run]) -> Estimate:
    """Over seeds, of the average over the methods among the runs."""
    methods = dict.fromkeys(run.method for run in runs)
    return over_seeds(
        by_seed([run for run in runs if run.method == method], lambda run: degradation(table, run))
        for method in methods
    )


def seed_spread(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    """The standard deviation over seeds; not a number with fewer than two."""
    values = [value(run) for run in runs]
    return stdev(values) if len(values) > 1 else math.nan


def spread_of_score(table: Table, method: str, variant: str = "") -> float:
    """Of the noise-free runs of a method, in percent of their mean score."""
    runs = [
        run
        for run in table.noise_free.values()
        if run.method == method and (not variant or run.variant == variant)
    ]
    return 100 * seed_spread(runs, lambda run: run.score) / fmean(run.score for run in runs)


def small_degradation(table: Table, **settings: object) -> list[Finding]:
    """Claim a: of the average over the methods, and of most of them, for each m."""
    found = []
    for copies in table.values("copies", **settings):
        runs = table.noisy(copies=copies, **settings)
        average = mean_degradation(table, runs)
        found.append(Finding(f"average, m = {copies}", average, below(average, LIMIT)))
        methods = list(dict.fromkeys(run.method for run in runs))
        if len(methods) > 1:
            words = [
                below(mean_degradation(table, [run for run in runs if run.method == name]), LIMIT)
                for name in methods
            ]
            found.append(Finding(f"most methods, m = {copies}", average, most(words)))
    return found


def most(words: Sequence[str]) -> str:
    """The verdict on "most": more than half hold; or at least half do not."""
    if 2 * words.count(HOLDS) > len(words):
        return HOLDS
    return DOES_NOT_HOLD if 2 * words.count(DOES_NOT_HOLD) >= len(words) else NOT_DECIDED


def better_than_noise_free(table: Table, **settings: object) -> list[tuple[Finding, float]]:
    """Claim b: each method's improvement in percent, with its spread; the last one is the verdict.

    The verdict's row has the method whose improvement is largest in units of its spread.
    """
    runs = [run for run in table.noisy(**settings) if run.copies > 1]
    groups = list(dict.fromkeys((run.method, run.copies) for run in runs))
    found = []
    for method, copies in groups:
        these = [run for run in runs if (run.method, run.copies) == (method, copies)]
        estimate = over_seeds([by_seed(these, lambda run: -degradation(table, run))])
        spread = spread_of_score(table, method)
        low, high = estimate.interval(0.90, tests=len(groups))
        word = NOT_DECIDED
        if low > 0 and estimate.mean > spread:
            word = HOLDS
        elif high < spread:
            word = DOES_NOT_HOLD
        found.append((Finding(f"{method}, m = {copies}", estimate, word), spread))
    return found


def some(words: Sequence[str]) -> str:
    """The verdict on "some": one holds; or none of them does."""
    if HOLDS in words:
        return HOLDS
    return DOES_NOT_HOLD if words and set(words) == {DOES_NOT_HOLD} else NOT_DECIDED


def log_ratio(
    runs: Sequence[Run], others: Sequence[Run], pair: Callable[[Run], object]
) -> Estimate | None:
    """The mean of log(error / other's error) of runs of one seed, draw and group; None if no pair.

    Args:
        runs: numerator.
        others: denominator.
        pair: what a run and its partner have in common besides seed and draw, such as the method.

    Raises:
        BadDataError: an error is 0.
    """
    partner = {(pair(run), run.seed, run.draw): logarithm(run) for run in others}
    groups: dict[object, dict[int | None, list[float]]] = {}
    for run in runs:
        if (key := (pair(run), run.seed, run.draw)) in partner:
            group = groups.setdefault(pair(run), {})
            group.setdefault(run.seed, []).append(logarithm(run) - partner[key])
    return over_seeds(groups.values()) if groups else None


def logarithm(run: Run) -> float:
    """Log of the error.

    Raises:
        BadDataError: it is 0, or there is none.
    """
    if not run.error:
        raise BadDataError(
            f"{run.method}, κ = {run.kappa:g}, m = {run.copies}, seed {run.seed}: the error is"
            f" {run.error}, which has no logarithm"
        )
    return math.log(run.error)


def against_one_copy(table: Table) -> list[tuple[str, float, int, Finding]]:
    """Claim c: (optimizer, κ, m, finding) of harmonic denoising without an offset."""
    found = []
    runs = [run for run in table.noisy(denoising="harmonic", offset=0.0) if run.kappa > 0]
    keys = sorted({(run.optimizer, run.kappa, run.copies) for run in runs if run.copies > 1})
    for optimizer, kappa, copies in keys:
        these = [run for run in runs if (run.optimizer, run.kappa) == (optimizer, kappa)]
        ratio = log_ratio(
            [run for run in these if run.copies == copies],
            [run for run in these if run.copies == 1],
            lambda run: (run.method, run.reparam),
        )
        if ratio is not None:
            name = f"{optimizer}, κ = {kappa:g}, m = {copies}"
            found.append((optimizer, kappa, copies, Finding(name, ratio, below(ratio, 0.0))))
    return found


def slopes(runs: Sequence[Run], largest: float = 0.1) -> Estimate | None:
    """The slope of log error in log κ up to κ = `largest`, fitted to each seed; None from one κ."""
    seeds: dict[int | None, list[Run]] = {}
    for run in runs:
        if 0 < run.kappa <= largest:
            seeds.setdefault(run.seed, []).append(run)
    fitted = [_slope(these) for these in seeds.values() if len({run.kappa for run in these}) > 1]
    return Estimate.of(fitted) if fitted else None


def _slope(runs: Sequence[Run]) -> float:
    x, y = [math.log(run.kappa) for run in runs], [logarithm(run) for run in runs]
    middle, height = fmean(x), fmean(y)
    return sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum(
        (a - middle) ** 2 for a in x
    )


def against_another_order(table: Table, runs: Sequence[Run], limit: float) -> Finding | None:
    """Claims d and e: error divided by that of another order of the rows; None without the latter.

    The divisor is the mean over the seeds, since one pair of orders says little about all; that it
    is a mean of few is not in the interval.
    """
    orders = {key: run.error for key, run in table.noise_free.items() if run.error is not None}
    groups: dict[str, dict[int | None, list[float]]] = {}
    for run in runs:
        same = [
            error for key, error in orders.items() if key[:-1] == run.baseline[:-1] and error > 0
        ]
        if same and run.error is not None:
            group = groups.setdefault(run.method, {})
            group.setdefault(run.seed, []).append(run.error / fmean(same))
    if not groups:
        return None
    ratio = over_seeds(groups.values())
    return Finding("", ratio, below(ratio, limit))


def against_harmonic(table: Table) -> list[tuple[str, str, int, float, Finding]]:
    """Claim f: (method, optimizer, m, κ, finding) of extrapolation without an offset."""
    found = []
    runs = [run for run in table.noisy(offset=0.0) if run.kappa > 0 and run.copies > 1]
    keys = sorted(
        {(run.method, run.optimizer, run.copies, run.kappa) for run in runs},
        key=lambda key: (table.methods.index(key[0]), *key[1:]),
    )
    for method, optimizer, copies, kappa in keys:
        these = [
            run
            for run in runs
            if (run.method, run.optimizer, run.copies, run.kappa)
            == (method, optimizer, copies, kappa)
        ]
        ratio = log_ratio(
            [run for run in these if run.denoising == "extrapolation"],
            [run for run in these if run.denoising == "harmonic"],
            lambda run: run.reparam,
        )
        if ratio is not None:
            name = f"{method}, {optimizer}, m = {copies}, κ = {kappa:g}"
            found.append(
                (method, optimizer, copies, kappa, Finding(name, ratio, below(ratio, 0.0)))
            )
    return found
