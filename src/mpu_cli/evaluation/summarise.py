"""From rows' numbers to means, areas and utilities, each with an interval where one is known that holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpu_cli.evaluation.metric import Array, Columns, MissingInputError, ModelMetric
from mpu_cli.evaluation.metrics import all_metrics, model_metrics
from mpu_cli.evaluation.record import Record
from mpu_cli.evaluation.statistics import Draws, rate_interval
from mpu_cli.evaluation.weighted import both_ends, drawn

MODEL = "model"
"""Under which a record's values hold the metrics that belong to no one set."""


def statistics(
    view: Columns, chosen: Mapping[str, ModelMetric]
) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
    """Every mean by (set, metric) and every model metric by ("model", metric).

    And why others are missing.
    """
    known = all_metrics()
    found: dict[tuple[str, str], Any] = {}
    missing: dict[tuple[str, str], str] = {}
    for name, metric in view.values:
        if getattr(known.get(metric.partition("@")[0]), "shown", True):
            found[name, metric] = view.average((name, metric))
    for each in chosen.values():
        try:
            found[MODEL, each.name] = each.value(view)
        except MissingInputError as error:
            missing["", each.name] = str(error)
            continue  # under no condition either
        for condition in _conditions(view, each):
            try:
                found[MODEL, f"{each.name}@{condition}"] = each.value(view.under(condition))
            except MissingInputError as error:
                missing["", f"{each.name}@{condition}"] = str(error)
    return found, missing


def _conditions(view: Columns, metric: ModelMetric) -> list[str]:
    """Those under which everything was measured again that the metric is made of, on every set that has it."""
    having = {(name, part) for name, part in view.values if part in metric.uses}
    again = [
        part.partition("@")[2] for _, part in view.values if part.partition("@")[0] in metric.uses
    ]
    return [
        c
        for c in dict.fromkeys(again)
        if c and all((name, f"{part}@{c}") in view.values for name, part in having)
    ]


def summarise(
    record: Record, retain_record: Record | None, names: tuple[str, ...], seed: int, resamples: int
) -> Record:
    """The record with its values, intervals, and the reasons why model metrics are missing."""
    chosen = {
        name: metric for name, metric in model_metrics().items() if not names or name in names
    }
    view = record.view(retain_record)
    found, missing = statistics(view, chosen)
    (draws,) = draw(
        [view], {name: info.rows for name, info in record.sets.items()}, chosen, seed, resamples
    )
    values: dict[str, dict[str, Any]] = {}
    for key, value in found.items():
        one: dict[str, Any] = {"value": float(value)}
        bounds = draws[key].bounds() if key in draws else None
        if bounds is not None:
            rates = _rates(record, key)
            one["low"], one["high"] = bounds.wide if rates is None else rate_interval(rates)
        values.setdefault(key[0], {})[key[1]] = one
    return replace(record, values=values, left_out={**record.left_out, **missing})


def means(record: Record) -> dict[tuple[str, str], float]:
    """What the record's rows say, whatever its summary does."""
    return {
        key: float(value) for key, value in statistics(record.view(), model_metrics())[0].items()
    }


def draw(
    views: Sequence[Columns],
    sizes: Mapping[str, int],
    chosen: Mapping[str, ModelMetric],
    seed: int,
    resamples: int,
) -> list[dict[tuple[str, str], Draws]]:
    """Every statistic that has an interval, for each of several views of the same rows, under the same random weights.

    Args:
        views: of records.
        sizes: rows by set.
        chosen: the model metrics.
        seed: of the weights.
        resamples: how many weightings.
    """
    usual = {name: metric for name, metric in chosen.items() if metric.interval}
    parts: list[dict[tuple[str, str], list[tuple[Array, Array]]]] = [{} for _ in views]
    for weights in drawn(sizes, seed, resamples):
        for view, found in zip(views, parts, strict=True):
            low, high = (statistics(end, usual)[0] for end in both_ends(view, weights))
            for key in low:
                found.setdefault(key, []).append((low[key], high[key]))
    return [{key: _joined(blocks) for key, blocks in found.items()} for found in parts]


def _joined(blocks: Sequence[tuple[Array, Array]]) -> Draws:
    low, high = (np.concatenate(end) for end in zip(*blocks, strict=True))
    return Draws((low, high))


def _rates(record: Record, key: tuple[str, str]) -> Array | None:
    """The rows of a column of zeros and ones."""
    values = record.columns.get(key)
    rows = None if values is None else values[~np.isnan(values)]
    return rows if rows is not None and np.isin(rows, (0, 1)).all() else None
