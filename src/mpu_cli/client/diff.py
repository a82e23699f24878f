"""`mpu diff`: the update from copies that any other program has trained."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.signatures.trust import ANYBODY, Trust
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.client.delta import DeltaFormat
from mpu_cli.client.handoff import open_handoff
from mpu_cli.client.payload_writer import Warn, write_payload
from mpu_cli.client.room import require_room_for_difference
from mpu_cli.client.update import make_copy_directory, write_manifest
from mpu_cli.errors import BadModelError


def diff(
    handoff: Path,
    trained: Path,
    out: Path,
    delta_format: DeltaFormat,
    *,
    merge: bool = False,
    force: bool = False,
    warn: Warn = lambda text: None,
    trust: Trust = ANYBODY,
    signing: SigningKey | None = None,
) -> UpdateManifest:
    """Write the update from full models or PEFT adapters under `trained/copy-1` … `trained/copy-m`.

    A model may have another config.json, dtype or sharding, and a redundant tied head. An adapter
    stays one, or with `merge` becomes its delta. `warn` is called with a line on dropout and on
    adapters on o and down. `trust` says who must have signed the handoff; `signing` signs the
    update.

    Raises:
        MpuError: a copy is missing, is not the same model, moved a frozen tensor, or holds NaN; or
            the handoff was altered meanwhile.
    """
    refuse_nesting(out, handoff, trained)
    refuse_existing(out, force=force)
    opened = open_handoff(handoff, trust=trust)
    warned: set[str] = set()

    def warn_once(text: str) -> None:
        if text not in warned:
            warned.add(text)
            warn(text)

    for name in opened.copies:
        if not (trained / name).is_dir():
            raise BadModelError(
                f"{trained}: {name} is missing",
                f"save the trained {name}, or its adapter, as {trained / name}",
            )
    require_room_for_difference(opened, trained, delta_format.dtype, out, merge=merge)
    written = {}
    with Staging(out, force=force) as staging:
        for name, published in opened.copies.items():
            directory = make_copy_directory(staging.path / name, out)
            with disk_errors(out):
                written[name] = write_payload(
                    opened,
                    published,
                    trained / name,
                    directory,
                    delta_format,
                    merge=merge,
                    warn=warn_once,
                )
            opened.files.require_unchanged(published.path)
        with disk_errors(out):
            update = write_manifest(staging.path, opened.manifest, written, signing=signing)
        staging.commit()
    return update
