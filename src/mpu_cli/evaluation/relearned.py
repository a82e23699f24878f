"""What relearning restored: a record's curves, the worst one, and the first step that suffices.

A curve is the mean answer probability of the forget rows that were not taught, by step, at one
rate. Its columns are called `answer_probability@relearned-STEP@RATE`. Step 0 is common to all rates
(`relearned-0`), and records of an earlier mpu have one rate without a name.
`answer_probability@relearned-worst` repeats the column with the highest mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from mpu_cli.evaluation.questions import FORGET
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.statistics import Array

PROBABILITY = "answer_probability"
WORST = "relearned-worst"
RECOVERED = 0.9
"""The share of the answer probability before unlearning that counts as restored."""
_STEPS = "relearning_steps"
_CONDITION = re.compile(r"relearned-(\d+)(?:@(.+))?")


@dataclass(frozen=True, slots=True)
class Point:
    """One measured mean."""

    rate: str
    """As in the column's name; "" in a record of an earlier mpu."""
    step: int
    value: float


def rate_name(rate: float) -> str:
    """The shortest way to write a rate: 3e-4."""
    return f"{Decimal(repr(rate)).normalize():e}"


def condition(step: int, rate: float) -> str:
    """The condition in a column's name; step 0 has no rate."""
    return f"relearned-{step}@{rate_name(rate)}" if step else "relearned-0"


def curves(means: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Mean by step for each rate; each curve begins with step 0 if that was measured.

    Args:
        means: of one set, by metric or metric@condition.
    """
    points: dict[str, dict[int, float]] = {}
    for key, value in means.items():
        metric, _, under = key.partition("@")
        match = _CONDITION.fullmatch(under)
        if metric == PROBABILITY and match:
            points.setdefault(match[2] or "", {})[int(match[1])] = value
    common = {0: points[""][0]} if 0 in points.get("", {}) else {}
    if len(points) > 1 and set(points.get("", {})) == {0}:
        del points[""]
    return {rate: dict(sorted({**common, **curve}.items())) for rate, curve in points.items()}


def worst(means: Mapping[str, float]) -> Point | None:
    """The highest point of all curves after step 0, the earliest of equal ones.

    None if nothing was relearned.
    """
    points = [
        Point(rate, step, value)
        for rate, curve in curves(means).items()
        for step, value in curve.items()
        if step
    ]
    return max(points, key=lambda point: (point.value, -point.step), default=None)


def remarks(record: Record) -> list[str]:
    """A remark for each forget set where a higher rate than those tried might restore more."""
    rates = [rate_name(rate) for rate in record.settings.get("relearn_rates", ())]
    lines = []
    for name in _forget_sets(record):
        highest = worst(means_of(record.columns, name))
        if highest is not None and rates and highest.rate == max(rates, key=float):
            lines.append(
                f"{name}: the highest rate, {highest.rate}, restored the most; a higher one may"
                " restore more (--relearn-rate)"
            )
    return lines


def means_of(columns: Mapping[tuple[str, str], Array], owner: str) -> dict[str, float]:
    """The means of one set's columns over the rows that have a number."""
    numbers = {
        metric: values[~np.isnan(values)]
        for (name, metric), values in columns.items()
        if name == owner
    }
    return {metric: float(values.mean()) for metric, values in numbers.items() if len(values)}


def with_steps(record: Record, before: Record) -> Record:
    """The record with `relearning_steps`: the first step, at any rate, that restores the others.

    The rows that were not taught count as restored at 90 % of the mean answer probability that they
    had before unlearning.
    """
    values = {owner: dict(metrics) for owner, metrics in record.values.items()}
    left_out = dict(record.left_out)
    for name in _forget_sets(record):
        points = list(curves(means_of(record.columns, name)).values())
        old = before.columns.get((name, PROBABILITY))
        if not points or old is None:
            left_out[name, _STEPS] = (
                f"--before has no {PROBABILITY} of these rows"
                if points
                else "nothing was relearned"
            )
            continue
        taught = next(
            np.isnan(column)
            for (owner, metric), column in record.columns.items()
            if owner == name and metric.startswith(f"{PROBABILITY}@relearned-")
        )
        enough = RECOVERED * float(old[~taught].mean())
        reached = [step for curve in points for step, value in curve.items() if value >= enough]
        if reached:
            values[name][_STEPS] = {"value": float(min(reached))}
        else:
            last = max(step for curve in points for step in curve)
            left_out[name, _STEPS] = f"{RECOVERED:.0%} of --before is not reached in {last} steps"
    return replace(record, values=values, left_out=left_out)


def _forget_sets(record: Record) -> list[str]:
    return [name for name, info in record.sets.items() if info.role == FORGET]
