"""Whether a disk has room for what is to be written, asked before the work is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from mpu_cli.errors import OutputError


def require_space(place: Path, needed: int, what: str) -> None:
    """Raise OutputError if the disk of `place` (or of its nearest parent that exists) has less than `needed` bytes free."""
    existing = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise OutputError(
            f"{place}: {what} needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free there",
            "free some space, or use a larger disk",
        )
