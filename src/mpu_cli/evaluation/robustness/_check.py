"""What a robustness check is."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from mpu_cli.evaluation.measured_rows import MeasuredRows
from mpu_cli.evaluation.metric import RowMetric
from mpu_cli.evaluation.model_under_test import ModelUnderTest


@dataclass(frozen=True, slots=True)
class Check:
    """One way to bring forgotten text back."""

    name: str
    about: str
    source: str
    run: Callable[[ModelUnderTest, Collection[RowMetric]], MeasuredRows]
    """(model under test, the chosen row metrics) → columns called `metric@condition`.

    It leaves the model's weights as it found them.
    """
