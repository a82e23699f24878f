"""Published tensors that no attack looks at: embeddings, final norm, head and the like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mpu_cli.architectures.layout import ModelLayout
from mpu_cli.server.lineage.records import HandoffRecord


@dataclass(frozen=True, slots=True)
class NotAttacked:
    """The tensors outside the decoder layers, by role."""

    with_noise: Mapping[str, tuple[str, ...]]
    """They got noise in every handoff (`--scope all`)."""
    as_they_are: Mapping[str, tuple[str, ...]]
    """At least one handoff published them unchanged: whoever holds it knows them exactly."""


def not_attacked(
    layout: ModelLayout, records: Sequence[HandoffRecord], offset: Mapping[str, float]
) -> NotAttacked:
    """Sort the tensors outside the layers by whether they got noise.

    Args:
        layout: of the copies.
        records: of the handoffs attacked.
        offset: the size of the lineage's offset by group, weight units.
    """
    groups = layout.groups("all")
    outside = {name: groups[name] for name in groups if name not in layout.groups("layers")}
    hidden = {
        name
        for name in outside
        if offset.get(name) or all(record.sigma.get(name) for record in records)
    }
    return NotAttacked(
        {name: tensors for name, tensors in outside.items() if name in hidden},
        {name: tensors for name, tensors in outside.items() if name not in hidden},
    )
