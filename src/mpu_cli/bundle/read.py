"""Read bundles from disk and run the ordered checks. Never imports torch."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import MANIFEST, HandoffManifest, UpdateManifest
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.digest import HASHERS, ByteCounter, Progress, file_digest
from mpu_cli.checkpoint.plain_file import TEMPLATES
from mpu_cli.checkpoint.recognise import BUNDLE, HANDOFF, UPDATE, instead_of
from mpu_cli.errors import BadBundleError

_MAX_FILES = 100_000


def is_bundle(path: Path) -> bool:
    """Whether a directory claims to be a handoff or an update."""
    return (path / MANIFEST).exists()


def read_bundle(
    path: Path,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
    progress: Progress | None = None,
    wanted: str = BUNDLE,
) -> HandoffManifest | UpdateManifest:
    """Verify a whole bundle: manifest, listing, and the digest of every file.

    `wanted` is the kind that a message says was expected.

    Raises:
        BadBundleError: a file is missing, added, altered, or not a regular file.
    """
    trusted = TrustedBundle(path)
    manifest = trusted.read_manifest(manifest_bytes(path, wanted))
    trusted.check_listing(_listing(path))
    files = [(copy.name, name) for copy in manifest.copies for name in copy.files]
    total = sum(entry.bytes for copy in manifest.copies for entry in copy.files.values())
    counter = ByteCounter(progress, f"checking {path.name}", total)
    with ThreadPoolExecutor(HASHERS) as hashing:
        digests = hashing.map(lambda file: digest(path / "/".join(file), counter), files)
        for (copy, name), sha256 in zip(files, digests, strict=True):
            trusted.check_file(copy, name, sha256)
    return trusted.finish()


def read_handoff(
    path: Path,
    progress: Progress | None = None,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
) -> HandoffManifest:
    """Verify a bundle that must be a handoff; `digest` computes a file's SHA-256."""
    manifest = read_bundle(path, digest, progress, wanted=HANDOFF)
    if not isinstance(manifest, HandoffManifest):
        raise instead_of(path, HANDOFF, BadBundleError)
    return manifest


def read_update(
    path: Path,
    progress: Progress | None = None,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
) -> UpdateManifest:
    """Verify a bundle that must be an update; `digest` computes a file's SHA-256."""
    manifest = read_bundle(path, digest, progress, wanted=UPDATE)
    if not isinstance(manifest, UpdateManifest):
        raise instead_of(path, UPDATE, BadBundleError)
    return manifest


def manifest_bytes(path: Path, wanted: str = BUNDLE) -> bytes:
    """The unverified bytes of a bundle's manifest, at most one more than the limit.

    `wanted`: see `read_bundle`.

    Raises:
        BadBundleError: no directory, no manifest, or not a regular file.
    """
    manifest = path / MANIFEST
    if not manifest.is_symlink() and not manifest.exists():
        raise instead_of(path, wanted, BadBundleError)
    if manifest.is_symlink() or not manifest.is_file():
        raise BadBundleError(
            f"{manifest}: is not a regular file, so the directory is not a handoff or an update"
        )
    with manifest.open("rb") as file:
        return file.read(canonical.MAX_BYTES + 1)  # the parser refuses a longer manifest


def _listing(path: Path) -> dict[str, dict[str, int]]:
    listing: dict[str, dict[str, int]] = {"": {}}
    count = 0
    for item in sorted(path.iterdir()):
        mode = item.lstat().st_mode
        if stat.S_ISDIR(mode):
            listing[item.name] = {}
            for name, inner in _inside(item):
                listing[item.name][name] = _plain_size(inner)
                count += 1
                if count > _MAX_FILES:
                    raise BadBundleError(f"{path}: holds more than {_MAX_FILES} files")
        else:
            listing[""][item.name] = _plain_size(item)
    return listing


def _inside(copy: Path) -> Iterator[tuple[str, Path]]:
    """The files in a copy by relative name; the chat templates are the only nested folder."""
    for inner in sorted(copy.iterdir()):
        nested = (
            sorted(inner.iterdir())
            if inner.name == TEMPLATES and stat.S_ISDIR(inner.lstat().st_mode)
            else []
        )
        yield from ((f"{TEMPLATES}/{file.name}", file) for file in nested)
        if not nested:  # report an empty folder itself: no manifest can list it
            yield inner.name, inner


def _plain_size(path: Path) -> int:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise BadBundleError(
            f"{path}: is not a regular file; a bundle holds no links and no folders inside copies"
        )
    return status.st_size
