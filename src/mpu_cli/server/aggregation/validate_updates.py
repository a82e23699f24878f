"""Match updates with their handoffs; refuse malformed, incomplete and repeated ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.architectures.projections import Projections
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.masked import check_masked, open_masked
from mpu_cli.bundle.payload import ChangedTensor, check_changes, open_changes
from mpu_cli.bundle.read import verify_update
from mpu_cli.bundle.signatures.trust import BundleSigner
from mpu_cli.bundle.trusted import check_update_of
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.file_state import WatchedFiles
from mpu_cli.errors import GateError
from mpu_cli.server.aggregation.mask_groups import check_mask_groups
from mpu_cli.server.aggregation.masked_sum import MaskedSum, masked_sums
from mpu_cli.server.denoising import residual_noise, weights
from mpu_cli.server.lineage.client_keys import ClientKeys
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.not_in_lineage import unknown_handoff
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord

SomeChanges = Mapping[str, ChangedTensor | MaskedSum]
"""The changes by on-disk tensor, of one update or of a whole mask group."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an update may change of the model that was handed out."""

    shapes: dict[str, tuple[int, ...]]
    frozen: Sequence[str]
    matrices: Projections
    """Where a low-rank change may lie."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The change of one copy."""

    where: Path
    position: int
    coefficient: float
    tensors: SomeChanges


@dataclass(frozen=True, slots=True)
class DrawUpdates:
    """The changes of one draw's copies."""

    record: HandoffRecord
    deltas: tuple[Delta, ...]

    @property
    def missing(self) -> int:
        """Copies of the draw without a change."""
        return self.record.size - len(self.deltas)

    @property
    def weights(self) -> tuple[float, ...]:
        """w_k of the deltas."""
        return weights(self.record.denoising, [delta.coefficient for delta in self.deltas])

    @property
    def residual(self) -> float:
        """First-order noise that the missing copies leave, as a multiple of κ."""
        if not self.missing:
            return 0.0
        present = [delta.coefficient for delta in self.deltas]
        coefficients = [*present]
        if self.record.denoising == "harmonic":
            # The others' coefficients are unknown here, and do not change the residual.
            coefficients += [1.0] * self.missing
        return residual_noise(self.record.denoising, coefficients, range(len(present)))


@dataclass(frozen=True, slots=True)
class ValidatedUpdates:
    """All updates of one aggregation."""

    draws: tuple[DrawUpdates, ...]
    digests: tuple[str, ...]
    handoffs: tuple[str, ...]
    """Ids."""
    mask_groups: tuple[tuple[str, ...], ...]
    """Public keys of each mask group; of its members' updates only the sum is known."""
    signers: tuple[BundleSigner | None, ...]
    """Who signed each update."""
    staleness: int
    """How many models lie between the oldest handoff's model and the one that is updated."""
    files: WatchedFiles
    """All files of the updates."""
    paths: tuple[Path, ...]
    """The updates' directories."""

    def require_unchanged(self) -> None:
        """Require that no update was altered since its digests were checked.

        Rows are read in the order of the model's rows, not of the file's, so they cannot be hashed
        as they are read.

        Raises:
            BadBundleError: one was.
        """
        for path in self.paths:
            self.files.require_unchanged(path)


@dataclass(frozen=True, slots=True)
class _Update:
    record: HandoffRecord
    manifest: UpdateManifest
    path: Path
    signer: BundleSigner | None


def validate_updates(
    paths: Sequence[Path],
    lineage: Lineage,
    model: str,
    expected: Callable[[HandoffRecord], Expected],
    *,
    missing: str,
    keys: ClientKeys | None = None,
    progress: Progress | None = None,
) -> ValidatedUpdates:
    """Check updates against their handoffs and the chain of `model`.

    `expected` says what the update of a handoff may change.

    Entries that are not numbers are found later, when the changes are summed. `keys` says whose
    signatures are accepted: by default those of the lineage's pinned keys.

    Raises:
        BadBundleError: an update is malformed.
        SignatureError: not signed by the client who got the handoff, if its key is known.
        GateError: another handoff, a handoff off the chain, a replay, a missing copy (unless
            `missing` is reweight), a foreign tensor, another shape, a frozen tensor, an adapter
            where none may be, an incomplete group of masked updates.
    """
    keys = keys or ClientKeys(lineage.path)
    chain = lineage.chain(model)
    ages = {record.digest: age for age, record in enumerate(chain)}
    updates: list[_Update] = []
    files = WatchedFiles()
    for path in paths:
        manifest, signer = verify_update(path, progress, files.digest, keys.trust)
        record = lineage.handoffs.get(manifest.handoff_id)
        if record is None:
            raise unknown_handoff(manifest.handoff_id, path, lineage)
        copies = {copy.name: copy.digest for copy in record.copies}
        check_update_of(manifest, record.id, record.digest, copies)
        if record.model not in ages:
            raise GateError(
                f"{path}: its handoff was made from a model that is not an ancestor of the one"
                " given",
                "aggregate onto the head, or onto the model that was handed out",
            )
        update = _Update(record, manifest, path, keys.accept(path, record.holder, signer))
        _require_new(update, updates, chain, lineage)
        updates.append(update)
    check_mask_groups((update.path, update.manifest) for update in updates)
    updates.sort(key=_order)
    return ValidatedUpdates(
        tuple(_draw(held, expected(held[0].record), missing) for held in _by_draw(updates)),
        tuple(update.manifest.digest for update in updates),
        tuple(dict.fromkeys(update.record.id for update in updates)),
        tuple(dict.fromkeys(u.manifest.mask.group for u in updates if u.manifest.mask)),
        tuple(update.signer for update in updates),
        max(ages[update.record.model] for update in updates),
        files,
        tuple(paths),
    )


