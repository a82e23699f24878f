"""One file per metric; whatever a file lists in METRICS is a metric."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from mpu_cli.evaluation.metric import Metric, ModelMetric, RowMetric


@cache
def all_metrics() -> dict[str, Metric]:
    """Every metric by name, rows' before the model's, else in the order of their files."""
    modules = [import_module(f"{__name__}.{info.name}") for info in pkgutil.iter_modules(__path__)]
    found: list[Metric] = [metric for module in modules for metric in module.METRICS]
    return {
        metric.name: metric
        for metric in sorted(found, key=lambda metric: isinstance(metric, ModelMetric))
    }


def row_metrics() -> dict[str, RowMetric]:
    """Those that give every row a number."""
    return {name: metric for name, metric in all_metrics().items() if isinstance(metric, RowMetric)}


def model_metrics() -> dict[str, ModelMetric]:
    """Those that give the model a number."""
    return {
        name: metric for name, metric in all_metrics().items() if isinstance(metric, ModelMetric)
    }
