"""A lost handoff, written again from its record and proved to be the same by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path
from shlex import quote

from mpu_cli.architectures.fingerprint import fingerprint
from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, PublishedCopy, encode, listed
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.side_files import check_side_files
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.checkpoint.writer import write_new
from mpu_cli.errors import BadSecretError, CheckFailedError
from mpu_cli.server.denoising import weights
from mpu_cli.server.estimate import handoff_bytes
from mpu_cli.server.lineage.models import Lineage, open_locked
from mpu_cli.server.lineage.records import HandoffRecord, frozen_of
from mpu_cli.server.publishing.copy_writer import Publication, write_copies
from mpu_cli.server.publishing.noise import NoiseDraw
from mpu_cli.server.publishing.noise_statistics import RealisedNoise
from mpu_cli.server.secrets.leak_scan import require_no_secret
from mpu_cli.server.transforms.draw import draw_model


def reissue(
    model: Located, handoff: Path, secret: Path, id_: str, *, force: bool = False
) -> HandoffRecord:
    """Write handoff `id_` again into `handoff`.

    Raises:
        BadSecretError: the lineage has no such handoff.
        CheckFailedError: MODEL is not the model it was made from, or this machine's floating-point
            unit rounds differently from the one that made it (the noise is then not bit-identical,
            and nothing is written).
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
                f"that one has the digest {record.model[:12]}… (mpu verify MODEL prints a model's)",
            )
        record.require_layout(fingerprint(layout), model.path)
        # All copies of the draw are written, also where only one of them is this holder's.
        require_space(
            handoff,
            handoff_bytes(source, record.size, record.dtype),
            f"a draw of {record.size} copies",
        )
        draw = _draw(lineage, record)
        steps = [
            draw_model(record.transforms, layout.layers, draw.master, draw.id, position)
            for position in range(draw.size)
        ]
        publication = Publication(
            source,
            layout,
            layout.groups(record.scope),
            draw,
            steps,
            record.dtype,
            record.shard_bytes,
        )
        with Staging(handoff, force=force) as staging, disk_errors(handoff):
            # All copies of the draw are computed together; those of other holders are thrown away.
            folders = [staging.path / f".position-{position}" for position in range(draw.size)]
            for copy in record.copies:
                folders[copy.position] = staging.path / copy.name
            for folder in folders:
                folder.mkdir()
                folder.chmod(0o755)  # whatever the umask
            realised = RealisedNoise(
                weights(draw.denoising, draw.coefficients),
                [abs(value) for value in draw.coefficients],
                "F32",
            )
            files = write_copies(publication, folders, realised)
            require_no_secret(staging.path, draw.master)
            copies = tuple(
                PublishedCopy(copy.name, listed(files[copy.position])) for copy in record.copies
            )
            manifest = HandoffManifest(
                record.id, record.dtype, frozen_of(layout, record.train_embeddings), copies
            )
            if manifest.digest != record.digest:
                raise CheckFailedError(
                    f"handoff {id_} does not come out the same on this machine (another processor"
                    " or version)",
                    "issue it again on the machine that made it, or perturb anew",
                )
            for folder in folders:
                if folder.name.startswith("."):
                    shutil.rmtree(folder)
            write_new(staging.path / MANIFEST, encode(manifest))
            staging.commit()
    return record


def _draw(lineage: Lineage, record: HandoffRecord) -> NoiseDraw:
    coefficients: dict[int, float] = {}
    for other in lineage.handoffs.values():
        if other.draw == record.draw:
            coefficients.update({copy.position: copy.coefficient for copy in other.copies})
    return NoiseDraw(
        lineage.secret.master,
        record.draw,
        record.denoising,
        [coefficients[position] for position in range(record.size)],
        record.sigma,
        lineage.secret.offset.scale,
    )
