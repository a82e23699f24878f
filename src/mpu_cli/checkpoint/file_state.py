"""Notice that a file was written to between the check of its digest and its use.

A reader that needs rows in another order than the file's, or a library that maps the file, cannot
hash what it consumes. The system, however, changes a file's times at every write, and a program can
set the time of the last change of any kind (ctime) only by setting the clock. So: note the state,
hash, use, and compare the state. Where only that time differs (a backup has made a hard link, the
mode was changed) the digest decides.

What remains: a write through memory that was mapped and dirty before the digest was taken, a disk
that is written below its file system, and whoever may set the clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from mpu_cli.checkpoint.digest import UNCOUNTED, ByteCounter, file_digest, model_digest
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.checkpoint.read_file import open_file
from mpu_cli.errors import BadBundleError, BadModelError, MpuError

_TICK = 20_000_000
"""Nanoseconds within which two writes may get one time: a kernel's clock ticks every 1 to 10 ms."""
_COARSE_TICK = 2_000_000_000
"""The same where a file system stores whole seconds (FAT: every second one)."""
_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class FileState:
    """What every write changes about a file; `changed` is its ctime, times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path, error: type[MpuError]) -> FileState:
        """The state of a regular file, which is opened: else a network file system may answer late.

        Raises:
            error: it cannot be opened.
        """
        with open_file(path, error, _AGAIN) as file:
            about = os.fstat(file.fileno())
        return cls(about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)

    def settle(self) -> None:
        """Wait until a further write would get another time than the last one; 2 s at most."""
        tick = _TICK if self.changed % _SECOND else _COARSE_TICK
        end = time.monotonic_ns() + tick
        while 0 <= time.time_ns() - self.changed < tick and time.monotonic_ns() < end:
            time.sleep(0.002)

    def bytes_may_differ(self, later: FileState) -> bool:
        """Whether the file was replaced or written to; False if only its mode or links changed."""
        return (self.device, self.inode, self.size, self.modified) != (
            later.device,
            later.inode,
            later.size,
            later.modified,
        )


class WatchedFiles:
    """Files with the digests that were computed of them, and their states before that."""

    def __init__(
        self,
        digest: Callable[[Path, ByteCounter], str] = file_digest,
        error: type[MpuError] = BadBundleError,
    ) -> None:
        self._digest, self._error, self._lock = digest, error, Lock()
        self._files: dict[Path, tuple[FileState, str]] = {}

    def digest(self, path: Path, counter: ByteCounter = UNCOUNTED) -> str:
        """SHA-256 of a file's bytes; the file is watched from before they are read."""
        state = FileState.of(path, self._error)
        state.settle()
        sha256 = self._digest(path, counter)
        with self._lock:
            self._files[path] = (state, sha256)
        return sha256

    def require_unchanged(self, folder: Path) -> None:
        """Require that no watched file in `folder` or below it was altered since.

        Raises:
            the error class of this object: a file was altered, replaced or removed.
        """
        for path, (state, sha256) in sorted(self._files.items()):
            if folder not in path.parents:
                continue
            later = FileState.of(path, self._error)
            if later == state:
                continue
            if state.bytes_may_differ(later) or file_digest(path) != sha256:
                raise altered(path, self._error)


class WatchedModel:
    """The files of a model's weights, as they were before its digest is computed."""

    def __init__(self, model: Checkpoint) -> None:
        """Begin to watch.

        Raises:
            BadModelError: a file cannot be opened.
        """
        self._model = model
        files = sorted({info.file for info in model.tensors.values()})
        self._states = {file: FileState.of(file, BadModelError) for file in files}
        for state in self._states.values():
            state.settle()

    def require_unchanged(self, digest: str) -> None:
        """Require that nothing wrote to the weights since; `digest` was computed meanwhile.

        Raises:
            BadModelError: a file was altered, replaced or removed.
        """
        touched = []
        for file, state in self._states.items():
            later = FileState.of(file, BadModelError)
            if state.bytes_may_differ(later):
                raise altered(file, BadModelError)
            if later != state:
                touched.append(file)
        if touched and model_digest(self._model) != digest:
            raise altered(touched[0], BadModelError)


def altered(path: Path, error: type[MpuError]) -> MpuError:
    """The error for a file that changed while it was used."""
    return error(f"{path}: was altered while this command read it", _AGAIN)


_AGAIN = "run again, and let nothing write to it meanwhile"
