"""Mount points: directories that cannot be renamed or replaced."""

from __future__ import annotations

import os
from pathlib import Path


def is_mount_point(path: Path) -> bool:
    """Whether a file system, or a part of one (a bind mount, a volume), is mounted here."""
    if os.path.ismount(path):
        return True
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    except OSError:  # not Linux
        return False
    name = os.fsencode(path.resolve())
    for letter in (b"\\", b" ", b"\t", b"\n"):  # as the kernel writes them
        name = name.replace(letter, b"\\%03o" % letter[0])
    return any(line.split(b" ")[4] == name for line in mounts)
