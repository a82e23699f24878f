"""Directories that appear whole or not at all.

Everything is written to a hidden sibling of the target and renamed into place at the end. A run
that dies leaves only that sibling, which the next run of the same command removes. The sibling's
name can be foreseen, so whatever already has it is trusted only if it is a real directory of this
user's that nobody else may write to; a link is never followed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpu_cli.checkpoint.inventory import first_foreign, remove_listed, write_marker, written_by_mpu
from mpu_cli.checkpoint.own_directory import empty, open_own
from mpu_cli.errors import BusyError, OutputError, UsageError

PARTIAL = ".mpu-partial"
"""Ends the name of the hidden sibling that stands in for a target until it is whole."""
_REPLACED = ".mpu-replaced"
"""Ends the name of what is set aside while a target is replaced."""


class Staging:
    """A directory under construction: fill `path`, then `commit()`.

    Leaving the context without it removes all.
    """

    def __init__(
        self, target: Path, *, force: bool = False, private: bool = False, marked: bool = False
    ) -> None:
        """Prepare to write `target`.

        Args:
            target: the directory; `force` replaces one that mpu wrote.
            force: see `refuse_existing`.
            private: readable by its owner only.
            marked: no manifest will list the files, so a list is put beside them, for a later
                `force`.

        Raises:
            OutputError: the target exists and is not empty (unless `force`), its parent cannot be
                made, or something that is not this user's own has the hidden sibling's name.
            BusyError: another process is writing the same target.
        """
        self.target = Path(os.path.abspath(target))  # noqa: PTH100 - links in the path are the user's, keep them
        self.path = self.target.with_name(f".{self.target.name}{PARTIAL}")
        self._old = self.target.with_name(f".{self.target.name}{_REPLACED}")
        self._force, self._marked = force, marked
        self._mode = 0o700 if private else 0o755
        self._made_parents: list[Path] = []
        self._lock: int | None = None
        self._committed = self._aside = False

    def __enter__(self) -> Staging:
        refuse_existing(self.target, force=self._force)
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _begin(self) -> None:
        with disk_errors(self.target):
            self._make_parents()
            try:
                self.path.mkdir(mode=0o700)
                fresh = True
            except FileExistsError:
                fresh = False
            self._lock = open_own(self.path, fresh=fresh)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                self._lock = None
                raise BusyError(
                    f"{self.target}: another mpu process is writing it", "wait for it to end"
                ) from error
            empty(self._lock)

    def commit(self) -> None:
        """Flush everything to disk and rename it into place."""
        assert self._lock is not None
        with disk_errors(self.target):
            if self._marked:
                write_marker(self.path)
            flush_tree(self.path)
            os.fchmod(self._lock, self._mode)
            if not self._is_mine():
                raise OutputError(
                    f"{self.path}: was moved or replaced while it was written",
                    "run again where only you may write",
                )
            if self._force and self.target.is_dir() and any(self.target.iterdir()):
                self._set_aside()
            self.path.rename(self.target)
            self._committed = True
            flush(self.target.parent)
            self._remove_old()

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            if self._lock is not None:
                if self._aside and not self.target.exists():
                    self._old.rename(self.target)
                if self._is_mine():
                    shutil.rmtree(self.path, ignore_errors=True)
            for parent in reversed(self._made_parents):
                with suppress(OSError):  # not empty: another command uses it
                    parent.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_mine(self) -> bool:
        """Whether the hidden sibling's name still leads to the directory that was opened."""
        assert self._lock is not None
        try:
            return os.path.samestat(os.fstat(self._lock), self.path.lstat())
        except OSError:
            return False

    def _set_aside(self) -> None:
        refuse_existing(
            self.target, force=True
        )  # again: what came into it meanwhile is not ours to remove
        self._remove_old()
        if os.path.lexists(self._old):
            raise OutputError(
                f"{self._old}: is in the way, and mpu did not write it", "move it away"
            )
        self._aside = True
        self.target.rename(self._old)

    def _remove_old(self) -> None:
        """Remove what was set aside, by this run or by one that died; only what mpu wrote."""
        if self._old.is_dir() and not self._old.is_symlink():
            listed = written_by_mpu(self._old)
            if listed and first_foreign(self._old, listed) is None:
                remove_listed(self._old, listed)

    def _make_parents(self) -> None:
        missing = []
        parent = self.target.parent
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for directory in reversed(missing):
            with suppress(
                FileExistsError
            ):  # another copy's process, started at the same moment, was first
                directory.mkdir(mode=0o755)
                self._made_parents.append(directory)


def is_staging(path: Path) -> bool:
    """Whether a path has the name of what a run of ours has begun, or set aside."""
    return path.name.startswith(".") and path.name.endswith((PARTIAL, _REPLACED))


def refuse_existing(target: Path, *, force: bool | None = False) -> None:
    """Raise OutputError if `target` is a file, or a non-empty directory that may not be replaced.

    Even `force` replaces only a directory in which a manifest or a list of mpu's names every file,
    and never anything that holds a secret. It is None for a command that has no such option.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target}: exists and is not a directory", "choose another path")
    with disk_errors(target):
        if not target.is_dir() or not any(target.iterdir()):
            return
        for secret in target.rglob("secret.yaml"):
            raise OutputError(
                f"{secret.parent}: is a secret directory, which is never overwritten",
                "choose another path",
            )
        if not force:
            way_out = (
                "choose another path"
                if force is None
                else "choose another path, or give --force to replace it"
            )
            raise OutputError(f"{target}: exists and is not empty", way_out)
        listed = written_by_mpu(target)
        if not listed:
            raise OutputError(
                f"{target}: is not something that mpu wrote, so --force does not replace it",
                "choose another path, or remove it yourself (an older mpu kept no list of what it"
                " wrote)",
            )
        foreign = first_foreign(target, listed)
        if foreign is not None:
            raise OutputError(
                f"{foreign}: was not written by mpu, so --force does not remove it",
                "move it away, or choose another path",
            )


def refuse_nesting(target: Path, *inputs: Path) -> None:
    """Raise UsageError if `target` is one of the inputs, holds one, or lies in one.

    With --force the input would be destroyed; and what is sent must not hold, or lie in, what is
    kept.
    """
    out = target.resolve()
    for path in inputs:
        other = path.resolve()
        if out == other or out in other.parents or other in out.parents:
            raise UsageError(
                f"{target}: lies in {path}, or holds it",
                "choose a directory of its own for the result",
            )


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing `target` into one readable line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(target) from error
        where = _as_asked(Path(error.filename)) if isinstance(error.filename, str) else target
        raise OutputError(
            f"{where}: {error.strerror}", "check the path and its permissions"
        ) from error


def disk_full(target: Path) -> OutputError:
    """The error for a full disk, ready to be raised."""
    return OutputError(
        f"{_as_asked(target)}: the disk is full; nothing was kept", "free some space, run again"
    )


def _as_asked(path: Path) -> Path:
    """The directory that the user named, for a path inside the hidden sibling that stands in for it."""
    for part in (path, *path.parents):
        if part.name.startswith(".") and part.name.endswith(PARTIAL):
            return part.with_name(part.name[1 : -len(PARTIAL)])
    return path


def flush(path: Path) -> None:
    """Force a file or a directory entry to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(path: Path) -> None:
    """Force every file and directory below `path` to disk."""
    for root, _, files in os.walk(path, topdown=False):
        for name in files:
            flush(Path(root, name))
        flush(Path(root))
