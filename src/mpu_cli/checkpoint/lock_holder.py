"""Which process holds the lock of a file or directory, as far as Linux tells."""

from __future__ import annotations

import os
import re
from pathlib import Path

_LINE = re.compile(r"\d+: FLOCK +ADVISORY +WRITE (\d+) ([0-9a-f]+):([0-9a-f]+):(\d+) ")


def lock_holder(handle: int) -> str:
    """Who locks an open file: `process 123`, or `that process` if it is not known."""
    status = os.fstat(handle)
    place = os.major(status.st_dev), os.minor(status.st_dev), status.st_ino
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):  # another system, or none to see
        return "that process"
    for line in lines:
        found = _LINE.match(line)
        if found and (int(found[2], 16), int(found[3], 16), int(found[4])) == place:
            return _described(int(found[1]))
    return "that process"


def _described(process: int) -> str:
    """A process by number and state: a stopped one holds its locks until it is ended."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return f"process {process}"
    is_stopped = state.rpartition(") ")[2][:1] in {"T", "t"}
    return f"process {process}" + (", which is stopped," if is_stopped else "")
