"""What is in a tar file that somebody sent, from its headers alone.

Plain files below one directory, or it is refused.

Links, devices, sparse files and names that lead elsewhere are refused as they are met. No header is
read that is larger than a header ever is, so that memory and time are bounded by the number of
members.
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
"""Bytes of one header (a long name, extended attributes) at most."""
_MAX_HEADERS = 64 << 20
"""Bytes of all headers together at most."""
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


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file in the archive: where its bytes are."""

    start: int
    size: int


def read_members(
    path: Path, file: BufferedReader
) -> tuple[dict[tuple[str, ...], Member], list[str]]:
    """The plain files, by (name,) or (folder, name), and the folders below the archive's one top directory.

    Raises:
        BadBundleError: it is no tar file, is cut off, or holds anything else.
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
            raise _side_by_side(path, top, "no directory")
        place = parts[1:]
        if place in files or place in folders:
            raise BadBundleError(f"{path}: {member.name}: is there twice", _AGAIN)
        if len(files) + len(folders) >= _MAX_MEMBERS:
            raise BadBundleError(f"{path}: more than {_MAX_MEMBERS} members", _AGAIN)
        if member.isdir():
            folders.add(place)
            continue
        if not 0 <= member.size <= end - member.offset_data:
            raise BadBundleError(f"{path}: ends inside {member.name}", "was it copied completely?")
        files[place] = Member(member.offset_data, member.size)
    return files, [place[0] for place in folders if place]


def _parts(path: Path, member: tarfile.TarInfo) -> tuple[str, ...]:
    """The member's name in parts, once its kind and its name are such as a bundle has."""
    parts = tuple(part for part in member.name.split("/") if part not in {"", "."})
    if member.name.startswith("/") or ".." in parts:
        raise BadBundleError(
            f"{path}: {member.name}: leads out of the archive", "do not unpack it; " + _AGAIN
        )
    plain = member.type in {tarfile.REGTYPE, tarfile.AREGTYPE} and not member.issparse()
    if not member.isdir() and not plain:
        kind = (
            "a sparse file"
            if member.issparse()
            else _KINDS.get(member.type, "of a kind that is not known")
        )
        raise BadBundleError(
            f"{path}: {member.name}: is {kind}; a bundle holds plain files and folders only", _AGAIN
        )
    if len(parts) > (2 if member.isdir() else 3):
        raise BadBundleError(
            f"{path}: {member.name}: lies deeper than anything in a bundle", _AGAIN
        )
    return parts


def _side_by_side(path: Path, first: str, second: str) -> BadBundleError:
    what = (
        f"{first}, which is no directory"
        if second == "no directory"
        else f"{first} and {second} side by side"
    )
    return BadBundleError(
        f"{path}: holds {what}, not one bundle", "pack the bundle's directory, not what is in it"
    )


def _headers(path: Path, file: BufferedReader) -> Iterator[tarfile.TarInfo]:
    """The archive's members; their bytes are passed over."""
    try:
        with tarfile.open(
            fileobj=_Headers(file), mode="r:", encoding="utf-8", errors="surrogateescape"
        ) as archive:  # type: ignore[call-overload]
            last = -1
            while (member := archive.next()) is not None:
                if member.offset <= last:
                    raise tarfile.ReadError("members overlap")
                last = member.offset
                archive.members = []  # or it keeps them all
                yield member
    except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
        raise BadBundleError(
            f"{path}: not a tar file, or damaged ({error})", "was it copied completely?"
        ) from error


class _Headers:
    """A file as tarfile may read it.

    Headers only, each and all together of bounded size, and no endless end of file.
    """

    def __init__(self, file: BufferedReader) -> None:
        self._file, self._read, self._empty = file, 0, 0

    def read(self, size: int = -1) -> bytes:
        """Bytes of a header."""
        if not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("a header is larger than headers are")
        data = self._file.read(size)
        self._read += len(data)
        self._empty += not data
        if self._read > _MAX_HEADERS or self._empty > 3:
            raise tarfile.ReadError("more headers than files" if data else "it ends too early")
        return data

    def seek(self, position: int, whence: int = 0) -> int:
        """Go to another place."""
        return self._file.seek(position, whence)

    def tell(self) -> int:
        """Where reading goes on."""
        return self._file.tell()
