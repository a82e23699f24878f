"""`mpu aggregate`: Δ̄ = Σ_k w_k T_k⁻¹(Δ_k), θ ← θ + η Δ̄, streamed, gated, and written into the lineage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isfinite, sqrt
from pathlib import Path

import torch

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.architectures.projections import projections
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.payload import ChangedTensor, DenseChange, check_numbers
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.change import PIECE, Changed, Spans, write_changed
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.dtypes import Scratch, converted, read_rows
from mpu_cli.checkpoint.header import TensorInfo
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import Checkpoint, open_checkpoint
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import DEFAULT_SHARD_BYTES
from mpu_cli.errors import GateError, UsageError
from mpu_cli.server.aggregation.validate_updates import (
    DrawUpdates,
    Expected,
    Incoming,
    validate_updates,
)
from mpu_cli.server.can_be_loaded import check_loads
from mpu_cli.server.estimate import model_bytes
from mpu_cli.server.lineage.model_card import write_model_card
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.lineage.records import ModelRecord, now
from mpu_cli.server.lineage.whose_lineage import unknown_model
from mpu_cli.server.secrets.leak_scan import require_no_secret
from mpu_cli.server.transforms.blockwise import BLOCK, BlockwiseTransform, row_blocks
from mpu_cli.server.transforms.draw import draw_model


@dataclass(frozen=True, slots=True)
class AggregateSettings:
    """The options of `mpu aggregate`."""

    server_lr: float = 1.0
    missing: str = "refuse"
    min_agreement: float = 0.15
    max_relative_norm: float = 0.5
    fork: bool = False
    dtype: str = "auto"
    max_shard_bytes: int = DEFAULT_SHARD_BYTES
    disclose: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for values outside the ranges."""
        if not 0 < self.server_lr < float("inf"):
            raise UsageError(f"--server-lr {self.server_lr:g}: must be a positive number")
        if not -1 <= self.min_agreement <= 1:
            raise UsageError(
                f"--min-agreement {self.min_agreement:g}: a cosine lies between -1 and 1"
            )
        if not self.max_relative_norm > 0:
            raise UsageError(f"--max-relative-norm {self.max_relative_norm:g}: must be positive")


@dataclass(frozen=True, slots=True)
class AggregateResult:
    """What was made, and what the gates measured."""

    model: ModelRecord
    changed: Changed | None
    """None if the run found the finished result of an interrupted one, whose gates had passed."""
    incoming: Incoming
    agreement: tuple[float | None, ...]
    """Lowest pairwise cosine of the copies' changes, by draw.

    None where there is nothing to compare.
    """
    source_dtype: str
    """Stored dtype of the given model."""
    unchanged: bool
    """The update changes nothing: the result is the model itself."""
    test_secret: bool
    remarks: tuple[str, ...]
    """What the user must be told of the given model's config.json."""
    has_base: bool
    """Whether the lineage measures its noise against a base."""
    base_source: str | None
    """Where that base was, if the lineage's secret says so."""


