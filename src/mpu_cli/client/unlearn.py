"""`mpu unlearn`: the same recipe on every copy of a handoff (→ an update), or on a model (→ a model).

Where torchrun started several processes, each calls the same function: all train, the first one
writes. What an interrupted run has done lies in a `WorkDirectory` until the result is complete.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpu_cli.architectures.projections import Projections
from mpu_cli.bundle.adapter import open_adapter
from mpu_cli.bundle.manifest import MANIFEST, UpdateManifest
from mpu_cli.checkpoint.change import Changes, Spans, write_changed
from mpu_cli.checkpoint.digest import loaded_digest
from mpu_cli.checkpoint.dtypes import read_span, spans
from mpu_cli.checkpoint.header import NAMES, TensorInfo
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.side_files import NOT_OF_ROWS, check_side_files, is_allowed
from mpu_cli.checkpoint.space import stored_bytes
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import Files
from mpu_cli.client import methods
from mpu_cli.client.adapters import row_spans
from mpu_cli.client.estimate import ModelToTrain, of_handoff, of_model
from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.client.job import UnlearnJob
from mpu_cli.client.lora import choose, inexact, matrices_of
from mpu_cli.client.payload_writer import write_payload
from mpu_cli.client.room import require_room_to_train
from mpu_cli.client.row_order import drawing_of, words
from mpu_cli.client.train_copy import possible_alternates, train_copy
from mpu_cli.client.training_rows import RowEncoder
from mpu_cli.client.update import finish, make_copy_directory, write_manifest, write_note
from mpu_cli.client.work_directory import WorkDirectory
from mpu_cli.errors import BadBundleError, BadModelError, OutputError, StoppedError, UsageError
from mpu_cli.modeling import processes
from mpu_cli.training.stop_signal import StopSignal

if TYPE_CHECKING:
    from mpu_cli.training.trainer import TrainingReport

OnStep = Callable[[str, int, int, float], None]
"""Told the copy's name, the step, the number of steps, and the loss."""
_STOPPED = "the step at which the first copy stopped"
_AFTER = ".after"
_MODEL = "model"


def unlearn_handoff(
    handoff: Path, out: Path, work: UnlearnJob, on_step: OnStep, *, force: bool = False
) -> tuple[UpdateManifest | None, dict[str, TrainingReport]]:
    """Train every copy alike and write the update (None in all processes but the first).

    With a threshold, the first copy decides after how many steps all copies end: copies that
    trained differently would not denoise each other.

    Raises:
        MpuError: a bad handoff, bad data, a loss that is not finite, a target that exists, another
            run's checkpoints.
    """
    refuse_nesting(out, handoff)
    refuse_existing(out, force=force)
    opened = _open(handoff, work)
    _require_room(of_handoff(handoff, opened), work, out)
    names = list(opened.copies)
    work = _encoded(work, opened.copies[names[0]].path)
    reports: dict[str, TrainingReport] = {}
    written: dict[str, Files] = {}
    update = None
    with _writing(out, names, work, force) as (staging, kept, stop):
        stop_after = None
        for name in names:
            identity = work.identity(_source(opened, name)) | {_STOPPED: stop_after}
            directory = make_copy_directory(staging.path / name, out) if staging else None
            done = kept.take(name, directory, identity) if directory else None
            _join(work)
            stop.end_if_asked()
            # All processes train the copy if the first one did not find it finished.
            reports[name], written[name] = processes.from_first(done) or _train(
                opened, name, directory, out, work, kept, stop, identity, on_step, stop_after
            )
            if directory and not done:
                kept.keep(name, directory, identity, reports[name], written[name])
            if work.recipe.settings.stops_early:
                stop_after = reports[names[0]].steps
        if staging:
            with disk_errors(out):
                update = write_manifest(staging.path, opened.manifest, written)
            staging.commit()
    return update, reports


