"""Unpack a bundle from a tar file of another party.

mpu reads the archive twice: first it checks every name and size against the manifest, then it
writes the listed files to a private directory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import MANIFEST, SIGNATURE
from mpu_cli.bundle.signatures.sshsig import MAX_BYTES as MAX_SIGNATURE
from mpu_cli.bundle.tar_members import Member, read_members
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.digest import Progress
from mpu_cli.checkpoint.recognise import is_tar
from mpu_cli.checkpoint.scratch import scratch_directory
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import BadBundleError, MpuError

_SUFFIX = ".mpu-unpacked"
_BUFFER = 4 << 20


@contextmanager
def as_directory(
    path: Path, work: Path | None = None, progress: Progress = lambda *_: None
) -> Iterator[Path]:
    """Yield a bundle's directory: `path` itself, or a tar file's content until the context ends.

    Args:
        path: a tar file; any other path is yielded unchanged.
        work: where to unpack; by default beside the tar file, or in TMPDIR if that is read-only.
        progress: gets (what, bytes done, bytes in total).

    Raises:
        BadBundleError: the tar file is damaged or does not hold exactly one bundle; nothing was
            written.
        OutputError: the disk is full, or no directory is writable.
    """
    if not is_tar(path):
        yield path
        return
    with path.open("rb") as file:
        members = _check(path, file)
        needed = sum(member.size for member in members.values())
        with _private(path, work) as place, _named_as(place, path):
            require_space(place, needed, f"unpacking {path}")
            with disk_errors(place):
                _extract(file, members, place, needed, progress)
            yield place


def _check(path: Path, file: BufferedReader) -> dict[tuple[str, ...], Member]:
    """The files of the archive by (name,) or (copy, name), checked against its manifest."""
    members, folders = read_members(path, file)
    manifest = members.get((MANIFEST,))
    if manifest is None:
        raise BadBundleError(
            f"{path}: holds no {MANIFEST}: it is truncated, or not a handoff or an update",
            "copy it again; unpack a tar file of anything else yourself",
        )
    trusted = TrustedBundle(path)
    data, signature = _content(file, manifest, canonical.MAX_BYTES), members.get((SIGNATURE,))
    trusted.read_manifest(
        data, None if signature is None else _content(file, signature, MAX_SIGNATURE)
    )
    listing: dict[str, dict[str, int]] = {folder: {} for folder in ("", *folders)}
    for place, member in members.items():
        listing.setdefault("/".join(place[:-1]), {})[place[-1]] = member.size
    trusted.check_listing(listing)
    return members


def _content(file: BufferedReader, member: Member, limit: int) -> bytes:
    """The bytes of a member, at most one more than its limit."""
    file.seek(member.start)
    return file.read(min(member.size, limit + 1))


def _extract(
    file: BufferedReader,
    members: dict[tuple[str, ...], Member],
    place: Path,
    total: int,
    progress: Progress,
) -> None:
    buffer = memoryview(bytearray(_BUFFER))
    done = 0
    for parts, member in members.items():
        target = place.joinpath(*parts)
        target.parent.mkdir(mode=0o700, exist_ok=True)
        file.seek(member.start)
        left = member.size
        with open(
            os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb"
        ) as out:
            while left:
                read = file.readinto(buffer[: min(left, _BUFFER)])
                if not read:
                    raise BadBundleError(
                        f"{place}: ends inside {'/'.join(parts)}",
                        "run again, and do not change the file meanwhile",
                    )
                out.write(buffer[:read])
                left -= read
                done += read
                progress("unpacking", done, total)


@contextmanager
def _private(path: Path, work: Path | None) -> Iterator[Path]:
    """Yield a new directory that only this user can read; it is locked, and removed at the end."""
    beside = work or path.parent
    if work is not None:
        with disk_errors(work):
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not os.access(beside, os.W_OK):
        beside = Path(tempfile.gettempdir())
    with scratch_directory(beside, path.name, _SUFFIX) as place:
        yield place


@contextmanager
def _named_as(place: Path, path: Path) -> Iterator[None]:
    """Name the tar file in errors, because the private directory is gone when they are read."""
    try:
        yield
    except MpuError as error:
        for there, name in ((place.resolve(), path.resolve()), (place, path)):
            error.message = error.message.replace(str(there), str(name))
            error.hint = error.hint and error.hint.replace(str(there), str(name))
        raise
