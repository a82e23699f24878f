"""From rows' numbers to means, areas and utilities, each with an interval where resampling rows means something."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpu_cli.evaluation.metric import Array, Columns, MissingInputError, ModelMetric, mean
from mpu_cli.evaluation.metrics import all_metrics, model_metrics
from mpu_cli.evaluation.record import Record
from mpu_cli.evaluation.statistics import interval, resampled

MODEL = "model"
"""Under which a record's values hold the metrics that belong to no one set."""


class Resampled(Mapping[tuple[str, str], Array]):
    """Columns (resamples, n) of resampled rows, one in memory at a time."""

    def __init__(self, values: Mapping[tuple[str, str], Array], rows: Mapping[str, NDArray[np.int64]]) -> None:
        """`rows` by set, (resamples, n)."""
        self._values, self._rows = values, rows

    def __getitem__(self, key: tuple[str, str]) -> Array:
        return self._values[key][self._rows[key[0]]]

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def statistics(view: Columns, chosen: Mapping[str, ModelMetric]) -> tuple[dict[tuple[str, str], Any], dict[tuple[str, str], str]]:
    """Every mean by (set, metric) and every model metric by ("model", metric); and why others are missing."""
    known = all_metrics()
    found: dict[tuple[str, str], Any] = {}
    missing: dict[tuple[str, str], str] = {}
    for (name, metric), values in view.values.items():
        if getattr(known.get(metric.partition("@")[0]), "shown", True):
            found[name, metric] = mean(values)
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
    again = [part.partition("@")[2] for _, part in view.values if part.partition("@")[0] in metric.uses]
    return [c for c in dict.fromkeys(again) if c and all((name, f"{part}@{c}") in view.values for name, part in having)]


def summarise(record: Record, retain_record: Record | None, names: tuple[str, ...], seed: int, resamples: int) -> Record:
    """The record with its values, intervals, and the reasons why model metrics are missing."""
    chosen = {name: metric for name, metric in model_metrics().items() if not names or name in names}
    view = record.view(retain_record)
    found, missing = statistics(view, chosen)
    rows = resampled({name: info.rows for name, info in record.sets.items()}, seed, resamples)
    draws = draw_values(view, rows, chosen)
    values: dict[str, dict[str, Any]] = {}
    for (owner, metric), value in found.items():
        one: dict[str, Any] = {"value": float(value)}
        if (owner, metric) in draws:
            one["low"], one["high"] = interval(draws[owner, metric])
        values.setdefault(owner, {})[metric] = one
    return replace(record, values=values, left_out={**record.left_out, **missing})


def means(record: Record) -> dict[tuple[str, str], float]:
    """What the record's rows say, whatever its summary does."""
    return {key: float(value) for key, value in statistics(record.view(), model_metrics())[0].items()}


def draw_values(view: Columns, rows: Mapping[str, NDArray[np.int64]], chosen: Mapping[str, ModelMetric]) -> dict[tuple[str, str], Array]:
    """Every statistic's resampled values (resamples,), where it has an interval."""
    usual = {name: metric for name, metric in chosen.items() if metric.interval}
    return statistics(replace(view, values=Resampled(view.values, rows)), usual)[0]
