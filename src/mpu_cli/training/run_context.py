"""How a run is carried out: its device, its checkpoints, who follows it, when it ends early.

Nothing here is part of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.training.checkpoints import CheckpointStore, Saved
from mpu_cli.training.stop_signal import StopSignal

OnStep = Callable[[int, int, float], None]
"""(step from 1, total steps, loss): called after each step, in the first process only."""


@dataclass(frozen=True, slots=True)
class RunContext:
    """What `train` is given besides model, loss, rows and settings."""

    device: str
    """Where to train; see `distributed.choose_shared_device`."""
    on_step: OnStep | None = None
    store: CheckpointStore | None = None
    """Where checkpoints go; None writes none."""
    resume: Saved | None = None
    """The checkpoint of this very run to continue from."""
    log_dir: Path | None = None
    """Where TensorBoard's event files go."""
    stop: StopSignal | None = None
    """Asked after each step, once a checkpoint can be written."""
    stop_after: int | None = None
    """End after this step and ignore the thresholds: where the first of several copies stopped."""
