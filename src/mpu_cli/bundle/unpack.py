"""A bundle out of a tar file that somebody sent.

Nothing is written before every name and size in it has been checked.

The archive is read twice: its headers, against the manifest in it, then the listed files, into a
private directory.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from glob import escape
from io import BufferedReader
from pathlib import Path

from mpu_cli.bundle import canonical
from mpu_cli.bundle.manifest import MANIFEST
from mpu_cli.bundle.tar_members import Member, read_members
from mpu_cli.bundle.trusted import TrustedBundle
from mpu_cli.checkpoint.own_directory import open_own
from mpu_cli.checkpoint.recognise import is_tar
from mpu_cli.checkpoint.space import require_space
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import BadBundleError, MpuError, OutputError

_SUFFIX = ".mpu-unpacked"
_BUFFER = 4 << 20

Progress = Callable[[str, int, int], None]


@contextmanager
def as_directory(
    path: Path, work: Path | None = None, progress: Progress = lambda *_: None
) -> Iterator[Path]:
    """A bundle's directory: `path` itself, or, if that is a tar file, what is in it, unpacked until the context ends.

    Args:
        path: of a directory, of a tar file, or of anything else (which is given back as it is).
        work: where to unpack; beside the tar file otherwise, or in TMPDIR if that cannot be
            written.
        progress: told of what is done.

    Raises:
        BadBundleError: the tar file is damaged, or holds something else than one whole bundle;
            nothing was written.
        OutputError: there is no room, or no place that can be written.
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
    """The files of the archive by (name,) or (copy, name), all of them listed in the manifest that is among them."""
    found, folders = read_members(path, file)
    manifest = found.get((MANIFEST,))
    if manifest is None:
        raise BadBundleError(
            f"{path}: cut off, or no handoff and no update: there is no {MANIFEST} in its"
            " directory",
            "was it copied completely? what is no bundle is unpacked first",
        )
    trusted = TrustedBundle(path)
    file.seek(manifest.start)
    trusted.read_manifest(file.read(min(manifest.size, canonical.MAX_BYTES + 1)))
    listing: dict[str, dict[str, int]] = {folder: {} for folder in ("", *folders)}
    for place, member in found.items():
        listing.setdefault("/".join(place[:-1]), {})[place[-1]] = member.size
    trusted.check_listing(listing)
    return found


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
                        f"{place}: ends inside {'/'.join(parts)}", "was it changed meanwhile?"
                    )
                out.write(buffer[:read])
                left -= read
                done += read
                progress("unpack", done, total)


@contextmanager
def _private(path: Path, work: Path | None) -> Iterator[Path]:
    """A new directory that only this user can read, locked while it is used, removed afterwards."""
    beside = work or path.parent
    if work is not None:
        with disk_errors(work):
            work.mkdir(mode=0o700, parents=True, exist_ok=True)
    elif not os.access(beside, os.W_OK):
        beside = Path(tempfile.gettempdir())
    _remove_left(beside, path)
    with disk_errors(beside):
        place = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_SUFFIX, dir=beside))
    try:
        lock = open_own(place, fresh=True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_left(beside: Path, path: Path) -> None:
    """Remove what a killed run has left.

    Not empty (one that begins locks before it writes), and locked by nobody.
    """
    for place in beside.glob(f".{escape(path.name)}.*{_SUFFIX}"):
        try:
            lock = open_own(place)
        except (OSError, OutputError):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(place.iterdir()):
                shutil.rmtree(place, ignore_errors=True)
        except OSError:  # in use
            continue
        finally:
            os.close(lock)


@contextmanager
def _named_as(place: Path, path: Path) -> Iterator[None]:
    """Messages about the private directory, which is gone when they are read, name the tar file."""
    try:
        yield
    except MpuError as error:
        for there, name in ((place.resolve(), path.resolve()), (place, path)):
            error.message = error.message.replace(str(there), str(name))
            error.hint = error.hint and error.hint.replace(str(there), str(name))
        raise
