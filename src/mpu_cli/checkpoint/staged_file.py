"""Write one file atomically, as staging.py does for directories."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.staging import (
    PARTIAL,
    after_rename,
    disk_errors,
    flush,
    lock,
    replaced,
)
from mpu_cli.errors import OutputError


def refuse_existing_file(target: Path, *, force: bool | None = False) -> None:
    """Raise OutputError if `target` exists; `force` allows to replace a regular file only.

    None means that the command has no --force.
    """
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_file():
        raise OutputError(f"{target}: exists and is not a regular file", "choose another path")
    if not force:
        more = "" if force is None else ", or give --force to replace it"
        raise OutputError(f"{target}: exists", f"choose another path{more}")


@contextmanager
def staged_file(
    target: Path, *, force: bool | None = False, mode: int = 0o644
) -> Iterator[BinaryIO]:
    """Yield a hidden sibling file; rename it to `target` at the end, or remove it after an error.

    Only its owner can read the sibling; `target` gets `mode`.

    Raises:
        OutputError: see `refuse_existing_file`; the sibling exists and is not this user's file;
            the disk is full.
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
                set_mode(file.fileno(), mode, target)
                if not os.path.samestat(os.fstat(file.fileno()), partial.lstat()):
                    raise replaced(partial)
                refuse_existing_file(target, force=force)
                partial.rename(target)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
        with after_rename(target):
            flush(target.parent)


@contextmanager
def _opened(partial: Path, target: Path) -> Iterator[BinaryIO]:
    foreign = OutputError(f"{partial}: was not created by mpu", "inspect it, then remove it")
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    fresh = True
    try:
        handle = os.open(partial, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # a killed run left it, or another user created it
        fresh = False
        try:
            handle = os.open(partial, flags)
        except OSError as error:
            raise foreign from error
    with os.fdopen(handle, "r+b") as file:
        status = os.fstat(handle)
        if not fresh and (
            not stat.S_ISREG(status.st_mode)
            or status.st_uid != os.geteuid()
            or status.st_nlink != 1
        ):
            raise foreign
        lock(handle, target)
        os.ftruncate(handle, 0)
        yield file
