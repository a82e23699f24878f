"""A directory of our own at a name that others can foresee.

Opened without following links, trusted only if it is ours.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from mpu_cli.errors import OutputError


def open_own(path: Path, *, fresh: bool = False) -> int:
    """Open a directory at a name that others can foresee; returns the handle.

    `fresh`: it was made just now, so its mode is what the file system makes of ours (0777 on some
    that know no modes).

    Raises:
        OutputError: it is a link or no directory, belongs to another user, or others may write to
            it.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENOTDIR}:
            raise OutputError(
                f"{path}: is in the way: a link or a file that mpu did not make",
                "look at it, and remove it",
            ) from error
        raise
    status = os.fstat(handle)
    writable = bool(status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)) and not fresh
    if writable or status.st_uid not in {os.geteuid(), _uid_of_ours(handle, status.st_uid)}:
        os.close(handle)
        raise OutputError(
            f"{path}: is in the way: it belongs to another user, or others may write to it",
            "remove it, or choose another path",
        )
    return handle


def _uid_of_ours(handle: int, owner: int) -> int | None:
    """Whose the files are that we make in a directory.

    On network and foreign file systems not always our own user's.
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
    """Remove everything in an open directory; links are removed, never followed."""
    for name in os.listdir(handle):
        if stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=handle)
        else:
            os.unlink(name, dir_fd=handle)
