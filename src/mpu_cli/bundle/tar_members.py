"""List the members of a tar file from another party by reading its headers only.

The file may hold regular files below one directory; links, devices, sparse files and names that
point outside are refused. The size of the headers is limited, which bounds memory and time.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from mpu_cli.errors import BadBundleError

_MAX_MEMBERS = 100_000
_MAX_READ = 1 << 20
"""The largest header (a long name, extended attributes), in bytes."""
_MAX_HEADERS = 64 << 20
"""The largest size of all headers together, in bytes."""
_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}
_AGAIN = (
    "ask for it again, as a directory or as perturb, unlearn and diff pack it with --pack FILE.tar"
)
_COPY_AGAIN = "copy the file again"


@dataclass(frozen=True, slots=True)
class Member:
    """The position and size of a regular file in the archive, in bytes."""

    start: int
    size: int


def read_members(
    path: Path, file: BufferedReader
) -> tuple[dict[tuple[str, ...], Member], list[str]]:
    """Return the files, by (name,) or (folder, name), and the folders below the top directory.

    Raises:
        BadBundleError: not a tar file, truncated, or with other members.
    """
    end = os.fstat(file.fileno()).st_size
    files: dict[tuple[str, ...], Member] = {}
    folders: set[tuple[str, ...]] = set()
    top: str | None = None
    for member in _headers(path, file):
        parts = _parts(path, member)
        if not parts:
            continue
        if top is not None and parts[0] != top:
            raise _side_by_side(path, top, parts[0])
        top = parts[0]
        if len(parts) == 1 and not member.isdir():
            raise _side_by_side(path, top)
        place = parts[1:]
        if place in files or place in folders:
            raise BadBundleError(f"{path}: {member.name}: occurs twice", _AGAIN)
        if len(files) + len(folders) >= _MAX_MEMBERS:
            raise BadBundleError(f"{path}: holds more than {_MAX_MEMBERS} members", _AGAIN)
        if member.isdir():
            folders.add(place)
            continue
        if not 0 <= member.size <= end - member.offset_data:
            raise BadBundleError(f"{path}: ends inside {member.name}", _COPY_AGAIN)
        files[place] = Member(member.offset_data, member.size)
    return files, [place[0] for place in folders if place]


def _parts(path: Path, member: tarfile.TarInfo) -> tuple[str, ...]:
    """Split the member's name into parts; refuse kinds and names that a bundle cannot hold."""
    parts = tuple(part for part in member.name.split("/") if part not in {"", "."})
    if member.name.startswith("/") or ".." in parts:
        raise BadBundleError(
            f"{path}: {member.name}: points outside the archive", f"do not unpack it; {_AGAIN}"
        )
    plain = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse()
    if not member.isdir() and not plain:
        kind = "a sparse file" if member.issparse() else _KINDS.get(member.type, "of unknown kind")
        raise BadBundleError(
            f"{path}: {member.name}: is {kind}; a bundle holds only regular files and folders",
            _AGAIN,
        )
    if not parts and not member.isdir():
        raise BadBundleError(f"{path}: holds a file without a name", _AGAIN)
    if len(parts) > (2 if member.isdir() else 3):
        raise BadBundleError(f"{path}: {member.name}: is nested too deep for a bundle", _AGAIN)
    return parts


def _side_by_side(path: Path, first: str, second: str | None = None) -> BadBundleError:
    what = f" and {second}" if second is not None else ", which is not a directory"
    return BadBundleError(
        f"{path}: holds {first}{what}, expected one directory",
        "pack the bundle directory itself, not its contents",
    )


def _headers(path: Path, file: BufferedReader) -> Iterator[tarfile.TarInfo]:
    """Yield the archive's members without reading their content.

    A member of negative size would be followed by earlier ones: the caller stops at it.
    """
    try:
        with tarfile.open(
            fileobj=_Headers(file), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive:  # type: ignore[call-overload]
            while (member := archive.next()) is not None:
                archive.members = []  # tarfile would keep all of them
                yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise BadBundleError(
            f"{path}: not a tar file, or damaged ({error})", _COPY_AGAIN
        ) from error


class _Headers:
    """Limits what tarfile reads: headers only, of bounded size, and few reads past the end."""

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._read, self._empty = file, 0, 0

    def read(self, size: int = -1) -> bytes:
        """Bytes of a header."""
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("a header is too large")
        data = self._file.read(size)
        self._read += len(data)
        self._empty += not data
        if self._read > _MAX_HEADERS or self._empty > 3:
            raise tarfile.ReadError("its headers are too large" if data else "it ends too early")
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Set the position."""
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Return the position."""
        return self._file.tell()
