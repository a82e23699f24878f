"""Notice a secret directory that was restored from an old backup.

Its files are all valid, so nothing inside it tells that newer ones are missing. This machine keeps
the newest record that it has seen of each lineage, outside the directory, in
`$XDG_STATE_HOME/mpu/lineages` (`~/.local/state/mpu/lineages`). A directory without that record is
older than what was seen, or another copy of it that went another way: the updates in the missing
records could be replayed, and their handoffs would not count in the exposure.

A machine or a home directory that never saw the lineage notices nothing.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from mpu_cli.checkpoint.read_file import read_file
from mpu_cli.documentation import page
from mpu_cli.errors import BadInputError, GateError
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord
from mpu_cli.user_directory import user_directory

_MAX_BYTES = 4096


@dataclass(frozen=True, slots=True)
class LastSeen:
    """What this machine knows of one lineage."""

    newest: str
    """Id of a handoff, or digest of a model."""
    records: int
    """Number of records then."""


def note_file(lineage: str) -> Path:
    """Where this machine keeps what it has seen of a lineage."""
    directory = user_directory("XDG_STATE_HOME", "~/.local/state")
    return directory / "lineages" / f"{lineage}.json"


def newest(handoffs: dict[str, HandoffRecord], models: dict[str, ModelRecord]) -> LastSeen:
    """The newest record of a lineage."""
    every = [(record.sequence, record.id) for record in handoffs.values()]
    every += [(record.sequence, record.digest) for record in models.values()]
    return LastSeen(max(every)[1], len(every))


def require_newest(
    where: Path,
    lineage: str,
    handoffs: dict[str, HandoffRecord],
    models: dict[str, ModelRecord],
) -> None:
    """Raise GateError if the directory lacks the newest record that this machine has seen."""
    seen = _read(note_file(lineage))
    if seen is None or seen.newest in handoffs or seen.newest in models:
        return
    now = newest(handoffs, models).records
    raise GateError(
        f"{where}: lacks record {seen.newest[:12]}…, the newest that this machine has seen of this"
        f" lineage ({seen.records} records then, {now} now): it was restored from an old backup, or"
        " is another copy",
        f"restore the newest directory; if it is lost, read {page('lineage')}, then remove"
        f" {quote(str(note_file(lineage)))} to go on without the missing records",
    )


def note_newest(
    lineage: str, handoffs: dict[str, HandoffRecord], models: dict[str, ModelRecord]
) -> None:
    """Keep the newest record; a home directory that cannot be written keeps nothing."""
    file, now = note_file(lineage), newest(handoffs, models)
    if _read(file) == now:
        return
    with suppress(OSError):
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        try:
            with open(partial, "x", encoding="utf-8", opener=_private) as out:
                json.dump({"newest": now.newest, "records": now.records}, out)
            partial.replace(file)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def _read(file: Path) -> LastSeen | None:
    """What was noted; a damaged note counts as none, since it protects only by being there."""
    try:
        content = json.loads(read_file(file, _MAX_BYTES, BadInputError, ""))
        return LastSeen(str(content["newest"]), int(content["records"]))
    except (BadInputError, OSError, ValueError, KeyError, TypeError):
        return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
