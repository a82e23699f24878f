"""One `mpu run` at a time in a work directory; a second one waits and then finds the steps done."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL = 0.5


@contextmanager
def locked(root: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a work directory; it ends with the process, however that ends.

    Args:
        root: the work directory.
        tell: is called once with a line if another process holds the lock.
    """
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not _try(handle):
            if not told:
                tell(f"{root}: process {_holder(handle)} is working there; waiting for its end")
                told = True
            time.sleep(_POLL)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(handle: int) -> str:
    return os.pread(handle, 20, 0).decode(errors="replace").strip() or "another"
