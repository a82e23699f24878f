"""What makes an evaluation record evidence: which model, which rows, when, with which versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpu_cli.evaluation.records.record import Record
from mpu_cli.report.table import PageTable

UNKNOWN = "not in the record"


def model_facts(record: Record) -> dict[str, str]:
    """The measured model: its name, its digest, and the handoff that it is a copy of."""
    handoff = record.model.get("handoff")
    pairs = {
        "model": str(record.model.get("name") or UNKNOWN),
        "digest": str(record.model.get("digest") or UNKNOWN),
        "date": str(record.made.get("date") or UNKNOWN),
    }
    if isinstance(handoff, Mapping):
        pairs["published as"] = (
            f"{handoff.get('copy')} of handoff {handoff.get('id')}, digest {handoff.get('digest')}"
        )
    return pairs


def circumstances(record: Record) -> dict[str, str]:
    """How it was measured: versions, device, other models, prompts, and settings."""
    versions = record.made.get("versions")
    pairs = {"device": str(record.made.get("device") or UNKNOWN)}
    if isinstance(versions, Mapping):
        pairs["versions"] = ", ".join(f"{name} {number}" for name, number in versions.items())
    for what in ("retain_record", "before", "reference"):
        other = record.made.get(what)
        if isinstance(other, Mapping):
            name = what.replace("_", " ")
            pairs[f"{name}'s model"] = f"{other.get('name')}, digest {other.get('digest')}"
    pairs |= {name.replace("_", " "): text for name, text in _settings(record.settings).items()}
    return pairs


def _settings(settings: Mapping[str, Any]) -> dict[str, str]:
    shown = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {item}" for key, item in value.items() if item)
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value))
        else:
            text = "" if value is None else str(value)
        if text:
            shown[name] = text
    return shown


def rows_table(record: Record, name: str = "rows") -> PageTable:
    """The sets by their digests, which tell whether two records are of the same rows."""
    columns = ("set", "role", "rows", "SHA-256 of the rows", "SHA-256 of the rows as tokens")
    sets = record.sets.items()
    return PageTable(
        name=name,
        caption="The sets of rows. A digest tells nothing of a row; equal rows have equal digests.",
        columns=columns,
        rows=tuple(
            (key, info.role, str(info.rows), info.digest or UNKNOWN, info.tokens or UNKNOWN)
            for key, info in sets
        ),
    )
