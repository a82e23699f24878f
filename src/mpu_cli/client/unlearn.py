"""`mpu unlearn`: one recipe on every copy of a handoff (→ an update), or on a model (→ a model).

Where torchrun started several processes, each calls the same function: all train, the first one
writes. A `WorkDirectory` keeps what an interrupted run has done until the result is complete.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpu_cli.bundle.manifest import MANIFEST, UpdateManifest
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.signatures.trust import ANYBODY, Trust
from mpu_cli.checkpoint.digest import Progress, loaded_digest
from mpu_cli.checkpoint.header import NAMES
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.space import stored_bytes
from mpu_cli.checkpoint.staging import disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import Files
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.estimate import of_handoff, of_model
from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.client.handoff_to_train import open_to_train
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.lora import choose, matrices_of
from mpu_cli.client.payload_writer import write_payload
from mpu_cli.client.room import require_room_to_train
from mpu_cli.client.row_order import row_sampling
from mpu_cli.client.run import Run
from mpu_cli.client.session import Session, open_session, remove_finished
from mpu_cli.client.train_copy import CopyToTrain, train_copy
from mpu_cli.client.trained_model import write_trained
from mpu_cli.client.update import finish, make_copy_directory, write_manifest, write_note
from mpu_cli.errors import BadModelError, OutputError, UsageError
from mpu_cli.modeling import processes
from mpu_cli.training.report import TrainingReport
from mpu_cli.training.run_context import RunContext

OnStep = Callable[[str, int, int, float], None]
"""(copy's name, step from 1, number of steps, loss)"""
_STOPPED = "the step at which the first copy stopped"
_AFTER = ".after"
_MODEL = "model"


def unlearn_handoff(
    handoff: Path, out: Path, job: UnlearnJob, on_step: OnStep, *, force: bool = False
) -> tuple[UpdateManifest | None, dict[str, TrainingReport]]:
    """Train every copy alike and write the update, whose manifest only the first process gets.

    With a threshold, the first copy decides after how many steps all copies end, because copies
    that trained differently would not denoise each other.

    Raises:
        MpuError: a bad handoff, bad data, a loss that is not finite, a target that exists, another
            run's checkpoints.
    """
    refuse_nesting(out, handoff)
    remove_finished(out, job)
    refuse_existing(out, force=force)
    opened = open_to_train(handoff, job)
    require_room_to_train(of_handoff(handoff, opened), job, out)
    names = list(opened.copies)
    run = Run.of(job, opened.copies[names[0]].path)
    reports: dict[str, TrainingReport] = {}
    written: dict[str, Files] = {}
    update = None
    with open_session(out, names, job, force=force) as session:
        training = _HandoffTraining(opened, run, session, out, on_step)
        staging, stop_after = session.staging, None
        for name in names:
            directory = make_copy_directory(staging.path / name, out) if staging else None
            reports[name], written[name] = training.reuse_or_train(name, directory, stop_after)
            if job.recipe.settings.stops_early:
                stop_after = reports[names[0]].steps
        if staging:
            with disk_errors(out):
                update = write_manifest(staging.path, opened.manifest, written, signing=job.signing)
            session.commit()
    return update, reports


def unlearn_one_copy(
    handoff: Path, out: Path, number: int, job: UnlearnJob, on_step: OnStep, *, force: bool = False
) -> TrainingReport:
    """Train copy `number` alone and write `out/copy-K`; `finish_update` completes the update.

    Raises:
        MpuError: see `unlearn_handoff`; or a threshold, or a copy that does not exist.
    """
    refuse_nesting(out, handoff)
    settings = job.recipe.settings
    if settings.stops_early:
        raise UsageError(
            "--copy cannot end on a threshold: every copy must be trained for the same number of"
            " steps",
            "train all copies with one command, or give --max-steps",
        )
    remove_finished(out / f"copy-{number}", job, out)
    opened = open_to_train(handoff, job)
    name, count = f"copy-{number}", len(opened.copies)
    if name not in opened.copies:
        raise UsageError(
            f"--copy {number}: the handoff has {count} copies", f"give a number from 1 to {count}"
        )
    require_room_to_train(replace(of_handoff(handoff, opened), copies=1), job, out)
    if (out / MANIFEST).exists():
        raise OutputError(f"{out}: this update is already finished", "choose another --out")
    run = Run.of(job, opened.copies[name].path)
    with open_session(out / name, [name], job, force=force, work_for=out) as session:
        training = _HandoffTraining(opened, run, session, out, on_step)
        staging = session.staging
        report, files = training.train(name, staging.path if staging else None)
        if staging:
            with disk_errors(out):
                write_note(
                    staging.path,
                    run.job.recipe.fingerprint(),
                    opened.manifest,
                    files,
                    train_embeddings=settings.train_embeddings,
                )
            session.commit()
    return report


def finish_update(
    handoff: Path,
    out: Path,
    progress: Progress | None = None,
    *,
    trust: Trust = ANYBODY,
    signing: SigningKey | None = None,
) -> UpdateManifest:
    """Check all copies made with `--copy` and write the update's manifest.

    Args:
        handoff: what was trained on.
        out: the directory of the copies.
        progress: gets (what, bytes done, bytes in total) while the handoff is checked.
        trust: who must have signed the handoff.
        signing: signs the update.
    """
    refuse_nesting(out, handoff)
    opened = open_handoff(handoff, progress=progress, trust=trust)
    return finish(out, opened, signing)


def unlearn_model(
    source: Path,
    out: Path,
    job: UnlearnJob,
    on_step: OnStep,
    *,
    dtype: str = "auto",
    force: bool = False,
) -> TrainingReport:
    """Unlearn on a plain model directory and write a model: the noise-free baseline, for one.

    Raises:
        MpuError: a bad model, bad data, a loss that is not finite, a target that exists, another
            run's checkpoints.
    """
    refuse_nesting(out, source)
    remove_finished(out, job)
    refuse_existing(out, force=force)
    model, settings = open_checkpoint(source), job.recipe.settings
    check_side_files(source)
    if not model.float_dtypes or model.dtype not in NAMES:
        raise BadModelError(
            f"{source}: stored as {model.dtype}", "convert it to float32, bfloat16 or float16 first"
        )
    reference = job.reference.of(None, model) if job.reference else None
    if job.recipe.lora is not None:
        choose(job.recipe.lora, matrices_of(source), ())  # refuse a wrong target early
    to_train = of_model(model)
    if settings.train_embeddings:
        to_train = replace(to_train, frozen=())
    require_room_to_train(to_train, job, out, stored_bytes(model, dtype))
    run = Run.of(job, source)
    with open_session(out, [_MODEL], job, force=force, marked=True) as session, disk_errors(out):
        staging, work = session.staging, session.work
        after = (staging.path if staging else out) / _AFTER
        copy = CopyToTrain(
            source,
            after,
            () if settings.train_embeddings else None,
            row_sampling(settings),
            reference,
            job.warn,
        )
        # Only the first process keeps checkpoints, so only it needs the digest.
        digest = loaded_digest(model) if staging and work.wants_checkpoints else ""
        processes.join(run.device)
        job.doing(f"loading {source.name}")
        store = work.store(_MODEL, run.job.identity(digest))
        context = RunContext(
            run.device,
            lambda *step: on_step(source.name, *step),
            store,
            run.checkpoint(store),
            job.log_dir,
            session.stop,
        )
        report = train_copy(run, copy, context)
        if staging:
            job.doing(f"writing {out.name}")
            write_trained(model, after, staging.path, dtype, job.shard_bytes)
            shutil.rmtree(after)
            session.commit()
    return report


@dataclass(frozen=True, slots=True)
class _HandoffTraining:
    """Trains copies of a handoff and writes their payloads."""

    opened: OpenHandoff
    run: Run
    session: Session
    out: Path
    on_step: OnStep

    def reuse_or_train(
        self, name: str, directory: Path | None, stop_after: int | None
    ) -> tuple[TrainingReport, Files]:
        """Fill a copy's directory from an earlier run, or train the copy and keep it."""
        work, identity = self.session.work, self._identity(name, stop_after)
        finished = work.take(name, directory, identity) if directory else None
        processes.join(self.run.device)
        self.session.stop.end_if_asked()
        # All processes train the copy if the first one did not find it finished.
        report, files = processes.from_first(finished) or self.train(name, directory, stop_after)
        if directory and not finished:
            work.keep(name, directory, identity, report, files)
        return report, files

    def train(
        self, name: str, directory: Path | None, stop_after: int | None = None
    ) -> tuple[TrainingReport, Files]:
        """Train a copy; the first process, which has a directory, writes the payload into it."""
        job, published = self.run.job, self.opened.copies[name]
        processes.join(self.run.device)
        job.doing(f"loading {name}")
        copy = CopyToTrain(
            published.path,
            (directory or self.out) / _AFTER,
            self.opened.frozen,
            row_sampling(job.recipe.settings, self.opened, name),
            job.reference.of(name, published) if job.reference else None,
            is_cut=self.opened.manifest.cut is not None,
        )
        if name == next(iter(self.opened.copies)):  # copies share their warnings: once is enough
            copy = replace(copy, warn=job.warn)
        store = self.session.work.store(name, self._identity(name, stop_after))
        context = RunContext(
            self.run.device,
            lambda *step: self.on_step(name, *step),
            store,
            self.run.checkpoint(store),
            job.log_dir / name if job.log_dir else None,
            self.session.stop,
            stop_after,
        )
        report = train_copy(self.run, copy, context)
        if directory is None:
            return report, {}
        job.doing(f"writing {name}")
        with disk_errors(self.out):
            delta_format = DeltaFormat(job.delta_dtype, job.shard_bytes)
            files = write_payload(self.opened, published, copy.after, directory, delta_format)
            self.opened.files.require_unchanged(published.path)
            shutil.rmtree(copy.after)
        return report, files

    def _identity(self, name: str, stop_after: int | None) -> dict[str, Any]:
        manifest = self.opened.manifest
        digest = next(copy.digest for copy in manifest.copies if copy.name == name)
        return self.run.job.identity(digest + manifest.digest) | {_STOPPED: stop_after}
