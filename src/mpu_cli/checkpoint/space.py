"""Check that a disk has room for the result before the work starts."""

from __future__ import annotations

import shutil
from pathlib import Path

from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import OutputError


def require_space(place: Path, needed: int, what: str) -> None:
    """Raise OutputError if the disk of `place` has less than `needed` bytes free."""
    free = shutil.disk_usage(_existing(place)).free
    if free < needed:
        raise OutputError(
            f"{place}: {what} needs {needed / 1e6:,.1f} MB, but only {free / 1e6:,.1f} MB are free",
            "free some space, or use a larger disk",
        )


def stored_bytes(model: Checkpoint, dtype: str) -> int:
    """The bytes of a model's tensors stored as `dtype`; `auto` keeps their dtypes."""
    if dtype == "auto":
        return model.nbytes
    return model.elements * BYTES_PER_ELEMENT[STORED_NAMES[dtype]]


def same_disk(one: Path, other: Path) -> bool:
    """Whether two paths, or their nearest existing parents, are on the same file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(place: Path) -> Path:
    return next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
