"""Open a file that a user or the other party named: a regular file, and no more of it than a limit.

Opening a pipe blocks, a device never ends, and a sparse file of a terabyte takes no room where it
comes from. So whatever is read as a whole goes through here. Files of a model directory, in which
links are limited too, go through `plain_file`.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from pathlib import Path

from mpu_cli.errors import MpuError

RECORD_BYTES = 1 << 30
"""The limit of a file of an evaluation record; the texts of 100,000 rows take a tenth of it."""


def open_file(path: Path, error: type[MpuError], hint: str | None = None) -> BufferedReader:
    """Open a regular file for reading; a link to one is followed.

    Raises:
        error: there is none, it may not be read, or it is a directory, a pipe or a device.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as problem:
        raise error(f"{path}: {str(problem.strerror).lower()}", hint) from problem
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise error(f"{path}: not a regular file but {kind}", hint)
    return os.fdopen(handle, "rb")


def read_file(path: Path, limit: int, error: type[MpuError], hint: str | None = None) -> bytes:
    """The bytes of a regular file of at most `limit` bytes.

    Raises:
        error: see `open_file`; or it is larger.
    """
    with open_file(path, error, hint) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            data = file.read(limit + 1) if size <= limit else b""
        except OSError as problem:
            raise error(f"{path}: {str(problem.strerror).lower()}", hint) from problem
    if size > limit or len(data) > limit:
        raise error(f"{path}: larger than {_shown(limit)}, the limit for this file", hint)
    return data


def _shown(limit: int) -> str:
    return f"{limit >> 20} MiB" if limit >= 1 << 20 else f"{limit >> 10} KiB"
