"""The evaluation records of a dossier, beside the models that they measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from mpu_cli.evaluation.key_numbers import direction
from mpu_cli.report.lineage_tables import SHORT
from mpu_cli.report.numbers import number
from mpu_cli.report.page import Block, Paragraph
from mpu_cli.report.record import BETTER, Value
from mpu_cli.report.table import PageTable

if TYPE_CHECKING:
    from mpu_cli.evaluation.records.record import Record
    from mpu_cli.server.lineage.models import Lineage

Matched: TypeAlias = dict[str, list[tuple[str, Sequence[Value]]]]
"""Names and numbers of records, by the digest of the model."""


def by_model(
    lineage: Lineage, records: Mapping[str, tuple[Record, Sequence[Value]]]
) -> tuple[Matched, list[str]]:
    """Records by the model that they measured: itself, or a copy of it in a handoff."""
    matched: Matched = {}
    strangers = []
    for name, (record, values) in records.items():
        digest = str(record.model.get("digest"))
        model = digest if digest in lineage.models else _published_from(lineage, record)
        if model is None:
            strangers.append(name)
        else:
            shown = name if model == digest else f"{name} (of a published copy)"
            matched.setdefault(model, []).append((shown, values))
    return matched, strangers


def _published_from(lineage: Lineage, record: Record) -> str | None:
    """The model that a measured copy was made from; its files were checked when it was measured."""
    stated = record.model.get("handoff")
    handoff = lineage.handoffs.get(str(stated.get("id"))) if isinstance(stated, Mapping) else None
    if handoff is None or stated is None or stated.get("digest") != handoff.digest:
        return None
    return handoff.model


def evaluation_blocks(
    lineage: Lineage,
    matched: Matched,
    strangers: Sequence[str],
) -> list[Block]:
    """The numbers of the records, by model; which models have none."""
    blocks: list[Block] = [
        Paragraph(f"{name}: measured a model that is not in this lineage.", "note")
        for name in strangers
    ]
    missing = [digest for digest in lineage.models if digest not in matched]
    if missing:
        names = ", ".join(f"{digest[:SHORT]}…" for digest in missing)
        blocks.append(
            Paragraph(f"No record was given of: {names} (mpu eval --record, then --records).")
        )
    rows = [
        (digest, name, value)
        for digest in lineage.models
        for name, values in matched.get(digest, ())
        for value in values
    ]
    if rows:
        blocks.append(
            PageTable(
                name="evaluations",
                caption="The numbers of the records beside each model.",
                columns=("model", "record", "number", "better", "value"),
                rows=tuple(
                    (
                        f"{digest[:SHORT]}…",
                        name,
                        f"{value.owner} {value.metric}",
                        BETTER.get(
                            better := direction(value.owner, value.role, value.metric), better
                        ),
                        number(value.value),
                    )
                    for digest, name, value in rows
                ),
                names=("model", "record", "set", "metric", "value", "low", "high"),
                values=tuple(
                    (digest, name, value.owner, value.metric, value.value, value.low, value.high)
                    for digest, name, value in rows
                ),
            )
        )
    return blocks
