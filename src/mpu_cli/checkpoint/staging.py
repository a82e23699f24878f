"""Directories that appear whole or not at all.

Everything is written to a hidden sibling of the target and renamed into place at the end. A run that dies leaves only
that sibling, which the next run of the same command removes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mpu_cli.errors import BusyError, OutputError, UsageError

_SUFFIX = ".mpu-partial"
_RESULTS = (
    "mpu.yaml", "config.json", "delta.safetensors", "delta.safetensors.index.json", "holder-1", "items.jsonl", "TOFU_EVAL.json",
    "MUSE_EVAL.json",
)  # fmt: skip
"""One of these is at the top of everything that a command writes."""


class Staging:
    """A directory under construction: fill `path`, then `commit()`; leaving the context without it removes all."""

    def __init__(self, target: Path, *, force: bool = False, private: bool = False) -> None:
        """Prepare to write `target`; `private` makes the directory readable by its owner only.

        Raises:
            OutputError: the target exists and is not empty (unless `force`), or its parent cannot be made.
            BusyError: another process is writing the same target.
        """
        self.target = Path(os.path.abspath(target))  # noqa: PTH100 - links in the path are the user's, keep them
        self.path = self.target.with_name(f".{self.target.name}{_SUFFIX}")
        self._old = self.target.with_name(f".{self.target.name}.mpu-replaced")
        self._force = force
        self._mode = 0o700 if private else 0o755
        self._made_parents: list[Path] = []
        self._lock: int | None = None
        self._committed = False

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
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                self._lock = None
                raise BusyError(f"{self.target}: another mpu process is writing it", "wait for it to end") from error
            _empty(self.path)

    def commit(self) -> None:
        """Flush everything to disk and rename it into place."""
        with disk_errors(self.target):
            flush_tree(self.path)
            self.path.chmod(self._mode)
            if self._force and self.target.is_dir() and any(self.target.iterdir()):
                shutil.rmtree(self._old, ignore_errors=True)
                self.target.rename(self._old)
            self.path.rename(self.target)
            self._committed = True
            flush(self.target.parent)
            shutil.rmtree(self._old, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        if not self._committed:
            if self._lock is not None:
                if self._old.is_dir() and not self.target.exists():
                    self._old.rename(self.target)
                shutil.rmtree(self.path, ignore_errors=True)
            for parent in reversed(self._made_parents):
                with suppress(OSError):  # not empty: another command uses it
                    parent.rmdir()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_parents(self) -> None:
        missing = []
        parent = self.target.parent
        while not parent.exists():
            missing.append(parent)
            parent = parent.parent
        for directory in reversed(missing):
            with suppress(FileExistsError):  # another copy's process, started at the same moment, was first
                directory.mkdir(mode=0o755)
                self._made_parents.append(directory)


def refuse_existing(target: Path, *, force: bool = False) -> None:
    """Raise OutputError if `target` is a file, or a non-empty directory that may not be replaced.

    Even `force` replaces only what looks like a result of mpu, and never anything that holds a secret.
    """
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target}: exists and is not a directory", "choose another path")
    with disk_errors(target):
        if not target.is_dir() or not any(target.iterdir()):
            return
        for secret in target.rglob("secret.yaml"):
            raise OutputError(f"{secret.parent}: is a secret directory, which is never overwritten", "choose another path")
        if not force:
            raise OutputError(f"{target}: exists and is not empty", "choose another path, or give --force to replace it")
        if not any((target / name).exists() for name in _RESULTS):
            raise OutputError(f"{target}: is not something that mpu wrote, so --force does not replace it", "choose another path")


def refuse_nesting(target: Path, *inputs: Path) -> None:
    """Raise UsageError if `target` is one of the inputs, holds one, or lies in one.

    With --force the input would be destroyed; and what is sent must not hold, or lie in, what is kept.
    """
    out = target.resolve()
    for path in inputs:
        other = path.resolve()
        if out == other or out in other.parents or other in out.parents:
            raise UsageError(f"{target}: lies in {path}, or holds it", "choose a directory of its own for the result")


@contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's errors while writing `target` into one readable line."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(target) from error
        where = _as_asked(Path(error.filename)) if isinstance(error.filename, str) else target
        raise OutputError(f"{where}: {error.strerror}", "check the path and its permissions") from error


def disk_full(target: Path) -> OutputError:
    """The error for a full disk, ready to be raised."""
    return OutputError(f"{_as_asked(target)}: the disk is full; nothing was kept", "free some space, run again")


def _as_asked(path: Path) -> Path:
    """The directory that the user named, for a path inside the hidden sibling that stands in for it."""
    for part in (path, *path.parents):
        if part.name.startswith(".") and part.name.endswith(_SUFFIX):
            return part.with_name(part.name[1 : -len(_SUFFIX)])
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


def _empty(path: Path) -> None:
    for item in path.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()
