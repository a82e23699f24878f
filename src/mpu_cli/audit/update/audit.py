"""The audit of one copy of an update: every finding, in the order of the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.audit.update.attacks import Machine
from mpu_cli.audit.update.encoded_rows import Progress, encode_sets
from mpu_cli.audit.update.finding import Finding
from mpu_cli.audit.update.membership import membership
from mpu_cli.audit.update.public_facts import public_facts
from mpu_cli.audit.update.row_sets import RowSets
from mpu_cli.audit.update.string_scan import private_names, string_scan
from mpu_cli.audit.update.subject import open_subject
from mpu_cli.audit.update.token_rows import token_rows
from mpu_cli.audit.update.training_length import training_length
from mpu_cli.data.prompting import PLAIN, Prompting


@dataclass(frozen=True, slots=True)
class UpdateAudit:
    """What is audited, and how the rows become tokens."""

    update: Path
    """A directory."""
    handoff: Path
    """A directory."""
    sent: Path
    """The update as it will be sent: a tar file, or the directory."""
    rows: RowSets
    """All rows, for the scan."""
    files: tuple[str, ...]
    """The files that the rows came from."""
    copy: int = 1
    max_rows: int = 200
    """Rows of each set that the attacks use."""
    max_length: int | None = None
    prompting: Prompting = PLAIN
    device: str = "cpu"


def audit_update(audit: UpdateAudit, progress: Progress = lambda *_: None) -> list[Finding]:
    """Measure what the server can learn from one copy of an update.

    Raises:
        MpuError: see `open_subject` and `encode_sets`.
    """
    with open_subject(audit.update, audit.handoff, audit.copy) as subject:
        sampled = audit.rows.sampled(audit.max_rows)
        encoded = encode_sets(sampled, subject.published.path, audit.max_length, audit.prompting)
        everything = encode_sets(
            RowSets(audit.rows.forget, (), (), audit.rows.cover),
            subject.published.path,
            audit.max_length,
            audit.prompting,
            whole_texts=True,  # training cuts a long text into rows and uses them all
        )
        machine = Machine(audit.device, encoded.pad_id, progress)
        return [
            *membership(subject, encoded, machine)[0],
            *token_rows(subject, everything),
            training_length(subject, len(audit.rows.forget), len(audit.rows.cover)),
            public_facts(subject),
            string_scan(
                subject,
                [*audit.rows.forget, *audit.rows.cover],
                private_names(audit.files),
                audit.sent,
                progress,
            ),
        ]


def by_key(findings: Iterable[Finding]) -> dict[str, Finding]:
    """The findings by their names in JSON."""
    return {finding.key: finding for finding in findings}
