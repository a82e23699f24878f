"""One file that appears whole or not at all, as directories do (staging.py)."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mpu_cli.checkpoint.staging import PARTIAL, disk_errors, flush
from mpu_cli.errors import BusyError, OutputError


def refuse_existing_file(target: Path, *, force: bool = False) -> None:
    """Raise OutputError if `target` exists; `force` replaces a plain file, and nothing else."""
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_file():
        raise OutputError(f"{target}: exists and is not a plain file", "choose another path")
    if not force:
        raise OutputError(f"{target}: exists", "choose another path, or give --force to replace it")


@contextmanager
def staged_file(target: Path, *, force: bool = False) -> Iterator[BinaryIO]:
    """A hidden sibling to write to, flushed and renamed to `target` at the end, removed if that is not reached.

    Raises:
        OutputError: see `refuse_existing_file`; something that is not this user's own has the
            sibling's name; the disk is full.
        BusyError: another process is writing the same target.
    """
    refuse_existing_file(target, force=force)
    partial = target.with_name(f".{target.name}{PARTIAL}")
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _opened(partial, target) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                with suppress(
                    PermissionError
                ):  # a file system without modes, as on many a memory stick
                    os.fchmod(file.fileno(), 0o644)
                if not os.path.samestat(os.fstat(file.fileno()), partial.lstat()):
                    raise OutputError(
                        f"{partial}: was moved or replaced while it was written",
                        "run again where only you may write",
                    )
                refuse_existing_file(target, force=force)
                partial.rename(target)
                flush(target.parent)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise


@contextmanager
def _opened(partial: Path, target: Path) -> Iterator[BinaryIO]:
    way = OutputError(f"{partial}: is in the way: mpu did not make it", "look at it, and remove it")
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    fresh = True
    try:
        handle = os.open(partial, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # a killed run left it, or it was planted
        fresh = False
        try:
            handle = os.open(partial, flags)
        except OSError as error:
            raise way from error
    with os.fdopen(handle, "r+b") as file:
        status = os.fstat(handle)
        if not fresh and (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_nlink != 1
        ):
            raise way
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BusyError(
                f"{target}: another mpu process is writing it", "wait for it to end"
            ) from error
        os.ftruncate(handle, 0)
        yield file
