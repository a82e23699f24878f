"""How long a training will take, roughly.

From the products that it computes, and how fast this machine multiplies now.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from mpu_cli.data.templates import TokenizedRow
from mpu_cli.training.settings import TrainingSettings

_PROBE_SECONDS = 0.3
_STEP_SECONDS = 0.02
"""What a step takes however small the model: Python, kernels started one by one, the optimizer's own loop."""
_START_SECONDS = 8.0
"""Imports, reading rows, loading the first copy of a small model."""
EFFICIENCY = 0.5
"""Share of the speed of one large product that a whole step reaches: attention, norms and loss are slower.

An assumption; docs/log.md has what it leads to."""


@dataclass(frozen=True, slots=True)
class RowSizes:
    """How much there is to train on."""

    rows: int
    """To forget; an epoch is one pass over them."""
    longest: int
    """Tokens of the longest row of all sets."""
    mean: float
    """Tokens of a row, over all sets."""

    @classmethod
    def of(cls, forget: Sequence[TokenizedRow], retain: Sequence[TokenizedRow]) -> RowSizes:
        """Of encoded rows."""
        lengths = [len(row.input_ids) for row in (*forget, *retain)]
        return cls(len(forget), max(lengths), sum(lengths) / len(lengths))


def products_of_a_step(
    settings: TrainingSettings, parameters: int, tokens_of_a_row: float, passes: int
) -> float:
    """Floating-point operations of one optimizer step.

    2 a weight and token forward, 4 backward, 2 more with checkpointing.
    """
    each = 8 if settings.gradient_checkpointing else 6
    return (
        each
        * parameters
        * tokens_of_a_row
        * settings.batch_size
        * settings.gradient_accumulation
        * passes
    )


def seconds_in_all(steps: int, copies: int, operations: float, speed: float) -> float:
    """Of `copies` trainings of `steps` steps with so many operations each, at `speed` operations a second."""
    return _START_SECONDS + copies * steps * (_STEP_SECONDS + operations / (EFFICIENCY * speed))


def measured_speed(settings: TrainingSettings) -> float:
    """Floating-point operations a second in products of 512 × 1024 × 1024, on the device and in the precision of the run."""
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
