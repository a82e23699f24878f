"""Updates that came in: matched with their handoffs, complete or knowingly incomplete, nothing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.architectures.projections import Projections
from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.payload import Changes, check_changes, open_changes
from mpu_cli.bundle.read import read_update
from mpu_cli.bundle.trusted import check_update_of
from mpu_cli.errors import GateError
from mpu_cli.server.denoising import residual_noise, weights
from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.lineage.whose_lineage import unknown_handoff

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Expected:
    """What the model that was handed out allows an update to change."""

    shapes: Shapes
    frozen: Sequence[str]
    matrices: Projections
    """Where a low-rank change may lie."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The change of one copy."""

    where: Path
    position: int
    coefficient: float
    tensors: Changes


@dataclass(frozen=True, slots=True)
class DrawUpdates:
    """All changes of one draw that came in."""

    record: HandoffRecord
    deltas: tuple[Delta, ...]
    missing: int
    residual: float
    """First-order noise that the missing copies leave, as a multiple of κ; 0 if all are there."""

    @property
    def weights(self) -> tuple[float, ...]:
        """w_k of the deltas that are there."""
        return weights(self.record.denoising, [delta.coefficient for delta in self.deltas])


@dataclass(frozen=True, slots=True)
class Incoming:
    """Everything that one aggregation takes in."""

    draws: tuple[DrawUpdates, ...]
    updates: tuple[str, ...]
    """Digests."""
    handoffs: tuple[str, ...]
    staleness: int
    """How many models lie between the oldest handoff's model and the one that is updated."""


def validate_updates(
    paths: Sequence[Path], lineage: Lineage, model: str, expected: Expected, *, missing: str
) -> Incoming:
    """Verify updates against their handoffs and the chain of `model`.

    That entries are numbers is seen when they are summed.

    Raises:
        BadBundleError: an update is malformed.
        GateError: another handoff, a handoff off the chain, a replay, a missing copy (unless
            `missing` is reweight), a foreign tensor, another shape, a frozen tensor, an adapter
            where none may be.
    """
    chain = lineage.chain(model)
    used_updates = {digest for record in chain for digest in record.updates}
    used_handoffs = {handoff for record in chain for handoff in record.handoffs}
    used_draws = {
        lineage.handoffs[handoff].draw for handoff in used_handoffs if handoff in lineage.handoffs
    }
    ages = {record.digest: age for age, record in enumerate(chain)}
    found: list[tuple[HandoffRecord, UpdateManifest, Path]] = []
    for path in paths:
        manifest = read_update(path)
        record = lineage.handoffs.get(manifest.handoff_id)
        if record is None:
            raise unknown_handoff(manifest.handoff_id, path, lineage)
        check_update_of(
            manifest, record.id, record.digest, {copy.name: copy.digest for copy in record.copies}
        )
        if record.model not in ages:
            raise GateError(
                f"{path}: its handoff was made from a model that is not an ancestor of the one"
                " given",
                "aggregate onto the head, or onto the model that was handed out",
            )
        if manifest.digest in used_updates or any(
            manifest.digest == other.digest for _, other, _ in found
        ):
            raise GateError(
                f"{path}: this update is already in the model (replay)", "give each update once"
            )
        if record.id in used_handoffs or any(record.id == other.id for other, _, _ in found):
            raise GateError(
                f"{path}: another update of the same handoff is already in the model",
                "an update belongs to one handoff; make a new handoff for more unlearning",
            )
        if record.draw in used_draws:
            raise GateError(
                f"{path}: other copies of the same draw are already in the model",
                "the copies of one split are aggregated in one call: go back to the model before,"
                " with all updates",
            )
        found.append((record, manifest, path))
    found.sort(key=lambda item: item[0].sequence)  # the order on the command line means nothing
    draws = tuple(
        _draw(draw, found, expected, missing)
        for draw in dict.fromkeys(record.draw for record, _, _ in found)
    )
    return Incoming(
        draws,
        tuple(manifest.digest for _, manifest, _ in found),
        tuple(record.id for record, _, _ in found),
        max(ages[record.model] for record, _, _ in found),
    )


def _draw(
    draw: str,
    found: Sequence[tuple[HandoffRecord, UpdateManifest, Path]],
    expected: Expected,
    missing: str,
) -> DrawUpdates:
    mine = [item for item in found if item[0].draw == draw]
    deltas = []
    for record, manifest, path in mine:
        copies = {copy.name: copy for copy in record.copies}
        for item in manifest.copies:
            tensors = open_changes(path / item.name, item.payload)
            frozen = () if record.train_embeddings else expected.frozen
            check_changes(path / item.name, tensors, expected.shapes, frozen, expected.matrices)
            deltas.append(
                Delta(
                    path / item.name,
                    copies[item.name].position,
                    copies[item.name].coefficient,
                    tensors,
                )
            )
    record = mine[0][0]
    absent = record.size - len(deltas)
    if absent and missing == "refuse":
        raise GateError(
            f"{mine[0][2]}: {len(deltas)} of the {record.size} copies of this draw came in",
            "wait for the others and give all updates in one call, or accept the loss with"
            " --missing reweight",
        )
    return DrawUpdates(record, tuple(deltas), absent, _residual(record, deltas) if absent else 0.0)


def _residual(record: HandoffRecord, deltas: Sequence[Delta]) -> float:
    """Only the coefficients that are there are known here; harmonic's residual needs no others."""
    present = [delta.coefficient for delta in deltas]
    if record.denoising == "extrapolation":
        return residual_noise("extrapolation", present, range(len(present)))
    padded = [*present, *[1.0] * (record.size - len(present))]
    return residual_noise("harmonic", padded, range(len(present)))
