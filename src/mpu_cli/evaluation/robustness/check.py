"""What a robustness check is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.subject import Measured, Subject


@dataclass(frozen=True, slots=True)
class Check:
    """One way in which forgotten text may come back."""

    name: str
    about: str
    source: str
    run: Callable[[Subject, Collection[RowMetric]], Measured]
    """(model and rows, the metrics asked for) → columns named `metric@condition`.

    The model is as it was afterwards.
    """


def under(condition: str, measured: Measured) -> Measured:
    """The same columns, named after their condition."""
    return Measured(
        {
            (name, f"{metric}@{condition}"): values
            for (name, metric), values in measured.columns.items()
        },
        {
            (name, f"{metric}@{condition}"): reason
            for (name, metric), reason in measured.reasons.items()
        },
    )


def together(parts: Collection[Measured]) -> Measured:
    """All columns of several conditions."""
    whole = Measured()
    for part in parts:
        whole.columns |= part.columns
        whole.reasons |= part.reasons
    return whole
