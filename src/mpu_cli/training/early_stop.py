"""Ending a run when enough is forgotten, or when too much is lost.

Looked at after every epoch, on answer probability.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.logprobs import answer_nll, mean_probability
from mpu_cli.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class StopCheck:
    """Mean answer probability exp(−NLL / tokens) over the rows after one epoch.

    None where no threshold asks for it.
    """

    epoch: int
    forget: float | None
    retain: float | None


class Thresholds:
    """The thresholds of a run, and the rows they are about."""

    def __init__(
        self,
        settings: TrainingSettings,
        forget: Sequence[TokenizedRow],
        retain: Sequence[TokenizedRow] | None,
        pad_id: int,
    ) -> None:
        """`retain` is needed for its threshold even if the loss does without."""
        if settings.stop_retain_below is not None and not retain:
            raise ValueError("a threshold on the retain rows needs retain rows")
        self._settings, self._forget, self._retain, self._pad_id = settings, forget, retain, pad_id

    def evaluate(self, model: Any, epoch: int) -> StopCheck:
        """Measure after an epoch (from 1). Every process calls it, and measures all rows."""
        settings = self._settings
        forget = (
            self._probability(model, self._forget)
            if settings.stop_forget_below is not None
            else None
        )
        retain = (
            self._probability(model, self._retain or ())
            if settings.stop_retain_below is not None
            else None
        )
        return StopCheck(epoch, forget, retain)

    def reached(self, evaluation: StopCheck) -> bool:
        """Whether one of the thresholds says to end here."""
        settings = self._settings
        pairs = (
            (evaluation.forget, settings.stop_forget_below),
            (evaluation.retain, settings.stop_retain_below),
        )
        return any(
            value is not None and limit is not None and value <= limit for value, limit in pairs
        )

    def _probability(self, model: Any, rows: Sequence[TokenizedRow]) -> float:
        return mean_probability(answer_nll(model, rows, self._settings.batch_size, self._pad_id))
