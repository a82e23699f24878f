"""The published copies that a found model may have come from, and their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpu_cli.server.lineage.models import Lineage
from mpu_cli.server.lineage.records import HandoffRecord
from mpu_cli.server.publishing.noise import NoiseDraw
from mpu_cli.server.publishing.reissue import recorded_draw

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """One published copy."""

    copy: str
    handoff: str
    """Id."""
    client: str
    round: int
    """From 1: models of the lineage that were handed out, in their order."""
    date: str
    """Of the handoff, UTC; "" in records of an earlier mpu."""
    position: int
    """Its place in its draw."""


@dataclass(frozen=True, slots=True, eq=False)
class SuspectDraw:
    """The copies of one draw, whose noise is correlated."""

    noise: NoiseDraw
    kappa: float
    dtype: str
    transforms: tuple[str, ...]
    layout: str
    suspects: tuple[Suspect, ...]
    mixture: Array
    """(m, s): the noise of copy k is σ times these shares of the draw's s standard normals."""


def suspect_draws(lineage: Lineage) -> tuple[list[SuspectDraw], list[HandoffRecord]]:
    """Every draw with noise, and the handoffs without noise: their copies differ by T alone.

    Handoffs that an interrupted command prepared are included, because their holder may have them.
    """
    rounds = {
        digest: number
        for number, digest in enumerate(
            dict.fromkeys(record.model for record in lineage.handoffs.values()), start=1
        )
    }
    by_draw: dict[str, list[HandoffRecord]] = {}
    silent = []
    for record in lineage.handoffs.values():
        if record.kappa and any(record.sigma.values()):
            by_draw.setdefault(record.draw, []).append(record)
        else:
            silent.append(record)
    return [_draw(lineage, records, rounds) for records in by_draw.values()], silent


def _draw(
    lineage: Lineage, records: Sequence[HandoffRecord], rounds: dict[str, int]
) -> SuspectDraw:
    first = records[0]
    suspects = [
        Suspect(
            copy.name,
            record.id,
            record.holder,
            rounds[record.model],
            record.date,
            copy.position,
        )
        for record in records
        for copy in record.copies
    ]
    noise = recorded_draw(lineage, first)
    mixed = noise.mixture(1.0)
    count = max(number for shares, _ in mixed for number, _ in shares) + 1
    mixture = np.zeros((noise.size, count))
    for position, (shares, size) in enumerate(mixed):
        for number, share in shares:
            mixture[position, number] = size * share
    return SuspectDraw(
        noise,
        first.kappa,
        first.dtype,
        first.transforms,
        first.layout,
        tuple(sorted(suspects, key=lambda suspect: suspect.position)),
        mixture,
    )