def unlearn_one_copy(
    handoff: Path, out: Path, number: int, work: UnlearnJob, on_step: OnStep, *, force: bool = False
) -> TrainingReport:
    """Train copy number `number` alone and write `out/copy-K`.

    `finish_update` completes the update.
    """
    refuse_nesting(out, handoff)
    if work.recipe.settings.stops_early:
        raise UsageError(
            "--copy cannot end on a threshold: every copy must be trained for the same number of"
            " steps",
            "train all copies with one command, or give --max-steps",
        )
    opened = _open(handoff, work)
    name, count = f"copy-{number}", len(opened.copies)
    if name not in opened.copies:
        raise UsageError(
            f"--copy {number}: the handoff has {count} copies", f"give a number from 1 to {count}"
        )
    _require_room(replace(of_handoff(handoff, opened), copies=1), work, out)
    if (out / MANIFEST).exists():
        raise OutputError(f"{out}: this update is already finished", "choose another --out")
    work = _encoded(work, opened.copies[name].path)
    with _writing(out / name, [name], work, force, beside=out) as (staging, kept, stop):
        identity = work.identity(_source(opened, name)) | {_STOPPED: None}
        report, files = _train(
            opened,
            name,
            staging.path if staging else None,
            out,
            work,
            kept,
            stop,
            identity,
            on_step,
        )
        if staging:
            with disk_errors(out):
                embeddings = work.recipe.settings.train_embeddings
                write_note(
                    staging.path,
                    work.recipe.fingerprint(),
                    opened.manifest,
                    files,
                    train_embeddings=embeddings,
                )
            staging.commit()
    return report


def finish_update(handoff: Path, out: Path) -> UpdateManifest:
    """Check all copies made with `--copy` and write the update's manifest."""
    refuse_nesting(out, handoff)
    opened = open_handoff(handoff)
    _check_tokenizers(opened)
    return finish(out, opened)


def unlearn_model(
    source: Path,
    out: Path,
    work: UnlearnJob,
    on_step: OnStep,
    *,
    dtype: str = "auto",
    force: bool = False,
) -> TrainingReport:
    """Unlearn on a plain model directory and write a model.

    The noise-free baseline, or a single party's own work.
    """
    refuse_nesting(out, source)
    refuse_existing(out, force=force)
    model = open_checkpoint(source)
    check_side_files(source)
    if not model.float_dtypes or model.dtype not in NAMES:
        raise BadModelError(
            f"{source}: stored as {model.dtype}", "convert it to float32, bfloat16 or float16 first"
        )
    settings = work.recipe.settings
    reference_dir = work.reference.of(None, model) if work.reference else None
    if work.recipe.lora is not None:
        choose(
            work.recipe.lora, matrices_of(source), ()
        )  # a wrong target is refused before anything is loaded
    subject = of_model(model)
    _require_room(
        replace(subject, frozen=()) if settings.train_embeddings else subject,
        work,
        out,
        stored_bytes(model, dtype),
    )
    work = _encoded(work, source)
    with (
        _writing(out, [_MODEL], work, force, marked=True) as (staging, kept, stop),
        disk_errors(out),
    ):
        digest = (
            loaded_digest(model) if staging and kept.wants_checkpoints else ""
        )  # only the first process keeps any
        after = (staging.path if staging else out) / _AFTER
        work.doing(f"loading {source.name}")
        report = train_copy(
            source,
            after,
            work.forget,
            work.retain,
            work.recipe,
            () if settings.train_embeddings else None,
            lambda *step: on_step(source.name, *step),
            store=kept.store(_MODEL, work.identity(digest)),
            resume=work.keeping.resume,
            rows=work.rows,
            log_dir=work.log_dir,
            drawing=drawing_of(settings),
            refusals=work.refusals,
            reference_dir=reference_dir,
            stop=stop,
            on_note=work.note,
            on_warning=work.warn,
        )
        if staging:
            work.doing(f"writing {out.name}")
            changes = (
                _changes(open_checkpoint(after)) if work.recipe.lora is None else _adapted(after)
            )
            write_changed(model, changes, staging.path, dtype, work.shard_bytes)
            shutil.rmtree(after)
            staging.commit()
    return report


