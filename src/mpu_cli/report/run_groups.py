"""Runs of one setting together: means over seeds with intervals, and slopes in κ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mpu_cli.evaluation.statistics import student_interval
from mpu_cli.report.run_table import NOISY, RunRow, RunTable


@dataclass(frozen=True, slots=True)
class SeedMean:
    """A mean over seeds; draws of one seed are averaged first."""

    mean: float
    low: float | None
    high: float | None
    """Student's 95 % interval; None with one seed and one draw."""
    count: int
    """Seeds; draws, if there is one seed."""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.4g}"
        return f"{self.mean:.4g} ({self.low:.4g} … {self.high:.4g})"


@dataclass(frozen=True, slots=True)
class RunGroup:
    """Runs that differ in seed and draw alone."""

    kind: str
    method: str
    setting: Mapping[str, str]
    """Those settings that vary in the plan."""
    runs: tuple[RunRow, ...]

    @property
    def label(self) -> str:
        """As plots and tables call it."""
        return label(self.kind, self.setting)

    def estimate(self, name: str, *, is_log: bool = False) -> SeedMean | None:
        """The mean of a number over seeds, geometric if `is_log`; None if it was not measured."""
        values = by_seed(self.runs, name)
        if is_log:
            values = [value for value in values if value > 0]
        return estimate(values, is_log=is_log)


def label(kind: str, setting: Mapping[str, str]) -> str:
    """A kind of run and its settings in words."""
    words = [f"{_NAMES.get(name, name)} {value}" for name, value in setting.items() if value]
    return ", ".join([*([] if kind == NOISY else [kind]), *words]) or "all runs"


_NAMES = {"kappa": "κ", "copies": "m"}


def groups(table: RunTable, *, at_round: int | None = None) -> list[RunGroup]:
    """The groups of a table in its order.

    Args:
        table: of runs, or of rounds.
        at_round: of a table of rounds, the one that counts; None for all rows.
    """
    names = varying(table)
    found: dict[tuple[str, ...], list[RunRow]] = {}
    for run in table.runs:
        if at_round is None or run.round == at_round:
            key = (run.kind, run.method, *(run.settings[name] for name in names))
            found.setdefault(key, []).append(run)
    return [
        RunGroup(kind, method, dict(zip(names, values, strict=True)), tuple(runs))
        for (kind, method, *values), runs in found.items()
    ]


def varying(table: RunTable) -> list[str]:
    """The settings that differ between runs on perturbed copies, or between those without noise."""
    return [
        name
        for name in table.settings
        if any(
            len({run.settings[name] for run in table.runs if run.kind == kind}) > 1
            for kind in dict.fromkeys(run.kind for run in table.runs)
        )
    ]


def by_seed(runs: Iterable[RunRow], name: str) -> list[float]:
    """The mean of each seed's draws; the draws themselves if there is one seed."""
    found: dict[str, list[float]] = {}
    for run in runs:
        if name in run.numbers:
            found.setdefault(run.seed, []).append(run.numbers[name])
    if len(found) == 1:
        return next(iter(found.values()))
    return [float(np.mean(values)) for values in found.values()]


def estimate(values: Sequence[float], *, is_log: bool = False) -> SeedMean | None:
    """The mean with Student's interval, in logarithms if asked; None without a value."""
    if not values:
        return None
    numbers = np.log(values) if is_log else np.asarray(values, dtype=np.float64)
    bounds = student_interval(numbers)
    found = [float(numbers.mean()), *(bounds or ())]
    if is_log:
        found = [float(np.exp(value)) for value in found]
    low, high = (found[1], found[2]) if bounds else (None, None)
    return SeedMean(found[0], low, high, len(values))


@dataclass(frozen=True, slots=True)
class KappaSeries:
    """Groups that differ in κ alone."""

    method: str
    label: str
    groups: tuple[RunGroup, ...]
    """By rising κ."""

    @property
    def kappas(self) -> list[float]:
        """The noise levels above 0 with an error."""
        return [
            float(group.setting["kappa"])
            for group in self.groups
            if float(group.setting["kappa"]) > 0 and group.estimate("error", is_log=True)
        ]

    def slope(self) -> SeedMean | None:
        """The exponent of κ in the error: least squares in logarithms, for each seed and draw."""
        lines: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for group in self.groups:
            kappa = float(group.setting["kappa"])
            for run in group.runs:
                if kappa > 0 and run.numbers.get("error", 0) > 0:
                    point = (float(np.log(kappa)), float(np.log(run.numbers["error"])))
                    lines.setdefault((run.seed, run.draw), []).append(point)
        slopes: dict[str, list[float]] = {}
        for (seed, _), points in lines.items():
            if len({x for x, _ in points}) > 1:
                xs, ys = np.array(points).T
                slopes.setdefault(seed, []).append(float(np.polyfit(xs, ys, 1)[0]))
        values = [float(np.mean(those)) for those in slopes.values()]
        return estimate(values if len(slopes) != 1 else next(iter(slopes.values())))


def kappa_series(found: Sequence[RunGroup]) -> list[KappaSeries]:
    """Series of two or more noise levels among groups of noisy runs."""
    series: dict[tuple[str, str], list[RunGroup]] = {}
    for group in found:
        if group.kind == NOISY and group.setting.get("kappa"):
            rest = {name: value for name, value in group.setting.items() if name != "kappa"}
            series.setdefault((group.method, label(NOISY, rest)), []).append(group)
    return [
        KappaSeries(method, name, tuple(sorted(those, key=lambda it: float(it.setting["kappa"]))))
        for (method, name), those in series.items()
        if len(those) > 1
    ]
