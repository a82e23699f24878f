"""Reading bundles from disk through the ordered checks. Never imports torch."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, UpdateManifest
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.digest import HASHERS, file_digest
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.recognise import BUNDLE, HANDOFF, UPDATE, instead_of
from mpu_cli.errors import BadBundleError

_MAX_FILES = 100_000


def is_bundle(path: Path) -> bool:
    """Whether a directory claims to be a handoff or an update."""
    return (path / MANIFEST).exists()


def read_bundle(
    path: Path, digest: Callable[[Path], str] = file_digest
) -> HandoffManifest | UpdateManifest:
    """Verify a whole bundle.

    manifest, listing, and the digest of every file, as `digest` computes it.

    Raises:
        BadBundleError: anything is missing, added, altered, or not a plain file.
    """
    trusted = TrustedBundle(path)
    manifest = trusted.read_manifest(manifest_bytes(path))
    trusted.check_listing(_listing(path))
    files = [(copy.name, name) for copy in manifest.copies for name in copy.files]
    with ThreadPoolExecutor(HASHERS) as hashing:
        for (copy, name), found in zip(
            files, hashing.map(digest, [path / copy / name for copy, name in files]), strict=True
        ):
            trusted.check_file(copy, name, found)
    return trusted.finish()


def read_handoff(path: Path) -> HandoffManifest:
    """Verify a bundle that must be a handoff."""
    manifest = read_bundle(path)
    if not isinstance(manifest, HandoffManifest):
        raise instead_of(path, HANDOFF, BadBundleError)
    return manifest


def read_update(path: Path) -> UpdateManifest:
    """Verify a bundle that must be an update."""
    manifest = read_bundle(path)
    if not isinstance(manifest, UpdateManifest):
        raise instead_of(path, UPDATE, BadBundleError)
    return manifest


def manifest_bytes(path: Path) -> bytes:
    """The bytes of a bundle's manifest, not yet believed; never more than a manifest may have.

    Raises:
        BadBundleError: no directory, no manifest, not a plain file, or too large.
    """
    manifest = path / MANIFEST
    if not manifest.is_symlink() and not manifest.exists():
        raise instead_of(path, BUNDLE, BadBundleError)
    if manifest.is_symlink() or not manifest.is_file():
        raise BadBundleError(
            f"{manifest}: is not a plain file, so the directory is neither a handoff nor an update"
        )
    with manifest.open("rb") as file:
        return file.read(canonical.MAX_BYTES + 1)  # one more than allowed: the parser then says so


def _listing(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {"": {}}
    count = 0
    for item in sorted(path.iterdir()):
        mode = item.lstat().st_mode
        if stat.S_ISDIR(mode):
            found[item.name] = {}
            for name, inner in _inside(item):
                found[item.name][name] = _plain_size(inner)
                count += 1
                if count > _MAX_FILES:
                    raise BadBundleError(f"{path}: more than {_MAX_FILES} files")
        else:
            found[""][item.name] = _plain_size(item)
    return found


def _inside(copy: Path) -> Iterator[tuple[str, Path]]:
    """What lies in a copy, by its name there.

    Of folders only the one for chat templates is looked into.
    """
    for inner in sorted(copy.iterdir()):
        nested = (
            sorted(inner.iterdir())
            if inner.name == TEMPLATES and stat.S_ISDIR(inner.lstat().st_mode)
            else []
        )
        yield from ((f"{TEMPLATES}/{file.name}", file) for file in nested)
        if not nested:  # an empty folder is nothing that a manifest can list
            yield inner.name, inner


def _plain_size(path: Path) -> int:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BadBundleError(
            f"{path}: is not a plain file; bundles hold no links and no folders inside copies"
        )
    return status.st_size
