"""Read bundles from disk and run the ordered checks. Never imports torch."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import MANIFEST, SIGNATURE, HandoffManifest, UpdateManifest
from mpu_cli.bundle.signatures.sshsig import MAX_BYTES as MAX_SIGNATURE
from mpu_cli.bundle.signatures.trust import ANYBODY, BundleSigner, Trust
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.digest import HASHERS, ByteCounter, Progress, file_digest
from mpu_cli.checkpoint.plain_file import TEMPLATES, is_hollow
from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.checkpoint.recognise import BUNDLE, HANDOFF, UPDATE, instead_of
from mpu_cli.errors import BadBundleError

_MAX_FILES = 100_000


def is_bundle(path: Path) -> bool:
    """Whether a directory claims to be a handoff or an update."""
    return (path / MANIFEST).exists()


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest, and who signed it (None: nobody)."""

    manifest: HandoffManifest | UpdateManifest
    signer: BundleSigner | None


def open_manifest(path: Path, wanted: str = BUNDLE, trust: Trust = ANYBODY) -> SignedManifest:
    """Read a manifest after its signature, if there is one; the files are not checked.

    Raises:
        BadBundleError: see `manifest_bytes` and `decode`; or `mpu.yaml.sig` is no signature.
        SignatureError: see `Trust.check`.
    """
    trusted = TrustedBundle(path, trust)
    manifest = trusted.read_manifest(manifest_bytes(path, wanted), signature_bytes(path))
    return SignedManifest(manifest, trusted.signer)


def read_bundle(
    path: Path,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
    progress: Progress | None = None,
    wanted: str = BUNDLE,
) -> HandoffManifest | UpdateManifest:
    """Verify a whole bundle that anybody may have signed; see `verify_bundle`."""
    return verify_bundle(path, digest, progress, wanted).manifest


def verify_bundle(
    path: Path,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
    progress: Progress | None = None,
    wanted: str = BUNDLE,
    trust: Trust = ANYBODY,
) -> SignedManifest:
    """Verify a whole bundle: signature, manifest, listing, and the digest of every file.

    Args:
        path: its directory.
        digest: computes a file's SHA-256.
        progress: gets (what, bytes done, bytes in total).
        wanted: the kind that a message says was expected.
        trust: whose signature is accepted.

    Raises:
        BadBundleError: a file is missing, added, altered, or not a regular file.
        SignatureError: see `Trust.check`.
    """
    trusted = TrustedBundle(path, trust)
    manifest = trusted.read_manifest(manifest_bytes(path, wanted), signature_bytes(path))
    trusted.check_listing(_listing(path))
    files = [(copy.name, name) for copy in manifest.copies for name in copy.files]
    total = sum(entry.bytes for copy in manifest.copies for entry in copy.files.values())
    counter = ByteCounter(progress, f"checking {path.name}", total)
    with ThreadPoolExecutor(HASHERS) as hashing:
        digests = hashing.map(lambda file: digest(path / "/".join(file), counter), files)
        for (copy, name), sha256 in zip(files, digests, strict=True):
            trusted.check_file(copy, name, sha256)
    return SignedManifest(trusted.finish(), trusted.signer)


def read_handoff(
    path: Path,
    progress: Progress | None = None,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
    trust: Trust = ANYBODY,
) -> HandoffManifest:
    """Verify a bundle that must be a handoff; `digest` computes a file's SHA-256."""
    manifest = verify_bundle(path, digest, progress, HANDOFF, trust).manifest
    if not isinstance(manifest, HandoffManifest):
        raise instead_of(path, HANDOFF, BadBundleError)
    return manifest


def read_update(
    path: Path,
    progress: Progress | None = None,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
) -> UpdateManifest:
    """Verify a bundle that must be an update; `digest` computes a file's SHA-256."""
    return verify_update(path, progress, digest)[0]


def verify_update(
    path: Path,
    progress: Progress | None = None,
    digest: Callable[[Path, ByteCounter], str] = file_digest,
    trust: Trust = ANYBODY,
) -> tuple[UpdateManifest, BundleSigner | None]:
    """Verify a bundle that must be an update; its manifest, and who signed it."""
    verified = verify_bundle(path, digest, progress, UPDATE, trust)
    if not isinstance(verified.manifest, UpdateManifest):
        raise instead_of(path, UPDATE, BadBundleError)
    return verified.manifest, verified.signer


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


def signature_bytes(path: Path) -> bytes | None:
    """The bytes of a bundle's signature; None if it has none.

    Raises:
        BadBundleError: it is not a regular file, or larger than a signature.
    """
    place = path / SIGNATURE
    if place.is_symlink():
        raise BadBundleError(f"{place}: is a link; a bundle holds none", "copy the file there")
    if not place.exists():
        return None
    return read_file(place, MAX_SIGNATURE, BadBundleError, "ask for the signature again")


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
    if is_hollow(status):
        raise BadBundleError(
            f"{path}: of its {status.st_size} bytes only {status.st_blocks * 512} exist",
            "ask for the files again; weights have no holes",
        )
    return status.st_size
