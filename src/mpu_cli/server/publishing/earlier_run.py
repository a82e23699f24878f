"""What an earlier run of the same command left in place: completed, or refused by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mpu_cli.architectures.read import read_layout
from mpu_cli.bundle.sign import sign_finished
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.tensors import shapes
from mpu_cli.checkpoint.digest import model_digest
from mpu_cli.checkpoint.locate import Located
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.errors import OutputError
from mpu_cli.server.lineage.models import Lineage, manifest_digest, open_locked
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.publishing.result import PerturbResult, published
from mpu_cli.server.publishing.settings import PerturbSettings
from mpu_cli.server.secrets.secret import SECRET_FILE
from mpu_cli.server.transforms.choice import chosen


def complete_earlier(
    model: Located,
    handoff: Path,
    secret: Path,
    settings: PerturbSettings,
    signing: SigningKey | None = None,
    packs: Mapping[Path, Path] | None = None,
) -> PerturbResult | None:
    """Complete a run that died after it had renamed its handoff into place.

    With a key its handoffs are signed again: that run may have had another key, or none. A run that
    had finished is completed, too, where one of the tar files `packs` does not exist.

    Returns:
        Its result, if it was given the same options; None if there was no such run.

    Raises:
        OutputError: it was given other options, or it had finished.
    """
    if not (secret / SECRET_FILE).exists():
        return None
    with open_locked(secret) as lineage:
        recovered = lineage.recover()
        records = _in_place(lineage, handoff)
        if not records:
            return None
        interrupted = any(record.id in recovered for record in records)
        other = next(_differences(records, lineage, settings), None)
        if other is None and interrupted and _digest(model) != records[0].model:
            other = "MODEL"
        if other is None and interrupted and _transforms(model, settings) != records[0].transforms:
            other = "--reparam"
        unpacked = not all(file.exists() for file in (packs or {}).values())
        if other is None and (interrupted or unpacked):
            if signing is not None:
                for record in records:
                    sign_finished(Path(record.target), signing)
            warning = (
                "an interrupted run had already written this handoff; it is now recorded"
                if interrupted
                else "an earlier run had already written this handoff; a tar file was missing"
            )
            return replace(published(lineage, records), warnings=(warning,))
    if interrupted:
        raise OutputError(
            f"{handoff}: an interrupted run with another {other} had already written this handoff;"
            " it is now recorded",
            f"give the {other} of that run to use it, choose another path, or give --force",
        )
    if other is None:
        raise OutputError(
            f"{handoff}: exists and is not empty: it is the finished handoff of an earlier run with"
            " these options, and its record says issued",
            "nothing is left to do; choose another path to make another one, or give --force",
        )
    return None


def _in_place(lineage: Lineage, handoff: Path) -> list[HandoffRecord]:
    """The issued records whose handoffs lie at a target, in its holders' directories if split."""
    target = Path(handoff.absolute())
    return [
        record
        for record in lineage.handoffs.values()
        if record.state == "issued"
        and (Path(record.target) == target or Path(record.target).parent == target)
        and manifest_digest(Path(record.target)) == record.digest
    ]


def _differences(
    records: Sequence[HandoffRecord], lineage: Lineage, settings: PerturbSettings
) -> Iterator[str]:
    """The options that the records' run was given otherwise, of those that the records tell."""
    record, offset = records[0], lineage.secret.offset
    copies = sorted((copy for one in records for copy in one.copies), key=lambda one: one.position)
    holder = settings.client or "client"
    if settings.split:
        holder = f"{holder}-{copies[0].position + 1}"
    told = {
        "--copies": (record.size, settings.copies),
        "--split": (len(records) > 1, settings.split),
        "--kappa": (record.kappa, settings.kappa),
        "--denoising": (record.denoising, settings.denoising),
        "--alphas": (tuple(copy.coefficient for copy in copies), settings.alphas),
        "--nodes": (tuple(copy.coefficient for copy in copies), settings.nodes),
        "--offset": (offset.ratio, settings.offset),
        "--noise-relative-to": (record.relative_to, settings.noise_relative_to),
        "--upto": (record.layers - 1 if record.layers else None, settings.upto),
        "--scope": (record.scope, settings.scope),
        "--train-embeddings": (record.train_embeddings, settings.train_embeddings),
        "--dtype": (record.dtype, None if settings.dtype == "auto" else settings.dtype),
        "--max-shard-size": (record.shard_bytes, settings.max_shard_bytes),
        "--client": (record.holder, holder),
    }
    # None leaves the value to mpu, except where it means all layers.
    yield from (
        flag
        for flag, (was, asked) in told.items()
        if asked != was and (asked is not None or flag == "--upto")
    )


def _digest(model: Located) -> str:
    return model_digest(open_checkpoint(model.path))


def _transforms(model: Located, settings: PerturbSettings) -> tuple[str, ...]:
    source = open_checkpoint(model.path)
    return chosen(settings.reparam, read_layout(source.config, shapes(source.tensors), source.path))
