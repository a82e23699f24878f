"""`mpu aggregate`: θ ← θ + η Σ_k w_k T_k⁻¹(Δ_k), checked by gates and recorded in the lineage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.projections import projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.change import Changed, write_changed
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.file_state import WatchedModel
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import (
    Staging,
    after_rename,
    disk_errors,
    refuse_existing,
    refuse_nesting,
)
from mpu_cli.errors import GateError, OutputError
from mpu_cli.server.aggregation.copy_statistics import DrawStatistics
from mpu_cli.server.aggregation.mask_groups import check_mask_groups, unverified
from mpu_cli.server.aggregation.model_signature import ModelSigningKey, write_model_signature
from mpu_cli.server.aggregation.model_update import DrawAggregator, ModelUpdate
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.aggregation.update_gates import Copies, GateNumber, check_update
from mpu_cli.server.aggregation.validate_updates import (
    Expected,
    ValidatedUpdates,
    validate_updates,
)
from mpu_cli.server.can_be_loaded import check_loads
from mpu_cli.server.estimate import model_bytes
from mpu_cli.server.lineage.client_keys import ClientKeys
from mpu_cli.server.lineage.model_card import write_model_card
from mpu_cli.server.lineage.models import Lineage, digest_or_none, open_locked
from mpu_cli.server.lineage.not_in_lineage import unknown_model
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord, now
from mpu_cli.server.part import sent
from mpu_cli.server.secrets.leak_scan import require_no_secret


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """The new model, and what the gates measured."""

    model: ModelRecord
    updates: ValidatedUpdates
    source_dtype: str
    """Stored dtype of the given model."""
    test_secret: bool
    remarks: tuple[str, ...]
    """What the user must know about the given model's config.json."""
    has_base: bool
    """Whether the lineage measures its noise against a base."""
    base_source: str | None
    """Where that base was, if the lineage's secret says so."""
    changed: Changed | None = None
    """None if this run found the result of an interrupted one, whose gates had passed."""
    agreement: tuple[float | None, ...] = ()
    """Lowest pairwise cosine of the copies' changes, by draw; None with nothing to compare."""
    measured: tuple[GateNumber, ...] = ()
    """The number nearest to its limit, by gate."""
    statistics: tuple[DrawStatistics, ...] = ()
    """The copies' changes tensor by tensor, by draw."""
    unchanged: bool = False
    """Whether the update changes nothing, so that the result is the model itself."""


