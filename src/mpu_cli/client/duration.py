"""Estimate how long training takes, from its operations and this machine's present speed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.training.settings import TrainingSettings

_PROBE_SECONDS = 0.3
_STEP_SECONDS = 0.02
"""A step's overhead in any model: Python, kernel launches, the optimizer's own loop."""
_START_SECONDS = 8.0
"""Time for imports, reading rows and loading the first copy of a small model."""
EFFICIENCY = 0.5
"""Share of one large product's speed that a whole step reaches; attention, norms, loss are slower.

This is an assumption; docs/log.md has what it leads to."""


@dataclass(frozen=True, slots=True)
class RowSizes:
    """The sizes of the rows that a job trains on."""

    rows: int
    """Forget rows; an epoch is one pass over them."""
    longest: int
    """Tokens of the longest row of all sets."""
    mean: float
    """Mean number of tokens in a row, over all sets."""

    @classmethod
    def of(cls, forget: Sequence[TokenizedRow], retain: Sequence[TokenizedRow]) -> RowSizes:
        """Measure tokenized rows."""
        lengths = [len(row.input_ids) for row in (*forget, *retain)]
        return cls(len(forget), max(lengths), sum(lengths) / len(lengths))


def products_of_a_step(
    settings: TrainingSettings, parameters: int, tokens_of_a_row: float, passes: int
) -> float:
    """Floating-point operations of one optimizer step.

    A weight and token takes 2 forward, 4 backward, and 2 more with gradient checkpointing; with
    smoothing, forget rows pass twice.
    """
    if settings.smoothing:
        passes += 1
    per_weight_and_token = 8 if settings.gradient_checkpointing else 6
    return (
        per_weight_and_token
        * parameters
        * tokens_of_a_row
        * settings.batch_size
        * settings.gradient_accumulation
        * passes
    )


def seconds_in_all(steps: int, copies: int, operations: float, speed: float) -> float:
    """Time of `copies` trainings of `steps` steps of `operations` each, at `speed` per second."""
    return _START_SECONDS + copies * steps * (_STEP_SECONDS + operations / (EFFICIENCY * speed))


def measured_speed(settings: TrainingSettings) -> float:
    """Operations per second in products of 512 × 1024 × 1024, as the run's device computes them."""
    import torch

    from mpu_cli.modeling.device import choose_device

    device = choose_device(settings.device)
    dtype = torch.float32 if settings.precision == "float32" else torch.bfloat16
    left, right = (
        torch.rand(512, 1024, dtype=dtype, device=device),
        torch.rand(1024, 1024, dtype=dtype, device=device),
    )
    count, began, ended = 0, 0.0, 0.0
    for _ in range(3):  # the first ones load libraries
        (left @ right).sum().item()
    began = time.monotonic()
    while ended - began < _PROBE_SECONDS:
        (left @ right).sum().item()
        count, ended = count + 1, time.monotonic()
    return count * 2 * 512 * 1024 * 1024 / (ended - began)
