"""Put a handoff and its records in place so that a crash at any moment loses neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

from mpu_cli.checkpoint.staging import Staging, after_rename, disk_errors
from mpu_cli.server.lineage.models import Lineage, create, seen
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord
from mpu_cli.server.secrets.secret import Secret


@contextmanager
def begin_lineage(
    path: Path,
    secret: Secret,
    root: ModelRecord,
    records: Sequence[HandoffRecord],
    *,
    remembered: bool = True,
) -> Iterator[Lineage]:
    """Write a new lineage with its first records; it is locked until the context ends.

    `remembered` is false for one that is thrown away: see `last_seen`.
    """
    with Staging(path, private=True) as staging:
        with disk_errors(path):
            lineage = create(staging.path, secret, root)
            save(lineage, records)
        staging.commit()
        lineage.path = staging.target
        with seen(lineage) if remembered else nullcontext():
            yield lineage


def save(lineage: Lineage, records: Sequence[HandoffRecord]) -> None:
    """Write the records, flushed to disk."""
    for record in records:
        lineage.save_handoff(record)


def issue(
    lineage: Lineage, records: Sequence[HandoffRecord], handoff: Staging
) -> tuple[HandoffRecord, ...]:
    """Rename the handoff of saved records into place, then mark the records as issued.

    `Lineage.recover` finishes what a crash in between leaves.

    Raises:
        OutputError: the disk is full; the message says whether the handoff is in place.
    """
    handoff.commit()
    issued = tuple(replace(record, state="issued") for record in records)
    with after_rename(handoff.target, lineage.path):
        save(lineage, issued)
    return issued