@contextmanager
def _writing(
    target: Path,
    names: list[str],
    work: UnlearnJob,
    force: bool,
    beside: Path | None = None,
    *,
    marked: bool = False,
) -> Iterator[tuple[Staging | None, WorkDirectory, StopSignal]]:
    """The directory to fill (None in all processes but the first), what outlives an interruption, and who is told of one.

    Raises:
        StoppedError: instead of KeyboardInterrupt; it says what was kept.
    """
    kept = WorkDirectory(beside or target, work.keeping)
    started = time.monotonic()
    first = processes.this_process().is_first
    stop = StopSignal(work.note if first else lambda text: None)
    with Staging(target, force=force, marked=marked) if first else nullcontext() as staging, stop:
        if staging is not None:
            kept.begin(names, force=force)
        try:
            yield staging, kept, stop
        except KeyboardInterrupt as interrupt:
            raise _stopped(kept, names if first else [], work) from interrupt
        except BaseException:
            if staging is not None and kept.failed(names, time.monotonic() - started):
                work.note(f"what is done is kept in {kept.path}; go on with: {work.resume_with}")
            raise
        if staging is not None:
            kept.discard(names)


def _stopped(kept: WorkDirectory, names: list[str], work: UnlearnJob) -> StoppedError:
    done = kept.described(names)
    if done:
        return StoppedError(
            f"interrupted; {kept.path} keeps {done}", f"go on with: {work.resume_with}"
        )
    kept.discard(names)
    why = (
        "no checkpoint was complete yet"
        if kept.wants_checkpoints
        else "--save-seconds 0 asks for no checkpoints"
    )
    return StoppedError(f"interrupted; nothing was kept: {why}", "run the same command again")


def _train(
    opened: OpenHandoff,
    name: str,
    directory: Path | None,
    out: Path,
    work: UnlearnJob,
    kept: WorkDirectory,
    stop: StopSignal,
    identity: dict[str, Any],
    on_step: OnStep,
    stop_after: int | None = None,
) -> tuple[TrainingReport, Files]:
    """Train one copy; in the first process, write its payload.

    Returns the payload's files too, none in other processes.
    """
    published = opened.copies[name]
    after = (directory or out) / _AFTER
    # The model is the same for every copy: once is enough.
    first = name == next(iter(opened.copies))
    work.doing(f"loading {name}")
    report = train_copy(
        published.path,
        after,
        work.forget,
        work.retain,
        work.recipe,
        opened.frozen,
        lambda *step: on_step(name, *step),
        store=kept.store(name, identity),
        resume=work.keeping.resume,
        rows=work.rows,
        stop_after=stop_after,
        log_dir=work.log_dir / name if work.log_dir else None,
        drawing=drawing_of(work.recipe.settings, opened, name),
        refusals=work.refusals,
        reference_dir=work.reference.of(name, published) if work.reference else None,
        stop=stop,
        on_note=work.note if first else lambda text: None,
        on_warning=work.warn if first else lambda text: None,
    )
    if directory is None:
        return report, {}
    work.doing(f"writing {name}")
    with disk_errors(out):
        files = write_payload(
            opened, published, after, directory, work.delta_dtype, work.shard_bytes
        )
        shutil.rmtree(after)
    return report, files


def _open(handoff: Path, work: UnlearnJob) -> OpenHandoff:
    """Open a handoff for this work, and say what the user must know of it before anything is trained.

    Raises:
        MpuError: a bad handoff, or copies with other tokenizers; a reference of other tensors;
            embeddings to be trained that the handoff freezes.
    """
    settings = work.recipe.settings
    opened = open_handoff(handoff, train_embeddings=settings.train_embeddings)
    _check_tokenizers(opened)
    if settings.train_embeddings and opened.manifest.frozen:
        raise UsageError(
            f"--train-embeddings: {handoff} freezes {', '.join(opened.manifest.frozen)}",
            "ask the server to perturb with --train-embeddings (--preset paper does), or give"
            " --no-train-embeddings",
        )
    _check_lora(work, opened.matrices, opened.frozen)
    for name, published in opened.copies.items():
        if work.reference is not None:
            work.reference.of(name, published)
    if processes.this_process().is_first:
        if work.retain is not None:
            work.note(words(settings, opened))
        if settings.order_per_copy:
            work.warn(
                "each copy sees the rows in an order of its own: what differs between the copies by"
                " it does not cancel"
                if len(opened.copies) > 1
                else (
                    "--order-per-copy: this handoff has one copy; if it is part of a split, all"
                    " holders still have the same order"
                )
            )
    return opened


