"""Write a lost handoff again from its record, and prove by its digest that it is the same."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import HandoffManifest, PublishedCopy, listed
from mpu_cli.bundle.sign import write_handoff_manifest
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.file_state import altered
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.errors import BadModelError, BadSecretError, CheckFailedError
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.lineage.records import HandoffRecord, frozen_of
from mpu_cli.server.part import sent
from mpu_cli.server.publishing.copy_set import CopySet
from mpu_cli.server.publishing.copy_writer import write_copies
from mpu_cli.server.publishing.estimate import require_handoff_space
from mpu_cli.server.publishing.handoff_builder import manifest_cut
from mpu_cli.server.publishing.noise import NoiseDraw
from mpu_cli.server.secrets.leak_scan import require_no_secret


def reissue(
    model: Located,
    handoff: Path,
    secret: Path,
    id_: str,
    *,
    force: bool = False,
    signing: SigningKey | None = None,
) -> HandoffRecord:
    """Write handoff `id_` again into `handoff`; `signing` signs its manifest.

    Raises:
        BadSecretError: the lineage has no such handoff.
        BadModelError: MODEL was altered while it was read.
        CheckFailedError: MODEL is not the model it was made from, or this machine's floating-point
            unit rounds differently from the one that made it. The noise is then not bit-identical,
            and nothing is written.
    """
    refuse_nesting(handoff, secret, model.path)
    refuse_existing(handoff, force=force)
    source = open_checkpoint(model.path)
    check_side_files(source.path)
    layout = read_layout(source.config, shapes(source.tensors), source.path)
    with open_locked(secret) as lineage:
        record = lineage.handoffs.get(id_)
        if record is None:
            raise BadSecretError(
                f"{secret}: no handoff {id_}", f"mpu inspect {quote(str(secret))} lists them"
            )
        if model_digest(source) != record.model:
            raise CheckFailedError(
                f"{model.path}: is not the model that handoff {id_} was made from",
                f"give the model of digest {record.model[:12]}… (mpu verify MODEL prints digests)",
            )
        part, held, cut = sent(source, layout, record.layers)
        record.require_layout(fingerprint(held), model.path)
        # The copies of one draw are computed together, also those of other holders.
        require_handoff_space(handoff, part, record.size, record.dtype)
        draw = recorded_draw(lineage, record)
        with Staging(handoff, force=force) as staging, disk_errors(handoff):
            folders = [staging.path / f".position-{position}" for position in range(draw.size)]
            for copy in record.copies:
                folders[copy.position] = staging.path / copy.name
            for folder in folders:
                folder.mkdir()
                set_mode(folder, 0o755)  # whatever the umask
            copies = CopySet(
                part,
                held,
                record.scope,
                record.transforms,
                draw,
                record.dtype,
                record.shard_bytes,
                {name: source.tensors[name] for name in cut.stand_ins} if cut else {},
            )
            digest = record.model if cut is None else model_digest(part)
            written = write_copies(copies, folders)
            if written.source != digest:
                raise altered(model.path, BadModelError)
            files = written.files
            require_no_secret(staging.path, draw.master)
            manifest = HandoffManifest(
                record.id,
                record.dtype,
                frozen_of(held, record.train_embeddings, cut),
                tuple(
                    PublishedCopy(copy.name, listed(files[copy.position])) for copy in record.copies
                ),
                manifest_cut(cut),
            )
            if manifest.digest != record.digest:
                raise CheckFailedError(
                    f"handoff {id_} cannot be reproduced on this machine (another processor or"
                    " version)",
                    "issue it again on the machine that made it, or make a new handoff with mpu"
                    " perturb",
                )
            for folder in folders:
                if folder.name.startswith("."):
                    shutil.rmtree(folder)
            write_handoff_manifest(staging.path, manifest, signing)
            staging.commit()
    return record


def recorded_draw(lineage: Lineage, record: HandoffRecord) -> NoiseDraw:
    """The draw of a handoff, which the handoffs of one split share."""
    coefficients = {
        copy.position: copy.coefficient
        for other in lineage.handoffs.values()
        if other.draw == record.draw
        for copy in other.copies
    }
    return NoiseDraw(
        lineage.secret.master,
        record.draw,
        record.denoising,
        [coefficients[position] for position in range(record.size)],
        record.sigma,
        lineage.secret.offset.scale,
    )
