"""Private temporary directories beside a file of the user's, removed even after a kill.

A killed run cannot remove its own. The next run of the same command does: whatever has the same
name, is this user's, holds something and is locked by nobody.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from mpu_cli.checkpoint.own_directory import open_own
from mpu_cli.checkpoint.staging import disk_errors
from mpu_cli.errors import OutputError


@contextmanager
def scratch_directory(beside: Path, name: str, suffix: str) -> Iterator[Path]:
    """Yield a new directory `.NAME.…SUFFIX` that only this user can read; it is removed at the end.

    Raises:
        OutputError: no directory can be made there.
    """
    _remove_left(beside, name, suffix)
    with disk_errors(beside):
        place = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=suffix, dir=beside))
    try:
        lock = open_own(place, fresh=True)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield place
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _remove_left(beside: Path, name: str, suffix: str) -> None:
    """Remove directories of killed runs: they are not empty, and nobody locks them.

    A run that has just started locks its directory before it writes to it.
    """
    for place in beside.glob(f".{escape(name)}.*{suffix}"):
        try:
            lock = open_own(place)
        except (OSError, OutputError):
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if any(place.iterdir()):
                shutil.rmtree(place, ignore_errors=True)
        except OSError:  # another process uses the directory
            continue
        finally:
            os.close(lock)
