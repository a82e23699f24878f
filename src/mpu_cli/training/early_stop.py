"""End a run when its answer probabilities after an epoch have fallen to a threshold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mpu_cli.modeling.logprobs import answer_nll, mean_probability
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.training_sets import TrainingSets


@dataclass(frozen=True, slots=True)
class StopCheck:
    """Mean answer probability exp(−NLL / tokens) after one epoch; None if no threshold needs it."""

    epoch: int
    forget: float | None
    retain: float | None


class Thresholds:
    """The thresholds of a run, and the rows they are about."""

    def __init__(self, settings: TrainingSettings, sets: TrainingSets) -> None:
        """Retain rows are needed for their threshold even if the loss does not read them."""
        if settings.stop_retain_below is not None and not sets.retain:
            raise ValueError("a threshold on the retain rows needs retain rows")
        self._settings, self._sets = settings, sets

    def evaluate(self, model: Any, epoch: int) -> StopCheck:
        """Measure after an epoch (from 1). Every process calls it, and measures all rows."""
        settings, sets = self._settings, self._sets
        forget, retain = (
            None
            if limit is None
            else mean_probability(answer_nll(model, rows, settings.batch_size, sets.pad_id))
            for limit, rows in (
                (settings.stop_forget_below, sets.forget),
                (settings.stop_retain_below, sets.retain or ()),
            )
        )
        return StopCheck(epoch, forget, retain)

    def reached(self, check: StopCheck) -> bool:
        """Whether one of the thresholds ends the run."""
        pairs = (
            (check.forget, self._settings.stop_forget_below),
            (check.retain, self._settings.stop_retain_below),
        )
        return any(
            value is not None and limit is not None and value <= limit for value, limit in pairs
        )
