"""Train one model directory into another, as `unlearn_model` does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpu_cli.client import train_copy as module
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.run import Run
from mpu_cli.client.work_directory import CheckpointSettings
from mpu_cli.data.rows import Row
from mpu_cli.training.report import TrainingReport
from mpu_cli.training.run_context import RunContext


def train_copy(
    source: Path,
    after: Path,
    forget: Sequence[Row],
    retain: Sequence[Row] | None,
    recipe: Recipe,
    frozen: Sequence[str] | None = None,
    *,
    refusals: Sequence[str] = (),
    unanswerable: Sequence[Row] | None = None,
    resume: bool = False,
    context: dict[str, Any] | None = None,
    **copy: Any,
) -> TrainingReport:
    """`context` is what `RunContext` takes, `copy` what `CopyToTrain` does."""
    keeping = CheckpointSettings(resume=resume)
    rows = [list(forget), None if retain is None else list(retain)]
    job = UnlearnJob(*rows, recipe, "float32", 1 << 30, keeping, tuple(refusals))
    job = replace(job, unanswerable=None if unanswerable is None else list(unanswerable))
    run, context = Run.of(job, source), context or {}
    saved = run.checkpoint(context.get("store"))
    return module.train_copy(
        run,
        module.CopyToTrain(source, after, frozen, **copy),
        RunContext(run.device, resume=saved, **context),
    )
