"""`mpu unlearn`: the same recipe on every copy of a handoff (→ an update), or on a model (→ a model)."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, UpdateManifest
from mpu_cli.bundle.read import read_handoff
from mpu_cli.bundle.tensors import open_copies
from mpu_cli.checkpoint.change import Changes, Spans, write_changed
from mpu_cli.checkpoint.dtypes import read_span, spans
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.client.difference import SPAN, write_delta
from mpu_cli.client.recipe import Recipe
from mpu_cli.client.train_copy import train_copy
from mpu_cli.client.update import finish, make_copy_directory, write_manifest, write_note
from mpu_cli.data.rows import Row
from mpu_cli.errors import OutputError, UsageError

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


def open_handoff(path: Path) -> tuple[HandoffManifest, dict[str, Checkpoint]]:
    """Verify a handoff completely and open its copies."""
    manifest = read_handoff(path)
    return manifest, open_copies(path, manifest)


def unlearn_handoff(
    handoff: Path, out: Path, work: Work, on_step: OnStep, *, force: bool = False
) -> tuple[UpdateManifest, dict[str, TrainingReport]]:
    """Train every copy alike and write the update.

    Raises:
        MpuError: a bad handoff, bad data, a loss that is not finite, a target that exists.
    """
    refuse_nesting(out, handoff)
    refuse_existing(out, force=force)
    manifest, copies = open_handoff(handoff)
    reports = {}
    with Staging(out, force=force) as staging:
        for name, published in copies.items():
            directory = make_copy_directory(staging.path / name, out)
            reports[name] = _train(published, name, directory, out, manifest, work, on_step)
        with disk_errors(out):
            update = write_manifest(staging.path, manifest)
        staging.commit()
    return update, reports


def unlearn_one_copy(handoff: Path, out: Path, number: int, work: Work, on_step: OnStep) -> TrainingReport:
    """Train copy number `number` alone and write `out/copy-K`; `finish_update` completes the update."""
    manifest, copies = open_handoff(handoff)
    name = f"copy-{number}"
    if name not in copies:
        raise UsageError(f"--copy {number}: the handoff has {len(copies)} copies", f"give a number from 1 to {len(copies)}")
    if (out / MANIFEST).exists():
        raise OutputError(f"{out}: this update is already finished", "choose another --out")
    with Staging(out / name) as staging:
        report = _train(copies[name], name, staging.path, out, manifest, work, on_step)
        with disk_errors(out):
            write_note(staging.path, work.recipe.fingerprint(), manifest)
        staging.commit()
    return report


def finish_update(handoff: Path, out: Path) -> UpdateManifest:
    """Check all copies made with `--copy` and write the update's manifest."""
    manifest, copies = open_handoff(handoff)
    return finish(out, manifest, copies)


def unlearn_model(
    source: Path, out: Path, work: Work, on_step: OnStep, *, dtype: str = "auto", force: bool = False
) -> TrainingReport:
    """Unlearn on a plain model directory and write a model: the noise-free baseline, or a single party's own work."""
    refuse_nesting(out, source)
    refuse_existing(out, force=force)
    model = open_checkpoint(source)
    with Staging(out, force=force) as staging, disk_errors(out):
        after = staging.path / _AFTER
        report = train_copy(source, after, work.forget, work.retain, work.recipe, None, lambda *a: on_step(source.name, *a))
        trained = open_checkpoint(after)
        write_changed(model, _changes(trained), staging.path, dtype, work.shard_bytes)
        shutil.rmtree(after)
        staging.commit()
    return report


def _train(
    published: Checkpoint, name: str, directory: Path, out: Path, manifest: HandoffManifest, work: Work, on_step: OnStep
) -> TrainingReport:
    after = directory / _AFTER
    report = train_copy(
        published.path, after, work.forget, work.retain, work.recipe, manifest.frozen, lambda *step: on_step(name, *step)
    )
    with disk_errors(out):
        write_delta(published, open_checkpoint(after), directory, manifest.frozen, work.delta_dtype, work.shard_bytes)
        shutil.rmtree(after)
    return report


def _changes(trained: Checkpoint) -> Changes:
    def changes(info: TensorInfo) -> Spans:
        after = trained.tensors[info.name]
        for start, stop in spans(info.elements, SPAN):
            yield start, stop, read_span(after, start, stop).double() - read_span(info, start, stop).double()

    return changes
