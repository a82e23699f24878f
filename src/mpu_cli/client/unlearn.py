"""`mpu unlearn`: the same recipe on every copy of a handoff (→ an update), or on a model (→ a model)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.bundle.manifest import MANIFEST, UpdateManifest
from mpu_cli.checkpoint.change import Changes, Spans, write_changed
from mpu_cli.checkpoint.dtypes import read_span, spans
from mpu_cli.checkpoint.header import NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.client.difference import write_delta
from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.train_copy import train_copy
from mpu_cli.client.update import finish, make_copy_directory, write_manifest, write_note
from mpu_cli.data.rows import Row
from mpu_cli.errors import BadModelError, OutputError, UsageError

if TYPE_CHECKING:
    from mpu_cli.training.trainer import TrainingReport

OnStep = Callable[[str, int, int, float], None]
"""Told the copy's name, the step, the number of steps, and the loss."""
_AFTER = ".after"


@dataclass(frozen=True, slots=True)
class Work:
    """What the client brings."""

    forget: list[Row]
    retain: list[Row] | None
    recipe: Recipe
    delta_dtype: str
    shard_bytes: int


def unlearn_handoff(
    handoff: Path, out: Path, work: Work, on_step: OnStep, *, force: bool = False
) -> tuple[UpdateManifest, dict[str, TrainingReport]]:
    """Train every copy alike and write the update.

    Raises:
        MpuError: a bad handoff, bad data, a loss that is not finite, a target that exists.
    """
    refuse_nesting(out, handoff)
    refuse_existing(out, force=force)
    opened = open_handoff(handoff)
    reports = {}
    with Staging(out, force=force) as staging:
        for name in opened.copies:
            directory = make_copy_directory(staging.path / name, out)
            reports[name] = _train(opened, name, directory, out, work, on_step)
        with disk_errors(out):
            update = write_manifest(staging.path, opened.manifest)
        staging.commit()
    return update, reports


def unlearn_one_copy(
    handoff: Path, out: Path, number: int, work: Work, on_step: OnStep, *, force: bool = False
) -> TrainingReport:
    """Train copy number `number` alone and write `out/copy-K`; `finish_update` completes the update."""
    refuse_nesting(out, handoff)
    opened = open_handoff(handoff)
    name, count = f"copy-{number}", len(opened.copies)
    if name not in opened.copies:
        raise UsageError(f"--copy {number}: the handoff has {count} copies", f"give a number from 1 to {count}")
    if (out / MANIFEST).exists():
        raise OutputError(f"{out}: this update is already finished", "choose another --out")
    with Staging(out / name, force=force) as staging:
        report = _train(opened, name, staging.path, out, work, on_step)
        with disk_errors(out):
            write_note(staging.path, work.recipe.fingerprint(), opened.manifest)
        staging.commit()
    return report


def finish_update(handoff: Path, out: Path) -> UpdateManifest:
    """Check all copies made with `--copy` and write the update's manifest."""
    refuse_nesting(out, handoff)
    return finish(out, open_handoff(handoff))


def unlearn_model(
    source: Path, out: Path, work: Work, on_step: OnStep, *, dtype: str = "auto", force: bool = False
) -> TrainingReport:
    """Unlearn on a plain model directory and write a model: the noise-free baseline, or a single party's own work."""
    refuse_nesting(out, source)
    refuse_existing(out, force=force)
    model = open_checkpoint(source)
    if not model.float_dtypes or model.dtype not in NAMES:
        raise BadModelError(f"{source}: stored as {model.dtype}", "convert it to float32, bfloat16 or float16 first")
    with Staging(out, force=force) as staging, disk_errors(out):
        after = staging.path / _AFTER
        report = train_copy(source, after, work.forget, work.retain, work.recipe, None, lambda *a: on_step(source.name, *a))
        trained = open_checkpoint(after)
        write_changed(model, _changes(trained), staging.path, dtype, work.shard_bytes)
        shutil.rmtree(after)
        staging.commit()
    return report


def _train(
    opened: OpenHandoff, name: str, directory: Path, out: Path, work: Work, on_step: OnStep
) -> TrainingReport:
    after, published = directory / _AFTER, opened.copies[name]
    report = train_copy(
        published.path, after, work.forget, work.retain, work.recipe, opened.frozen, lambda *step: on_step(name, *step)
    )
    with disk_errors(out):
        write_delta(opened, published, open_checkpoint(after), directory, work.delta_dtype, work.shard_bytes)
        shutil.rmtree(after)
    return report


def _changes(trained: Checkpoint) -> Changes:
    def changes(info: TensorInfo) -> Spans | None:
        after = trained.tensors.get(info.name)
        # transformers does not save buffers that some checkpoints hold; what is not saved did not change.
        return None if after is None else _pieces(info, after)

    return changes


def _pieces(before: TensorInfo, after: TensorInfo) -> Spans:
    for start, stop in spans(before.elements):
        yield start, stop, read_span(after, start, stop).double() - read_span(before, start, stop).double()
