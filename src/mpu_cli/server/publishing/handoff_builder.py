"""From written copies to handoffs: their folders, manifests and records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mpu_cli.architectures.cut import ModelCut
from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.bundle.manifest import Cut, HandoffManifest, PublishedCopy, listed
from mpu_cli.bundle.sign import write_handoff_manifest
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.server.lineage.records import CopyRecord, HandoffRecord, frozen_of, now
from mpu_cli.server.publishing.copy_writer import WrittenCopies
from mpu_cli.server.publishing.plan import Plan


def make_folders(root: Path, size: int, *, split: bool) -> list[Path]:
    """Make the folder of every copy, by position: root/copy-2, or root/holder-2/copy-1 if split."""
    names = [f"holder-{k + 1}/copy-1" if split else f"copy-{k + 1}" for k in range(size)]
    folders = [root / name for name in names]
    for folder in folders:
        folder.mkdir(parents=True)
        for path in (folder, folder.parent) if split else (folder,):
            set_mode(path, 0o755)  # whatever the umask: the client's user must be able to read it
    return folders


def draft_records(plan: Plan, target: Path, sequence: int) -> list[HandoffRecord]:
    """The records of a draw without what is known once its copies are written.

    Args:
        plan: the draw.
        target: where the handoff will be once it is renamed into place.
        sequence: number of the first record.
    """
    positions = list(range(plan.copies.size))
    handoffs = [[position] for position in positions] if plan.settings.split else [positions]
    return [_draft(plan, held, target, sequence + number) for number, held in enumerate(handoffs)]


def build_handoffs(
    plan: Plan,
    written: WrittenCopies,
    drafts: Sequence[HandoffRecord],
    new_id: Callable[[], str],
    signing: SigningKey | None = None,
) -> list[HandoffRecord]:
    """Write the manifest of every handoff; return the records, which are not saved yet.

    Args:
        plan: the draw.
        written: its copies, in the folders of `make_folders`.
        drafts: see `draft_records`.
        new_id: gives a handoff its id.
        signing: signs the manifests, if a key was given.
    """
    records = []
    for draft in drafts:
        held = [copy.position for copy in draft.copies]
        folder = written.folders[held[0]].parent
        manifest = HandoffManifest(
            new_id(),
            plan.copies.dtype,
            frozen_of(plan.copies.layout, plan.settings.train_embeddings, plan.cut),
            tuple(
                PublishedCopy(written.folders[position].name, listed(written.files[position]))
                for position in held
            ),
            manifest_cut(plan.cut),
        )
        write_handoff_manifest(folder, manifest, signing)
        copies = tuple(
            replace(copy, name=made.name, digest=made.digest)
            for copy, made in zip(draft.copies, manifest.copies, strict=True)
        )
        records.append(
            replace(
                draft,
                id=manifest.id,
                digest=manifest.digest,
                copies=copies,
                realised=written.noise,
            )
        )
    return records


def _draft(plan: Plan, positions: Sequence[int], target: Path, sequence: int) -> HandoffRecord:
    settings, copies, draw = plan.settings, plan.copies, plan.copies.draw
    holder, number = settings.client or "client", positions[0] + 1
    return HandoffRecord(
        id="",
        digest="",
        sequence=sequence,
        state="prepared",
        target=str(target / f"holder-{number}" if settings.split else target),
        holder=f"{holder}-{number}" if settings.split else holder,
        model=plan.statistics.digest,
        draw=draw.id,
        size=draw.size,
        copies=tuple(
            CopyRecord("", "", position, draw.coefficients[position]) for position in positions
        ),
        denoising=settings.denoising,
        kappa=settings.kappa,
        offset=plan.offset_everywhere,
        relative_to=plan.offset.relative_to,
        sigma=draw.sigma,
        transforms=copies.transforms,
        layout=fingerprint(copies.layout),
        scope=settings.scope,
        dtype=copies.dtype,
        source_dtype=copies.model.dtype,
        shard_bytes=settings.max_shard_bytes,
        realised={},
        exposure=plan.exposure(positions).content(),
        train_embeddings=settings.train_embeddings,
        date=now(),
        prior_shares=plan.prior.shares if plan.prior.is_known else {},
        prior_sizes=plan.prior.sizes if plan.prior.is_known else {},
        structure=plan.prior.structure.content(),
        grid=plan.prior.grid.content(),
        layers=plan.cut.layers if plan.cut else 0,
        all_layers=plan.cut.of if plan.cut else 0,
    )


def manifest_cut(cut: ModelCut | None) -> Cut | None:
    """What a manifest says of a cut."""
    return None if cut is None else Cut(cut.layers, cut.of, cut.stand_ins)