def aggregate(
    updates: Sequence[Path],
    secret: Path,
    model: Located,
    out: Path,
    settings: AggregateSettings,
    *,
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> AggregateResult:
    """Aggregate updates onto `model` and write the result to `out`: a candidate of the lineage.

    Raises:
        MpuError: a gate said no, or something that was read is bad; then nothing was written.
    """
    refuse_nesting(out, secret, model.path, *updates)
    source = open_checkpoint(model.path)
    check_side_files(source.path)
    check_loads(source)
    sizes = shapes(source.tensors)
    layout = read_layout(source.config, sizes, source.path)
    layout_now = fingerprint(layout)
    require_space(out, model_bytes(source, settings.dtype), "the new model")
    with open_locked(secret) as lineage:
        test_secret = lineage.secret.origin == "test"
        has_base, base_source = lineage.secret.base is not None, lineage.secret.base_source
        recovered = lineage.recover(out)
        progress("verify", 0, 1)
        digest = model_digest(source)
        if digest not in lineage.models:
            raise unknown_model(digest, model.path, lineage, updates)
        lineage.use(digest, model.path, fork=settings.fork)
        expected = Expected(sizes, layout.frozen, projections(layout, sizes))
        incoming = validate_updates(updates, lineage, digest, expected, missing=settings.missing)
        for handoff in [lineage.handoffs[id_] for id_ in incoming.handoffs]:
            if handoff.state == "prepared":  # its update proves that it did leave
                lineage.save_handoff(replace(handoff, state="issued"))
        for incoming_draw in incoming.draws:
            incoming_draw.record.require_layout(layout_now, model.path)
        done = _completed(lineage, recovered, digest, incoming, settings)
        if done is not None and not force:
            return AggregateResult(
                done,
                None,
                incoming,
                (),
                source.dtype,
                unchanged=False,
                test_secret=test_secret,
                remarks=source.remarks,
                has_base=has_base,
                base_source=base_source,
            )
        refuse_existing(out, force=force)
        draws = [_DrawAggregator(lineage, layout, draw) for draw in incoming.draws]
        with Staging(out, force=force, marked=True) as staging, disk_errors(out):
            changed, agreement = _write(source, draws, staging.path, settings, progress)
            unchanged = changed.digest == digest
            record = (
                lineage.models[digest]
                if unchanged
                else _record(lineage, digest, changed, incoming, settings)
            )
            write_model_card(staging.path, lineage, record, incoming if settings.disclose else None)
            require_no_secret(staging.path, lineage.secret.master)
            if unchanged:
                staging.commit()
            else:
                lineage.save_model(replace(record, state="prepared"))
                staging.commit()
                lineage.save_model(record)
        return AggregateResult(
            record,
            changed,
            incoming,
            agreement,
            source.dtype,
            unchanged=unchanged,
            test_secret=test_secret,
            remarks=source.remarks,
            has_base=has_base,
            base_source=base_source,
        )


def _completed(
    lineage: Lineage,
    recovered: frozenset[str],
    parent: str,
    incoming: Incoming,
    settings: AggregateSettings,
) -> ModelRecord | None:
    """The model of an interrupted run of this very command, which only lacked its last record."""
    for record in (lineage.models[name] for name in recovered if name in lineage.models):
        if (
            record.parent == parent
            and record.updates == incoming.updates
            and record.server_lr == settings.server_lr
        ):
            return record
    return None


def _write(
    source: Checkpoint,
    draws: Sequence[_DrawAggregator],
    directory: Path,
    settings: AggregateSettings,
    progress: Callable[[str, int, int], None],
) -> tuple[Changed, tuple[float | None, ...]]:
    done, total = 0, source.elements

    def changes(info: TensorInfo) -> Spans | None:
        nonlocal done
        done += info.elements
        progress("aggregate", done, total)
        mine = [draw for draw in draws if draw.has(info.name)]
        return _sum(info, mine, settings.server_lr) if mine else None

    changed = write_changed(source, changes, directory, settings.dtype, settings.max_shard_bytes)
    agreement = tuple(draw.agreement() for draw in draws)
    for draw, cosine in zip(draws, agreement, strict=True):
        if cosine is not None and not cosine >= settings.min_agreement:  # NaN is no agreement
            raise GateError(
                f"the copies' changes do not agree (cosine {cosine:.3f}, at least"
                f" {settings.min_agreement:g} is needed): copies of"
                f" {draw.incoming.deltas[0].where.parent} were swapped, repeated, or trained"
                " differently",
                "ask the client to make the update again with one recipe and order; or lower"
                f" --min-agreement, if it is the noise (κ = {draw.incoming.record.kappa:g}) that"
                " drowns them",
            )
    if not changed.relative_norm <= settings.max_relative_norm * settings.server_lr:
        raise GateError(
            f"the update is {changed.relative_norm / settings.server_lr:.3f} of the model's norm,"
            f" more than {settings.max_relative_norm:g}",
            "the client's training diverged; if you trust it, raise --max-relative-norm",
        )
    return changed, agreement


def _sum(info: TensorInfo, draws: Sequence[_DrawAggregator], server_lr: float) -> Spans:
    moves = [draw.moves(info) for draw in draws]
    flat = [move for mine in moves for move in mine]
    change, work = torch.empty(PIECE, dtype=torch.float64), torch.empty(PIECE, dtype=torch.float64)
    for start, stop in row_blocks(info.shape, flat, min(BLOCK, 6 * BLOCK // len(flat))):
        parts = [
            part
            for draw, mine in zip(draws, moves, strict=True)
            for part in draw.undone(info, mine, start, stop)
        ]
        first, last = start * flat[0].columns, stop * flat[0].columns
        for a in range(0, last - first, PIECE):
            b = min(a + PIECE, last - first)
            total = change[: b - a].zero_()
            for weight, values in parts:
                total.add_(work[: b - a].copy_(values[a:b]), alpha=weight * server_lr)
            yield first + a, first + b, total


class _DrawAggregator:
    """One draw's changes: T undone, weighted, and their agreement."""

    def __init__(self, lineage: Lineage, layout: ModelLayout, incoming: DrawUpdates) -> None:
        self.incoming = incoming
        record = incoming.record
        self._layer_of = layout.layer_of()
        self._steps = [
            draw_model(
                record.transforms, layout.layers, lineage.secret.master, record.draw, delta.position
            )
            for delta in incoming.deltas
        ]
        # A second pass over the tensors (write_changed may need one) doubles every entry and leaves
        # the cosines as they are.
        self._gram = torch.zeros(len(incoming.deltas), len(incoming.deltas), dtype=torch.float64)
        self._read, self._wide, self._back = (
            Scratch(),
            Scratch(),
            [Scratch() for _ in incoming.deltas],
        )

    def has(self, name: str) -> bool:
        """Whether any copy changed this tensor."""
        return any(
            self._held(number, name) is not None for number in range(len(self.incoming.deltas))
        )

    def moves(self, info: TensorInfo) -> list[BlockwiseTransform]:
        """T_k of one tensor of θ, by delta."""
        layer = self._layer_of.get(info.name)
        return [
            BlockwiseTransform(
                steps[layer].maps.get(info.name, ()) if layer is not None else (), info.shape
            )
            for steps in self._steps
        ]

    def undone(
        self, info: TensorInfo, moves: Sequence[BlockwiseTransform], start: int, stop: int
    ) -> list[tuple[float, torch.Tensor]]:
        """(w_k, T_k⁻¹(Δ_k)) of rows start..stop of a tensor of θ, flattened float32, of the copies that changed it.

        Raises:
            GateError: an entry is not a number.
        """
        back: dict[int, torch.Tensor] = {}
        for number, move in enumerate(moves):
            held = self._held(number, info.name)
            if held is None:
                continue
            places = move.places(start, stop)
            if isinstance(held, DenseChange):
                stored = read_rows(held.info, places, move.columns, self._read)
            else:
                stored = held.rows(places, move.columns)
            out = self._back[number].tensor(torch.float32, stop - start, move.columns)
            if move.maps:
                out = move.invert(converted(stored, torch.float32, self._wide), start, out)
            else:
                out.copy_(stored)
            back[number] = out.view(-1)
        moved = any(move.maps for move in moves)
        for i, first in back.items():
            for j, second in back.items():
                if j == i or (moved and j > i):
                    product = float(torch.dot(first, second))
                    if j == i and not isfinite(product):
                        check_numbers(
                            self.incoming.deltas[i].where, self.incoming.deltas[i].tensors
                        )
                    if moved:
                        self._gram[i, j] += product
                        self._gram[j, i] += product if i != j else 0.0
        return [(self.incoming.weights[number], values) for number, values in back.items()]

    def _held(self, number: int, name: str) -> ChangedTensor | None:
        """The tensor of delta `number` that holds the change of θ's tensor `name`, if it did change."""
        layer = self._layer_of.get(name)
        place = name if layer is None else self._steps[number][layer].target(name)
        return self.incoming.deltas[number].tensors.get(place)

    def agreement(self) -> float | None:
        """The lowest pairwise cosine over the tensors that T moves.

        None with one copy, no T, or no change at all.
        """
        norms = [sqrt(float(self._gram[k, k])) for k in range(len(self._gram))]
        if len(norms) < 2 or not any(norms):
            return None
        return min(
            float(self._gram[i, j]) / (norms[i] * norms[j]) if norms[i] and norms[j] else 0.0
            for i in range(len(norms))
            for j in range(i)
        )


def _record(
    lineage: Lineage, parent: str, changed: Changed, incoming: Incoming, settings: AggregateSettings
) -> ModelRecord:
    known = lineage.models.get(changed.digest)
    if known is not None and (known.parent != parent or known.updates != incoming.updates):
        raise GateError(
            f"the result is a model that the lineage already has (digest {changed.digest[:12]}…)"
        )
    return ModelRecord(
        digest=changed.digest,
        sequence=known.sequence if known else lineage.next_sequence,
        state="committed",
        parent=parent,
        updates=incoming.updates,
        handoffs=incoming.handoffs,
        server_lr=settings.server_lr,
        source=None,
        date=known.date if known else now(),
    )