def _require_room(
    subject: ModelToTrain, work: UnlearnJob, out: Path, model_bytes: int | None = None
) -> None:
    if processes.this_process().is_first:
        require_room_to_train(
            subject,
            work.recipe,
            work.delta_dtype,
            out,
            WorkDirectory(out, work.keeping),
            model_bytes,
        )


def _source(opened: OpenHandoff, name: str) -> str:
    return (
        next(copy.digest for copy in opened.manifest.copies if copy.name == name)
        + opened.manifest.digest
    )


def _encoded(work: UnlearnJob, place: Path) -> UnlearnJob:
    """The work with its rows as tokens of the model in `place`, and their digest in the recipe."""
    recipe = work.recipe
    inputs = methods.get(recipe.method).inputs_with(dict(recipe.parameters))
    rows = RowEncoder(place, recipe, work.note).training_rows(
        work.forget,
        work.retain,
        (
            possible_alternates(work.forget, work.refusals, recipe.settings)
            if "alternate" in inputs
            else ()
        ),
    )
    return replace(work, rows=rows, recipe=replace(work.recipe, tokens_digest=rows.digest))


def _check_tokenizers(opened: OpenHandoff) -> None:
    """Refuse copies that would turn the same rows into other tokens.

    What differs between copies beside the noise does not cancel.
    """
    first, *others = opened.manifest.copies
    for copy in others:
        for name in sorted({*first.files, *copy.files}):
            if (
                is_allowed(name)
                and name not in NOT_OF_ROWS
                and first.files.get(name) != copy.files.get(name)
            ):
                raise BadBundleError(
                    f"{copy.name}/{name} is not that of {first.name}: the copies would see other"
                    " tokens",
                    "ask for the handoff again",
                )


def _check_lora(work: UnlearnJob, matrices: Projections, frozen: Sequence[str]) -> None:
    """Before anything is trained: are there such targets, and do adapters on them denoise?"""
    if work.recipe.lora is not None:
        text = inexact(choose(work.recipe.lora, matrices, frozen))
        if text is not None and processes.this_process().is_first:
            work.warn(text)


def _join(work: UnlearnJob) -> None:
    """Form the process group, which must be there before processes can tell each other anything."""
    if processes.this_process().size > 1:
        from mpu_cli.modeling.device import choose_device

        processes.join(choose_device(work.recipe.settings.device))


def _changes(trained: Checkpoint) -> Changes:
    def changes(info: TensorInfo) -> Spans | None:
        after = trained.tensors.get(info.name)
        # transformers does not save buffers that some checkpoints hold; what is not saved did not
        # change.
        return None if after is None else _pieces(info, after)

    return changes


def _adapted(directory: Path) -> Changes:
    adapter = open_adapter(directory)

    def changes(info: TensorInfo) -> Spans | None:
        change = adapter.get(info.name)
        return (
            None
            if change is None
            else ((start, stop, piece.double()) for start, stop, piece in row_spans(change))
        )

    return changes


def _pieces(before: TensorInfo, after: TensorInfo) -> Spans:
    for start, stop in spans(before.elements):
        trained, stored = read_span(after, start, stop), read_span(before, start, stop)
        # Training began from what was stored, rounded where weights are trained in a narrower
        # dtype.
        yield start, stop, trained.double() - stored.to(trained.dtype).double()
