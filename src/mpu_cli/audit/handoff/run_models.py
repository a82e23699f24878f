"""Running the models of an audit: texts, the base's directions for an attack, and behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mpu_cli.audit.handoff.behaviour import Behaviour, Progress, behaviour
from mpu_cli.audit.handoff.directions import Directions, input_directions
from mpu_cli.audit.handoff.holding import Holding
from mpu_cli.audit.handoff.texts import given_texts, written_texts
from mpu_cli.checkpoint.model import Checkpoint
from mpu_cli.data.templates import TokenizedRow
from mpu_cli.modeling.load import load_model
from mpu_cli.server.lineage.records import HandoffRecord

MOST_COPIES = 4
"""Of more copies, the first of each handoff is run."""
MOST_HANDOFFS = 8


@dataclass(frozen=True, slots=True)
class Texts:
    """What the models are run on."""

    rows: tuple[TokenizedRow, ...]
    source: str
    """Where they are from, for the user."""


@dataclass(frozen=True, slots=True)
class Runs:
    """What running the models gave."""

    texts: str
    behaviours: tuple[Behaviour, ...]
    """One for each model that the handoffs were made from, the oldest first."""


def texts_for(holding: Holding, probe: Path | None, seed: int, progress: Progress) -> Texts:
    """The given rows, or texts that the first copy writes, as an attacker could have it do."""
    first = holding.copies[0]
    if probe is not None:
        return Texts(tuple(given_texts(probe, first.checkpoint.path)), str(probe))
    progress(f"{first.label} writes texts", 0, 0)
    rows, written = written_texts(load_model(first.checkpoint.path).model, seed)
    return Texts(tuple(rows), f"texts that {first.label} wrote" if written else "random tokens")


def base_directions(
    holding: Holding, layers: Sequence[int], texts: Texts, progress: Progress
) -> dict[int, dict[str, Directions]]:
    """The directions of the base's activations; none without a base."""
    base = comparable_base(holding)
    if base is None:
        return {}
    progress("running the base", 0, 0)
    model = load_model(base.path).model
    return input_directions(model, holding.layout, layers, texts.rows)


def comparable_base(holding: Holding) -> Checkpoint | None:
    """The base, if it has as many tokens as the copies."""
    if holding.base is None:
        return None
    copy, base = holding.copies[0].checkpoint.tensors, holding.base.tensors
    names = [
        name for role in ("embedding", "head") for name in holding.layout.outside.get(role, ())
    ]
    same = all(name in base and base[name].shape == copy[name].shape for name in names)
    return holding.base if same else None


def measure_behaviour(
    holding: Holding,
    records: Sequence[HandoffRecord],
    models: Mapping[str, Checkpoint],
    texts: Texts,
    progress: Progress,
) -> Runs:
    """Compare copies and the base with the model that they were made from."""
    chosen = list(holding.copies)
    if len(chosen) > MOST_COPIES:
        firsts = {copy.handoff: copy for copy in reversed(chosen)}
        chosen = [firsts[number] for number in sorted(firsts)][:MOST_HANDOFFS]
    found = []
    for digest in dict.fromkeys(record.model for record in records):
        copies = {
            copy.label: copy.checkpoint.path
            for copy in chosen
            if records[copy.handoff].model == digest
        }
        base = comparable_base(holding)
        place = None if base is None else base.path
        if copies:
            found.append(behaviour(models[digest].path, place, copies, texts.rows, progress))
    return Runs(texts.source, tuple(found))