def aggregate(
    updates: Sequence[Path],
    secret: Path,
    model: Located,
    out: Path,
    settings: AggregateSettings,
    *,
    force: bool = False,
    keys: ClientKeys | None = None,
    model_key: ModelSigningKey | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> AggregateResult:
    """Aggregate updates onto `model` and write the result to `out`: a candidate of the lineage.

    `keys` says whose signatures are accepted, in place of the lineage's pinned keys; `model_key`
    signs the new model.

    Raises:
        MpuError: a gate refused the updates, or an input is bad; then nothing was written.
    """
    refuse_nesting(out, secret, model.path, *updates)
    source = open_checkpoint(model.path)
    check_side_files(source.path)
    check_loads(source)
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    require_space(out, model_bytes(source, settings.dtype), "the new model")
    check_mask_groups(unverified(updates))
    with open_locked(secret) as lineage:
        recovered = lineage.recover(out)
        files = WatchedModel(source)
        digest = model_digest(source, progress)
        if digest not in lineage.models:
            raise unknown_model(digest, model.path, lineage, updates)
        lineage.use(digest, model.path, fork=settings.fork)
        validated = validate_updates(
            updates,
            lineage,
            digest,
            lambda record: _expected(source, layout, record),
            missing=settings.missing,
            keys=keys,
            progress=progress,
        )
        for handoff in [lineage.handoffs[id_] for id_ in validated.handoffs]:
            if handoff.state == "prepared":  # its update proves that the client has it
                lineage.save_handoff(replace(handoff, state="issued"))
        for draw in validated.draws:
            _, held, _ = sent(source, layout, draw.record.layers)
            draw.record.require_layout(fingerprint(held), model.path)
        record = _completed(lineage, recovered, digest, validated, settings.server_lr)
        result = AggregateResult(
            record or lineage.models[digest],
            validated,
            source.dtype,
            test_secret=lineage.secret.origin == "test",
            remarks=source.remarks,
            has_base=lineage.secret.base is not None,
            base_source=lineage.secret.base_source,
        )
        if record is not None and not force:
            _refuse_unsigned(out, model_key)
            return result
        if not force:
            _refuse_finished(out, lineage, digest, validated, settings.server_lr)
        refuse_existing(out, force=force)
        master = lineage.secret.master
        draws = [
            DrawAggregator(draw, sent(source, layout, draw.record.layers)[1], master)
            for draw in validated.draws
        ]
        update = ModelUpdate(
            draws, settings.server_lr, partial(progress, "aggregate"), source.elements
        )
        with Staging(out, force=force, marked=True) as staging, disk_errors(out):
            changed = write_changed(
                source, update, staging.path, settings.dtype, settings.max_shard_bytes
            )
            copies = [Copies.of(draw.updates, draw.statistics) for draw in draws]
            measured = check_update(copies, changed, source.elements, settings)
            unchanged = changed.digest == digest
            record = (
                lineage.models[digest]
                if unchanged
                else _record(lineage, digest, changed.digest, validated, settings.server_lr)
            )
            disclosed = [draw.record for draw in validated.draws] if settings.disclose else []
            write_model_card(staging.path, lineage, record, disclosed)
            if model_key is not None:
                write_model_signature(staging.path, staging.target.name, model_key, progress)
            require_no_secret(staging.path, master)
            staging.flush()
            validated.require_unchanged()
            files.require_unchanged(digest)
            if not unchanged:
                lineage.save_model(replace(record, state="prepared"))
            staging.commit()
            if not unchanged:
                with after_rename(out, secret):
                    lineage.save_model(record)
        return replace(
            result,
            model=record,
            changed=changed,
            agreement=tuple(draw.statistics.agreement() for draw in draws),
            measured=measured,
            statistics=tuple(draw.statistics for draw in draws),
            unchanged=unchanged,
        )


def _expected(source: Checkpoint, layout: ModelLayout, record: HandoffRecord) -> Expected:
    """What an update of this handoff may change."""
    part, held, _ = sent(source, layout, record.layers)
    sizes = shapes(part.tensors)
    return Expected(sizes, held.frozen, projections(held, sizes))


def _completed(
    lineage: Lineage,
    recovered: frozenset[str],
    parent: str,
    updates: ValidatedUpdates,
    server_lr: float,
) -> ModelRecord | None:
    """The model of an interrupted run of this very command that only lacked its last record."""
    for record in (lineage.models[name] for name in recovered if name in lineage.models):
        if _is_of(record, parent, updates, server_lr):
            return record
    return None


def _refuse_unsigned(out: Path, key: ModelSigningKey | None) -> None:
    if key is not None:
        raise OutputError(
            f"{out}: an interrupted run had already written this model; it is now recorded, and"
            " this key did not sign it",
            "run the same command again with --force to sign it",
        )


def _is_of(record: ModelRecord, parent: str, updates: ValidatedUpdates, server_lr: float) -> bool:
    made_of = (record.parent, record.updates, record.server_lr)
    return made_of == (parent, updates.digests, server_lr)


def _refuse_finished(
    out: Path, lineage: Lineage, parent: str, updates: ValidatedUpdates, server_lr: float
) -> None:
    """Raise OutputError if `out` already holds the result; a kill may have hidden its message."""
    digest = digest_or_none(out) if out.is_dir() else None
    record = lineage.models.get(digest or "")
    if record is not None and _is_of(record, parent, updates, server_lr):
        raise OutputError(
            f"{out}: exists and is not empty: it is the finished result of these updates, and its"
            " record is committed",
            "nothing is left to do; choose another path to make it again, or give --force",
        )


def _record(
    lineage: Lineage, parent: str, digest: str, updates: ValidatedUpdates, server_lr: float
) -> ModelRecord:
    known = lineage.models.get(digest)
    if known is not None and (known.parent != parent or known.updates != updates.digests):
        raise GateError(
            f"the result is a model that the lineage already has (digest {digest[:12]}…)"
        )
    return ModelRecord(
        digest=digest,
        sequence=known.sequence if known else lineage.next_sequence,
        state="committed",
        parent=parent,
        updates=updates.digests,
        handoffs=updates.handoffs,
        server_lr=server_lr,
        source=None,
        date=known.date if known else now(),
    )