def _by_draw(updates: Sequence[_Update]) -> list[list[_Update]]:
    draws: dict[str, list[_Update]] = {}
    for update in updates:
        draws.setdefault(update.record.draw, []).append(update)
    return list(draws.values())


def _order(update: _Update) -> tuple[int, int]:
    """The order of updates, whatever the order of the arguments."""
    mask = update.manifest.mask
    return update.record.sequence, 0 if mask is None else mask.member


def _require_new(
    update: _Update,
    others: Collection[_Update],
    chain: Sequence[ModelRecord],
    lineage: Lineage,
) -> None:
    """Raise GateError if the model, or this call, already has the update or one like it."""
    digest, record, path = update.manifest.digest, update.record, update.path
    used_digests = {used for model in chain for used in model.updates}
    used_handoffs = {used for model in chain for used in model.handoffs}
    if digest in used_digests | {other.manifest.digest for other in others}:
        raise GateError(
            f"{path}: this update is already in the model (replay)", "give each update once"
        )
    beside = {other.record.id for other in others if update.manifest.mask is None}
    if record.id in used_handoffs | beside:
        raise GateError(
            f"{path}: another update of the same handoff is already in the model",
            "an update belongs to one handoff; make a new handoff for more unlearning",
        )
    used_draws = {lineage.handoffs[id_].draw for id_ in used_handoffs if id_ in lineage.handoffs}
    if record.draw in used_draws:
        raise GateError(
            f"{path}: other copies of the same draw are already in the model",
            "aggregate all copies of one split in one call: use the model before, with all updates",
        )


def _draw(updates: Sequence[_Update], expected: Expected, missing: str) -> DrawUpdates:
    """Open the changes of one draw's copies and check them against the model."""
    deltas = [
        delta
        for id_ in dict.fromkeys(update.record.id for update in updates)
        for delta in _deltas([update for update in updates if update.record.id == id_], expected)
    ]
    draw = DrawUpdates(updates[0].record, tuple(deltas))
    if draw.missing and missing == "refuse":
        raise GateError(
            f"{updates[0].path}: {len(deltas)} of the {draw.record.size} copies of this draw have"
            " updates",
            "wait for the others and give all updates in one call, or accept the loss with"
            " --missing reweight",
        )
    return draw


def _deltas(updates: Sequence[_Update], expected: Expected) -> Iterator[Delta]:
    """Open what answers one handoff: one update, or the masked ones of a whole group."""
    first = updates[0]
    copies = {copy.name: copy for copy in first.record.copies}
    frozen = () if first.record.train_embeddings else expected.frozen
    held = [copy.name for copy in first.manifest.copies]
    for update in updates:
        if sorted(copy.name for copy in update.manifest.copies) != sorted(held):
            raise GateError(
                f"{update.path}: holds other copies than {first.path}, so the masks do not cancel",
                "all members mask updates of all copies",
            )
    for payload in first.manifest.copies:
        where, copy = first.path / payload.name, copies[payload.name]
        changes: SomeChanges
        if first.manifest.mask is None:
            own = open_changes(where, payload.payload)
            check_changes(where, own, expected.shapes, frozen, expected.matrices)
            changes = own
        else:
            members = []
            for update in updates:
                members.append(open_masked(update.path / payload.name))
                check_masked(update.path / payload.name, members[-1], expected.shapes, frozen)
            changes = masked_sums(where, members)
        yield Delta(where, copy.position, copy.coefficient, changes)
