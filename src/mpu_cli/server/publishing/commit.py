"""Put a handoff and its records in place so that a crash at any moment loses neither."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mpu_cli.checkpoint.staging import Staging, disk_errors
from mpu_cli.server.lineage.models import Lineage, create
from mpu_cli.server.lineage.records import HandoffRecord, ModelRecord
from mpu_cli.server.secrets.secret import Secret


@contextmanager
def begin_lineage(
    path: Path, secret: Secret, root: ModelRecord, records: Sequence[HandoffRecord]
) -> Iterator[Lineage]:
    """Write a new lineage with its first records; it is locked until the context ends."""
    with Staging(path, private=True) as staging:
        with disk_errors(path):
            lineage = create(staging.path, secret, root)
            save(lineage, records)
        staging.commit()
        lineage.path = staging.target
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
    """
    handoff.commit()
    issued = tuple(replace(record, state="issued") for record in records)
    save(lineage, issued)
    return issued
