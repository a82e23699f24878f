"""What relearning brought back.

The curves of a record, the worst of them, and the first step that is enough.

A curve is the mean answer probability of the forget rows that were not taught, by step, at one
rate. Its columns are called `answer_probability@relearned-STEP@RATE`; step 0 is common to all rates
(`relearned-0`), and records of an earlier mpu have one rate without a name.
`answer_probability@relearned-worst` repeats the column with the highest mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np

from mpu_cli.evaluation.metric import Array
from mpu_cli.evaluation.questions import FORGET
from mpu_cli.evaluation.record import Record

PROBABILITY = "answer_probability"
WORST = "relearned-worst"
RECOVERED = 0.9
"""Of the answer probability before unlearning."""
_CONDITION = re.compile(r"relearned-(\d+)(?:@(.+))?")


@dataclass(frozen=True, slots=True)
class Point:
    """One measured mean."""

    rate: str
    """As columns name it; "" in a record of an earlier mpu."""
    step: int
    value: float


def rate_name(rate: float) -> str:
    """The shortest way to write a rate: 3e-4."""
    return f"{Decimal(repr(rate)).normalize():e}"


def condition(step: int, rate: float) -> str:
    """What a column at this step and rate is called after the metric's name.

    Before the first step no rate matters.
    """
    return f"relearned-{step}@{rate_name(rate)}" if step else "relearned-0"


def curves(means: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Mean by step for each rate, each beginning with step 0 where that was measured.

    Args:
        means: of one set, by metric or metric@condition.
    """
    points: dict[str, dict[int, float]] = {}
    for key, value in means.items():
        metric, _, under = key.partition("@")
        found = _CONDITION.fullmatch(under)
        if metric == PROBABILITY and found:
            points.setdefault(found[2] or "", {})[int(found[1])] = value
    common = {0: points[""][0]} if 0 in points.get("", {}) else {}
    if len(points) > 1 and set(points.get("", {})) == {0}:
        del points[""]
    return {rate: dict(sorted({**common, **curve}.items())) for rate, curve in points.items()}


def worst(means: Mapping[str, float]) -> Point | None:
    """The highest point of all curves after at least one step, the earliest of equal ones.

    None where nothing was relearned.
    """
    points = [
        Point(rate, step, value)
        for rate, curve in curves(means).items()
        for step, value in curve.items()
        if step
    ]
    return max(points, key=lambda point: (point.value, -point.step), default=None)


def remarks(record: Record) -> list[str]:
    """What a reader must know of the worst curve.

    That a higher rate than the highest was not tried.
    """
    rates = [rate_name(rate) for rate in record.settings.get("relearn_rates", ())]
    found = []
    for name in (name for name, info in record.sets.items() if info.role == FORGET):
        highest = worst(means_of(record.columns, name))
        if highest is not None and rates and highest.rate == max(rates, key=float):
            found.append(
                f"{name}: the highest rate, {highest.rate}, brought most back; a higher one may"
                " bring more (--relearn-rate)"
            )
    return found


def means_of(columns: Mapping[tuple[str, str], Array], owner: str) -> dict[str, float]:
    """The means of one set's columns over the rows that have a number."""
    mine = {
        metric: values[~np.isnan(values)]
        for (name, metric), values in columns.items()
        if name == owner
    }
    return {metric: float(values.mean()) for metric, values in mine.items() if len(values)}


def with_steps(record: Record, before: Record) -> Record:
    """The record with `relearning_steps`.

    The first step measured at which the rows that were not taught are back, at any rate.

    Back is 90 % of the mean answer probability that the same rows had before unlearning.
    """
    values: dict[str, dict[str, Any]] = {
        owner: dict(metrics) for owner, metrics in record.values.items()
    }
    left_out = dict(record.left_out)
    for name in (name for name, info in record.sets.items() if info.role == FORGET):
        found = curves(means_of(record.columns, name))
        old = before.columns.get((name, PROBABILITY))
        if not found or old is None:
            left_out[name, "relearning_steps"] = (
                "--before has no answer_probability of these rows"
                if found
                else "nothing was relearned"
            )
            continue
        taught = next(
            np.isnan(column)
            for (owner, metric), column in record.columns.items()
            if owner == name and metric.startswith(f"{PROBABILITY}@relearned-")
        )
        enough = RECOVERED * float(old[~taught].mean())
        reached = _reached(found.values(), enough)
        if reached is not None:
            values[name]["relearning_steps"] = {"value": float(reached)}
        else:
            last = max(step for curve in found.values() for step in curve)
            left_out[name, "relearning_steps"] = (
                f"{RECOVERED:.0%} of --before is not reached in {last} steps"
            )
    return replace(record, values=values, left_out=left_out)


def _reached(found: Iterable[Mapping[int, float]], enough: float) -> int | None:
    return min(
        (step for curve in found for step, value in curve.items() if value >= enough), default=None
    )
