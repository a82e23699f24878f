"""Write directories atomically.

mpu writes a hidden sibling of the target and renames it at the end. A run that dies leaves only the
sibling, and the next run of the same command removes it. Others can predict the sibling's name, so
mpu uses an existing one only if it is a real directory of this user that nobody else can write to.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote

from mpu_cli.checkpoint.exchange import exchange
from mpu_cli.checkpoint.inventory import (
    first_foreign,
    remove_empty,
    remove_listed,
    write_marker,
    written_by_mpu,
)
from mpu_cli.checkpoint.lock_holder import lock_holder
from mpu_cli.checkpoint.modes import set_mode
from mpu_cli.checkpoint.mount_point import is_mount_point
from mpu_cli.checkpoint.own_directory import empty, open_own
from mpu_cli.errors import BusyError, OutputError, UsageError

PARTIAL = ".mpu-partial"
"""The suffix of the hidden sibling that mpu writes until the target is complete."""
_REPLACED = ".mpu-replaced"
"""The suffix of the old target while it is being replaced."""
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Staging:
    """A directory under construction: fill `path`, then call `commit()`.

    Leaving the context without `commit()` removes everything.
    """

    def __init__(
        self, target: Path, *, force: bool = False, private: bool = False, marked: bool = False
    ) -> None:
        """Prepare to write `target`.

        Args:
            target: the directory.
            force: replace an existing directory that mpu wrote, see `refuse_existing`.
            private: make the directory readable by its owner only.
            marked: write a list of the files for a later `force`, because no manifest lists them.

        Raises:
            OutputError: the target exists and is not empty (unless `force`), its parent cannot be
                created, or the hidden sibling exists and is not this user's directory.
            BusyError: another process is writing the same target.
        """
        self.target = Path(os.path.abspath(target))  # noqa: PTH100 - keeps the user's links
        self.path = self.target.with_name(f".{self.target.name}{PARTIAL}")
        self._old = self.target.with_name(f".{self.target.name}{_REPLACED}")
        self._force, self._marked = force, marked
        self._mode = 0o700 if private else 0o755
        self._made_parents: list[Path] = []
        self._lock: int | None = None
        self._flushed = self._swapped = self._committed = self._aside = False

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
            handle = open_own(self.path, fresh=fresh)
            try:
                lock(handle, self.target)
            except BusyError:
                os.close(handle)
                raise
            self._lock = handle
            empty(handle)

    def flush(self) -> None:
        """Flush everything to disk, so that only the rename is left; then change nothing more.

        A caller that writes a record before `commit` flushes first: a full disk is then found while
        there is no record yet.
        """
        with disk_errors(self.target):
            if self._marked:
                write_marker(self.path)
            flush_tree(self.path)
        self._flushed = True

    def commit(self) -> None:
        """Flush everything to disk and rename the directory to its final name."""
        assert self._lock is not None
        if not self._flushed:
            self.flush()
        with disk_errors(self.target):
            set_mode(self._lock, self._mode, self.target)
            if not self._is_unmoved():
                raise replaced(self.path)
            if self._force and self.target.is_dir() and any(self.target.iterdir()):
                self._replace()
            else:
                self.path.rename(self.target)
            self._committed = True
        with after_rename(self.target, old=self._old):
            flush(self.target.parent)
            self._remove_old()

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            if self._lock is not None:
                if self._swapped and self.path.exists():
                    exchange(self.path, self.target)
                if self._aside and not self.target.exists():
                    self._old.rename(self.target)
                if self._is_unmoved():
                    shutil.rmtree(self.path, ignore_errors=True)
            for parent in reversed(self._made_parents):
                with suppress(OSError):  # the parent is not empty: another command uses it
                    parent.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _is_unmoved(self) -> bool:
        """Whether the hidden sibling's name still refers to the directory that was opened."""
        assert self._lock is not None
        try:
            return os.path.samestat(os.fstat(self._lock), self.path.lstat())
        except OSError:
            return False

    def _replace(self) -> None:
        """Put the new directory in the place of the old one, which is removed later."""
        refuse_existing(self.target, force=True)  # check again: files may have been added meanwhile
        self._remove_old()
        if os.path.lexists(self._old):
            raise OutputError(f"{self._old}: exists, and mpu did not write it", "move it away")
        self._swapped = exchange(self.path, self.target)
        if self._swapped:
            self.path.rename(self._old)
        else:
            self._aside = True
            self.target.rename(self._old)
            self.path.rename(self.target)

    def _remove_old(self) -> None:
        """Remove the old target, of this run or of one that died, if mpu wrote all of it."""
        if self._old.is_dir() and not self._old.is_symlink():
            remove_empty(self._old)
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
            with suppress(FileExistsError):  # another process, working on another copy, was faster
                directory.mkdir(mode=0o755)
                self._made_parents.append(directory)


def is_staging(path: Path) -> bool:
    """Whether a path has the name of an unfinished or a replaced directory of mpu."""
    return path.name.startswith(".") and path.name.endswith((PARTIAL, _REPLACED))


