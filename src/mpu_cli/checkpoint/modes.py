"""Set a mode exactly, whatever the umask; on file systems without modes, as far as it matters."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mpu_cli.errors import OutputError

_OTHERS = 0o077


def set_mode(target: Path | int, mode: int, name: Path | None = None) -> None:
    """Give a file or directory, by path or open, exactly this mode.

    The file systems of memory sticks and some network shares keep no modes. What is public may lie
    there; what is private may not, unless the whole file system is closed to other users.

    Args:
        target: the file.
        mode: its mode.
        name: what an error calls it; None = its path.

    Raises:
        OutputError: others could read something private.
    """
    try:
        os.chmod(target, mode)  # noqa: PTH101 - an open file has no Path
    except PermissionError:
        if mode & _OTHERS == 0 and stat.S_IMODE(os.stat(target).st_mode) & _OTHERS:  # noqa: PTH116
            raise OutputError(
                f"{name or target}: other users could read it, because its file system keeps no"
                " permissions",
                "choose a directory on another file system",
            ) from None
