"""Whether a disk has room for what is to be written, asked before the work is done."""

from __future__ import annotations

import shutil
from pathlib import Path

from mpu_cli.checkpoint.header import BYTES_PER_ELEMENT, STORED_NAMES
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.errors import OutputError


def require_space(place: Path, needed: int, what: str) -> None:
    """Raise OutputError if the disk of `place` (or of its nearest parent that exists) has less than `needed` bytes free."""
    free = shutil.disk_usage(_existing(place)).free
    if free < needed:
        raise OutputError(
            f"{place}: {what} needs {needed / 1e6:,.1f} MB, and {free / 1e6:,.1f} MB are free"
            " there",
            "free some space, or use a larger disk",
        )


def stored_bytes(model: Checkpoint, dtype: str) -> int:
    """What a model's tensors take once they are stored as `dtype`.

    As they are where that is auto, which is the least.
    """
    if dtype == "auto":
        return sum(info.nbytes for info in model.tensors.values())
    return model.elements * BYTES_PER_ELEMENT[STORED_NAMES[dtype]]


def same_disk(one: Path, other: Path) -> bool:
    """Whether two places, or their nearest parents that exist, are on the same file system."""
    return _existing(one).stat().st_dev == _existing(other).stat().st_dev


def _existing(place: Path) -> Path:
    return next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
