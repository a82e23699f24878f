"""A second lineage of one model: its offset is another one, and the two average away."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from mpu_cli.errors import MpuError
from mpu_cli.server.exposure import left, noise_of, pooled, prior
from mpu_cli.server.lineage import MODELS, Lineage
from mpu_cli.server.records import HandoffRecord


def lineages_beside(model: str, places: Iterable[Path], new: Path) -> list[Path]:
    """Secret directories in `places` (other than `new`) that know a model of this digest.

    A directory that is somebody else's or is reached by a link is not looked into; nothing is read but names.
    """
    found = {folder.resolve() for place in places for folder in _entries(place) if _knows(folder, model)}
    return sorted(found - {new.resolve()})


def warnings(others: Sequence[Path], records: Sequence[HandoffRecord]) -> list[str]:
    """One line if a model that begins a lineage with these records has other lineages already."""
    if not others:
        return []
    try:
        known = [tuple(Lineage.read(path).handoffs.values()) for path in others]
    except (MpuError, OSError) as error:
        numbers = f"how much that leaves cannot be said: {error}"
    else:
        alone = left(noise_of(records), prior(records))
        same_unit = [theirs for theirs in known if theirs and theirs[0].relative_to == records[0].relative_to]
        start = min(prior(theirs) for theirs in (records, *same_unit))
        both = left(pooled([noise_of(theirs) for theirs in (records, *same_unit)]), start)
        numbers = f"all copies of all of them leave at most {both:.3g} unknown, of this handoff alone {alone:.3g}"
    names = ", ".join(map(str, others[:3])) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
    return [
        f"this model has another lineage already: {names}. Offsets and noise of two lineages are independent and average away for a "
        f"holder of copies of both ({numbers}); --secret {others[0]} goes on with the first"
    ]


def _entries(place: Path) -> list[Path]:
    try:
        return [entry for entry in place.iterdir() if not entry.name.startswith(".")]
    except OSError:
        return []


def _knows(folder: Path, model: str) -> bool:
    try:
        about, record = folder.lstat(), (folder / MODELS / f"{model}.yaml").lstat()
    except OSError:  # no such record, or no right to look
        return False
    return stat.S_ISDIR(about.st_mode) and about.st_uid == os.geteuid() and stat.S_ISREG(record.st_mode)
