"""The metrics: each file lists one or several in METRICS."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mpu_cli.evaluation.metric import Metric, ModelMetric, RowMetric
from mpu_cli.registry import Registry, attribute

METRICS: Registry[Metric] = Registry(
    "metric", Path(__file__).parent, attribute(__name__, "METRICS")
)


@cache
def all_metrics() -> dict[str, Metric]:
    """All metrics by name, in the order of their files; those of rows before those of models."""
    metrics = METRICS.entries().items()
    return dict(sorted(metrics, key=lambda item: isinstance(item[1], ModelMetric)))


def row_metrics() -> dict[str, RowMetric]:
    """The metrics that give every row a number."""
    return {name: metric for name, metric in all_metrics().items() if isinstance(metric, RowMetric)}


def model_metrics() -> dict[str, ModelMetric]:
    """The metrics that give the model one number."""
    return {
        name: metric for name, metric in all_metrics().items() if isinstance(metric, ModelMetric)
    }
