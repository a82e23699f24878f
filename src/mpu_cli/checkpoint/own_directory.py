"""Temporary directories with predictable names.

Another user could create one first, so mpu follows no link and uses only its own directories.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from mpu_cli.errors import OutputError


def open_own(path: Path, *, fresh: bool = False) -> int:
    """Open a directory of this user that has a predictable name; return the handle.

    `fresh` means that it was just created: some file systems have no modes and show 0777.

    Raises:
        OutputError: it is a link or not a directory, belongs to another user, or others can write
            to it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise OutputError(
                f"{path}: is a link or a file that mpu did not create",
                "inspect it, then remove it",
            ) from error
        raise
    status = os.fstat(handle)
    writable = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not fresh
    if writable or status.st_uid not in {os.geteuid(), own_uid(handle, status.st_uid)}:
        os.close(handle)
        raise OutputError(
            f"{path}: belongs to another user, or others can write to it",
            "remove it, or choose another path",
        )
    return handle


def own_uid(handle: int, owner: int) -> int | None:
    """The owner of files that we create in a directory; network file systems may change it.

    Args:
        handle: of the directory.
        owner: who owns what is looked at; nothing is created if that is this user.
    """
    if owner == os.geteuid():
        return owner
    name = f".mpu-probe-{os.getpid()}"
    try:
        probe = os.open(
            name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=handle
        )
    except OSError:
        return None
    try:
        return os.fstat(probe).st_uid
    finally:
        os.close(probe)
        os.unlink(name, dir_fd=handle)


def empty(handle: int) -> None:
    """Remove everything in an open directory, without following links."""
    for name in os.listdir(handle):
        if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=handle)
        else:
            os.unlink(name, dir_fd=handle)
