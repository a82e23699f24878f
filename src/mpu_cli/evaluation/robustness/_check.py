"""What a robustness check is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import MeasuredRows, ModelUnderTest


@dataclass(frozen=True, slots=True)
class Check:
    """One way in which forgotten text may come back."""

    name: str
    about: str
    source: str
    run: Callable[[ModelUnderTest, Collection[RowMetric]], MeasuredRows]
    """(model and rows, the metrics asked for) → columns named `metric@condition`.

    The model is as it was afterwards.
    """


def under(condition: str, measured: MeasuredRows) -> MeasuredRows:
    """The same columns, named after their condition."""
    return MeasuredRows(
        {
            (name, f"{metric}@{condition}"): values
            for (name, metric), values in measured.columns.items()
        },
        {
            (name, f"{metric}@{condition}"): reason
            for (name, metric), reason in measured.reasons.items()
        },
    )


def together(parts: Collection[MeasuredRows]) -> MeasuredRows:
    """All columns of several conditions."""
    whole = MeasuredRows()
    for part in parts:
        whole.columns |= part.columns
        whole.reasons |= part.reasons
    return whole
