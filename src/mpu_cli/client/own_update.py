"""A client's own update together with the handoff that it answers."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.manifest import UpdateManifest
from mpu_cli.bundle.read import read_update
from mpu_cli.bundle.trusted import check_update_of
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.client.handoff import OpenHandoff, open_handoff
from mpu_cli.errors import GateError


def open_own_update(
    update: Path, handoff: Path, progress: Progress | None = None
) -> tuple[OpenHandoff, UpdateManifest]:
    """Verify an update and the handoff, and that the one was made from the other.

    The handoff's `files` watch those of the update too.

    Embeddings may have moved, if the client asked for it; what the handoff freezes may not.

    Raises:
        BadBundleError: a malformed handoff or update.
        GateError: the update answers another handoff.
    """
    opened = open_handoff(handoff, train_embeddings=True, progress=progress)
    manifest = read_update(update, progress, digest=opened.files.digest)
    digests = {copy.name: copy.digest for copy in opened.manifest.copies}
    try:
        check_update_of(manifest, opened.manifest.id, opened.manifest.digest, digests)
    except GateError as error:
        raise GateError(
            f"{update} was not made from {handoff}: {error.message}",
            "give the handoff that was trained on",
        ) from error
    return opened, manifest
