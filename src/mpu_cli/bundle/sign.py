"""Write the signature of a bundle's manifest, in the same atomic step as the manifest."""

from __future__ import annotations

from pathlib import Path

from mpu_cli.bundle.manifest import (
    MANIFEST,
    SIGNATURE,
    HandoffManifest,
    UpdateManifest,
    encode,
)
from mpu_cli.bundle.read import open_manifest
from mpu_cli.bundle.signatures.private_key import SigningKey
from mpu_cli.bundle.signatures.trust import NAMESPACES
from mpu_cli.checkpoint.staged_file import staged_file
from mpu_cli.checkpoint.staging import PARTIAL
from mpu_cli.checkpoint.writer import write_new

PARTIAL_SIGNATURE = f".{SIGNATURE}{PARTIAL}"
"""What a killed run may leave beside a manifest."""


def write_handoff_manifest(
    directory: Path, manifest: HandoffManifest, signing: SigningKey | None
) -> None:
    """Write the manifest, and its signature if there is a key, into a directory not yet in place.

    Raises:
        BadInputError: see `SigningKey.sign`.
    """
    data = encode(manifest)
    if signing is not None:
        write_new(directory / SIGNATURE, signing.sign(data, NAMESPACES["handoff"]))
    write_new(directory / MANIFEST, data)


def write_signature(
    directory: Path, manifest: HandoffManifest | UpdateManifest, signing: SigningKey | None
) -> None:
    """Replace the signature of a directory whose manifest may not be there yet.

    Without a key a signature that an interrupted run left is removed.

    Raises:
        BadInputError: see `SigningKey.sign`.
        OutputError: it cannot be written.
    """
    if signing is None:
        for name in (SIGNATURE, PARTIAL_SIGNATURE):
            (directory / name).unlink(missing_ok=True)
        return
    kind = "handoff" if isinstance(manifest, HandoffManifest) else "update"
    signature = signing.sign(encode(manifest), NAMESPACES[kind])
    with staged_file(directory / SIGNATURE, force=True) as file:
        file.write(signature)


def sign_finished(directory: Path, signing: SigningKey) -> None:
    """Sign a bundle that an earlier run has finished; a signature that it has is replaced.

    Raises:
        BadBundleError: see `open_manifest`.
    """
    write_signature(directory, open_manifest(directory).manifest, signing)