def refuse_existing(target: Path, *, force: bool | None = False) -> None:
    """Raise OutputError if `target` is a file, or a non-empty directory that may not be replaced.

    `force` replaces only a directory whose files are all listed by mpu, and never one that holds a
    secret. It is None for a command without --force.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target}: exists and is not a directory", "choose another path")
    with disk_errors(target):
        if not target.is_dir():
            return
        if is_mount_point(target):
            raise OutputError(
                f"{target}: is a mount point, and a result is renamed into place as a whole",
                f"choose a directory below it, such as {quote(str(target / 'result'))}",
            )
        if not any(target.iterdir()):
            return
        for secret in target.rglob("secret.yaml"):
            raise OutputError(
                f"{secret.parent}: is a secret directory, which mpu never overwrites",
                "choose another path",
            )
        listed = written_by_mpu(target)
        if not force:
            more = "" if force is None else ", or give --force to replace it"
            # After a kill the user has to know which side of the rename it was on.
            whole = "; what is there is complete: mpu renames a result into place as a whole"
            raise OutputError(
                f"{target}: exists and is not empty",
                f"choose another path{more}{whole if listed else ''}",
            )
        if not listed:
            raise OutputError(
                f"{target}: has no file list from mpu, so --force does not replace it",
                "choose another path, or remove it yourself",
            )
        foreign = first_foreign(target, listed)
        if foreign is not None:
            raise OutputError(
                f"{foreign}: was not written by mpu, so --force does not remove it",
                "move it away, or choose another path",
            )


def refuse_nesting(target: Path, *inputs: Path) -> None:
    """Raise UsageError if `target` is one of the inputs, contains one, or is inside one.

    With --force the input would be destroyed, and what is sent must be apart from what is kept.
    """
    out = target.resolve()
    for path in inputs:
        other = path.resolve()
        if out == other or out in other.parents or other in out.parents:
            raise UsageError(
                f"{target}: is the same as {path}, inside it, or contains it",
                "choose a separate directory for the result",
            )


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing `target` into OutputError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise disk_full(target, error.errno) from error
        where = _as_asked(Path(error.filename)) if isinstance(error.filename, str) else target
        raise OutputError(
            f"{where}: {error.strerror}", "check the path and its permissions"
        ) from error


@contextmanager
def after_rename(
    target: Path, record: Path | None = None, *, old: Path | None = None
) -> Iterator[None]:
    """Turn the operating system's errors when `target` is in place already into InPlaceError.

    Args:
        target: the complete result.
        record: what could not be written after it.
        old: where the directory lies that `target` replaced. It stays: whether `target` would
            survive a loss of power is not known.
    """
    try:
        yield
    except (OSError, OutputError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        why = str(getattr(cause, "strerror", None) or error).lower()
        what = (
            f"{record}: the record was not written"
            if record
            else f"{target}: not flushed to the disk"
        )
        hint = (
            "free some space, then run the same command again: it completes the record"
            if record
            else "do not make it again; run sync, and check the disk"
        )
        if old is not None and old.is_dir():
            hint += f". What it replaced is still in {old}: the next --force removes it"
        raise InPlaceError(f"{what} ({why}); {target} is complete and in place", hint) from error


class InPlaceError(OutputError):
    """The result is complete and in place; only its flush or its record failed."""


def full_words(number: int | None) -> str:
    """Say what is full: the disk, or the user's quota on it."""
    return "the disk quota is used up" if number == errno.EDQUOT else "the disk is full"


def disk_full(target: Path, number: int | None = errno.ENOSPC) -> OutputError:
    """Return the error for a full disk, or for a used up quota."""
    is_quota = number == errno.EDQUOT
    return OutputError(
        f"{_as_asked(target)}: {full_words(number)}; nothing of it was kept",
        f"{'remove something of yours there' if is_quota else 'free some space'}, then run again",
    )


def replaced(path: Path) -> OutputError:
    """Return the error for a partial result that another process moved or replaced."""
    return OutputError(
        f"{path}: was moved or replaced while mpu was writing it",
        "run again in a directory that only you can write to",
    )


def lock(handle: int, target: Path) -> None:
    """Lock an open file or directory until it is closed, or raise BusyError naming `target`."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise BusyError(
            f"{target}: another mpu process is writing it",
            f"wait for {lock_holder(handle)} to end",
        ) from error


def _as_asked(path: Path) -> Path:
    """The target that the user named, for a path inside its hidden sibling."""
    for part in (path, *path.parents):
        if part.name.startswith(".") and part.name.endswith(PARTIAL):
            return part.with_name(part.name[1 : -len(PARTIAL)])
    return path


def flush(path: Path) -> None:
    """Flush a file or a directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(path: Path) -> None:
    """Flush every file and directory below `path` to disk."""
    for root, _, files in os.walk(path, topdown=False):
        for name in files:
            flush(Path(root, name))
        flush(Path(root))
