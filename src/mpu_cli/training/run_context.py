"""What a run is told that changes none of its bits.

Who listens, where checkpoints and event files go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.training.checkpoints import CheckpointStore, Saved
from mpu_cli.training.stop_signal import StopSignal

OnStep = Callable[[int, int, float], None]
"""(step from 1, total steps, the step's loss), called after each optimizer step, in the first process only."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """See the top of this file."""

    on_step: OnStep | None = None
    store: CheckpointStore | None = None
    """Where checkpoints go; None writes none."""
    resume: Saved | None = None
    """A checkpoint of this very run to go on from."""
    log_dir: Path | None = None
    """Where TensorBoard's event files go."""
    stop: StopSignal | None = None
    """Asked after each step, once a checkpoint can be written."""
