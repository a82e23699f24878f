"""How training moved hidden states: what a run on the lower layers of a model can measure.

A cut handoff has no answers, so `effect.py` has nothing to measure on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.hidden import labelled_hidden
from mpu_cli.modeling.logprobs import in_evaluation
from mpu_cli.training.effect import FEWEST_ROWS, evenly
from mpu_cli.training.settings import TrainingSettings
from mpu_cli.training.training_sets import TrainingSets


@dataclass(frozen=True, slots=True)
class StatesEffect:
    """‖h_after − h_before‖ / ‖h_before‖ over the labelled tokens of some rows, after one layer."""

    layer: int
    forget: float
    retain: float | None
    """None without retain rows."""


class StatesSample:
    """The rows whose states are measured: the same before and after, and in every copy."""

    def __init__(self, sets: TrainingSets, settings: TrainingSettings, layer: int) -> None:
        """Choose the rows; `layer` is counted from 0."""
        self._settings, self._pad_id, self._layer = settings, sets.pad_id, layer
        self._chosen = [evenly(rows, FEWEST_ROWS) for rows in (sets.forget, sets.retain or ())]

    def measure(self, model: Any) -> tuple[Tensor | None, ...]:
        """The states (N, D) of the forget rows and of the retain rows; None without rows."""
        autocasts = self._settings.autocasts
        device = next(model.parameters()).device.type
        with torch.autocast(device, torch.bfloat16) if autocasts else nullcontext():
            return tuple(self._states(model, rows) if rows else None for rows in self._chosen)

    def _states(self, model: Any, rows: Sequence[TokenizedRow]) -> Tensor:
        parts: list[Tensor] = []

        def take(_: Sequence[int], batch: dict[str, Tensor]) -> None:
            parts.append(labelled_hidden(model, batch, self._layer).float().cpu())

        size = self._settings.batch_size
        in_evaluation(model, rows, range(len(rows)), size, self._pad_id, take)
        return torch.cat(parts)

    def effect(
        self, before: tuple[Tensor | None, ...], after: tuple[Tensor | None, ...]
    ) -> StatesEffect:
        """Compare two measurements."""
        forget, retain = (
            None if then is None or now is None else float((now - then).norm() / then.norm())
            for then, now in zip(before, after, strict=True)
        )
        assert forget is not None
        return StatesEffect(self._layer, forget, retain)
