"""From numbers of rows to means, areas and utilities, with intervals where one is known to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mpu_cli.evaluation.columns import Columns, MissingInputError
from mpu_cli.evaluation.metric import ModelMetric
from mpu_cli.evaluation.metrics import all_metrics, model_metrics
from mpu_cli.evaluation.records.record import Record
from mpu_cli.evaluation.statistics import Array, Resampled, rate_interval
from mpu_cli.evaluation.weighted import both_ends, draw_weights

MODEL = "model"
"""The name under which a record's values hold the metrics of the model."""


def statistics(
    view: Columns, chosen: Mapping[str, ModelMetric]
) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
    """Means by (set, metric) and model metrics by ("model", metric); reasons for missing ones."""
    known = all_metrics()
    values: dict[tuple[str, str], Any] = {}
    missing: dict[tuple[str, str], str] = {}
    for name, metric in view.values:
        if getattr(known.get(metric.partition("@")[0]), "shown", True):
            values[name, metric] = view.average((name, metric))
    for model_metric in chosen.values():
        for condition in ("", *_conditions(view, model_metric)):
            name = f"{model_metric.name}@{condition}" if condition else model_metric.name
            try:
                values[MODEL, name] = model_metric.value(
                    view.under(condition) if condition else view
                )
            except MissingInputError as error:
                missing["", name] = str(error)
                if not condition:
                    break  # what is missing here is missing under every condition
    return values, missing


def _conditions(view: Columns, metric: ModelMetric) -> list[str]:
    """The conditions under which everything that the metric uses was measured, on all its sets."""
    used = {(name, part) for name, part in view.values if part in metric.uses}
    conditions = dict.fromkeys(
        condition
        for part, _, condition in (column.partition("@") for _, column in view.values)
        if condition and part in metric.uses
    )
    return [
        c for c in conditions if all((name, f"{part}@{c}") in view.values for name, part in used)
    ]


def summarise(
    record: Record, retain_record: Record | None, names: tuple[str, ...], seed: int, resamples: int
) -> Record:
    """The record with its values, their intervals, and reasons for missing model metrics."""
    chosen = {
        name: metric for name, metric in model_metrics().items() if not names or name in names
    }
    view = record.view(retain_record)
    statistic, missing = statistics(view, chosen)
    sizes = {name: info.rows for name, info in record.sets.items()}
    (draws,) = resample([view], sizes, chosen, seed, resamples)
    values: dict[str, dict[str, Any]] = {}
    for key, number in statistic.items():
        value: dict[str, Any] = {"value": float(number)}
        bounds = draws[key].bounds() if key in draws else None
        if bounds is not None:
            rates = _rates(record, key)
            value["low"], value["high"] = bounds.wide if rates is None else rate_interval(rates)
        values.setdefault(key[0], {})[key[1]] = value
    return replace(record, values=values, left_out={**record.left_out, **missing})


def means(record: Record) -> dict[tuple[str, str], float]:
    """Every mean and model metric, computed from the record's rows and not from its summary."""
    return {
        key: float(value) for key, value in statistics(record.view(), model_metrics())[0].items()
    }


def resample(
    views: Sequence[Columns],
    sizes: Mapping[str, int],
    chosen: Mapping[str, ModelMetric],
    seed: int,
    resamples: int,
) -> list[dict[tuple[str, str], Resampled]]:
    """Every statistic that has an interval, for several views of the same rows.

    All views have the same random weights.

    Args:
        views: columns of records.
        sizes: rows by set.
        chosen: the model metrics.
        seed: of the weights.
        resamples: how many weightings.
    """
    bounded = {name: metric for name, metric in chosen.items() if metric.interval}
    parts: list[dict[tuple[str, str], list[tuple[Array, Array]]]] = [{} for _ in views]
    for weights in draw_weights(sizes, seed, resamples):
        for view, blocks in zip(views, parts, strict=True):
            low, high = (statistics(end, bounded)[0] for end in both_ends(view, weights))
            for key in low:
                blocks.setdefault(key, []).append((low[key], high[key]))
    return [{key: _joined(pairs) for key, pairs in blocks.items()} for blocks in parts]


def _joined(blocks: Sequence[tuple[Array, Array]]) -> Resampled:
    low, high = (np.concatenate(end) for end in zip(*blocks, strict=True))
    return Resampled((low, high))


def _rates(record: Record, key: tuple[str, str]) -> Array | None:
    """The rows of a column of zeros and ones; None for any other column."""
    values = record.columns.get(key)
    rows = None if values is None else values[~np.isnan(values)]
    return rows if rows is not None and np.isin(rows, (0, 1)).all() else None
