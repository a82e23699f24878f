"""`mpu diff`: the update from copies that any other program has trained."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.checkpoint.model import open_checkpoint
from mpu_cli.checkpoint.staging import Staging, disk_errors, refuse_existing, refuse_nesting
from mpu_cli.client.difference import write_delta
from mpu_cli.client.handoff import open_handoff
from mpu_cli.client.update import make_copy_directory, write_manifest
from mpu_cli.errors import BadModelError


def diff(handoff: Path, trained: Path, out: Path, dtype: str, shard_bytes: int, *, force: bool = False) -> UpdateManifest:
    """Write the update from full models under `trained/copy-1` … `trained/copy-m`.

    A changed config.json, another dtype, other shards and a redundant tied head are tolerated.

    Raises:
        MpuError: a copy is missing, is not the same model, moved a frozen tensor, or holds NaN.
    """
    refuse_nesting(out, handoff, trained)
    refuse_existing(out, force=force)
    opened = open_handoff(handoff)
    for name in opened.copies:
        if not (trained / name).is_dir():
            raise BadModelError(f"{trained}: {name} is missing", f"save the trained {name} as {trained / name}")
    with Staging(out, force=force) as staging:
        for name, published in opened.copies.items():
            directory = make_copy_directory(staging.path / name, out)
            with disk_errors(out):
                write_delta(opened, published, open_checkpoint(trained / name), directory, dtype, shard_bytes)
        with disk_errors(out):
            update = write_manifest(staging.path, opened.manifest)
        staging.commit()
    return update
