"""The gates on an update: how much it changes, tensor by tensor, and whether its copies agree.

They find an update that was damaged, mixed up or poisoned clumsily. What one client trained on
every copy alike, within the norms, passes them: only an evaluation of the result can tell.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isnan, sqrt
from pathlib import Path

import torch

from mpu_cli.checkpoint.change import Changed
from mpu_cli.documentation import page
from mpu_cli.errors import GateError
from mpu_cli.server.aggregation.copy_statistics import (
    DrawStatistics,
    Gram,
    TensorStatistics,
    cosine,
    largest_ratio,
)
from mpu_cli.server.aggregation.settings import AggregateSettings
from mpu_cli.server.aggregation.validate_updates import DrawUpdates

_SMALL = 1e-3
"""Copies are not compared on a tensor that none of them changed by this share: rounding, and a
gradient that is nearly zero, decide there. Nor can so small a change do much."""
_CHANCE = 3.0
"""Cosines of n entries scatter by 1/√n: so many of these are allowed in addition."""
_STEPS = 5.0
"""Training in the copies' dtype moves an entry by whole steps of it, or not at all. Where s entries
move in one copy, chance lets √s scatter by 1/2, so that √s₁ - 3 √s₂ scatters by 1.6: three times
this, in steps, is allowed in addition."""


@dataclass(frozen=True, slots=True)
class GateNumber:
    """The number of one gate that is nearest to its limit, or beyond it."""

    gate: str
    value: float
    limit: float
    message: str
    hint: str
    tensor: str | None = None
    at_least: bool = False
    """Whether the limit is a lower one, of a cosine."""

    @property
    def passes(self) -> bool:
        """Whether the update passes; NaN does not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def rank(self) -> tuple[float, float]:
        """Greater the nearer it is to the limit, or the farther beyond."""
        value, limit = self.value, self.limit
        if self.at_least:
            value, limit = 1.0 - value, 1.0 - limit
        if isnan(value):
            return inf, inf
        if limit == inf:
            return 0.0, value
        return value / limit if limit else inf, value


@dataclass(frozen=True, slots=True)
class Copies:
    """One draw, as the gates see it."""

    update: Path
    names: tuple[str, ...]
    """Where each copy's change lies, for messages."""
    weights: tuple[float, ...]
    kappa: float
    step: float
    """Between numbers of the copies' dtype near 1."""
    statistics: DrawStatistics
    whole: Gram
    """⟨Δ_i, Δ_j⟩ over all tensors."""

    @classmethod
    def of(cls, draw: DrawUpdates, statistics: DrawStatistics) -> Copies:
        """A draw whose changes have been read."""
        places = [delta.where for delta in draw.deltas]
        update = places[0].parent
        names = [str(w.relative_to(update) if w.is_relative_to(update) else w) for w in places]
        return cls(
            update,
            tuple(names),
            draw.weights,
            draw.record.kappa,
            torch.finfo(getattr(torch, draw.record.dtype)).eps,
            statistics,
            statistics.total(),
        )


def check_update(
    draws: Sequence[Copies], changed: Changed, elements: int, settings: AggregateSettings
) -> tuple[GateNumber, ...]:
    """Test every gate.

    Args:
        draws: the copies' changes.
        changed: what the changes add up to; its `relative_norm` includes η.
        elements: entries of the model.
        settings: the limits, and η.

    Returns:
        The number nearest to its limit, by gate.

    Raises:
        GateError: a number is beyond its limit; the message has the first gate's.
    """
    found: dict[str, GateNumber] = {}
    for item in _every(draws, changed, elements, settings):
        before = found.get(item.gate)
        if before is None or item.rank > before.rank:
            found[item.gate] = item
    failed = [item for item in found.values() if not item.passes]
    if failed:
        others = ", ".join(item.gate for item in failed[1:])
        more = f" (refused also by: {others})" if others else ""
        raise GateError(f"{failed[0].message}{more}", failed[0].hint)
    return tuple(found.values())


def _every(
    draws: Sequence[Copies], changed: Changed, elements: int, settings: AggregateSettings
) -> Iterator[GateNumber]:
    for draw in draws:
        yield from _agreement(draw, settings)
    norm = changed.relative_norm / settings.server_lr
    yield GateNumber(
        "relative norm",
        norm,
        settings.max_relative_norm,
        f"the update is {norm:.3f} of the model's norm, more than {settings.max_relative_norm:g}",
        "the client's training diverged; if you trust it, raise --max-relative-norm",
    )
    usual = changed.model_square / elements if elements else 0.0
    for draw in draws:
        yield from _ratio(draw, settings.max_copy_ratio)
        for name, tensor in sorted(draw.statistics.tensors.items()):
            # A bias of zeros has no norm to compare with: then the model's RMS counts.
            own = changed.squares[name] / tensor.elements if tensor.elements else 0.0
            scale = sqrt(max(own, usual))
            yield from _norms(draw, name, tensor, scale, settings)
            if max(tensor.norms()) >= _SMALL * scale * sqrt(tensor.elements):
                yield from _compared(draw, name, tensor, draw.step * scale, settings)


def _agreement(draw: Copies, settings: AggregateSettings) -> Iterator[GateNumber]:
    value, least = draw.statistics.agreement(), settings.min_agreement
    if value is None:
        return
    yield GateNumber(
        "agreement",
        value,
        least,
        f"the copies' changes do not agree (cosine {value:.3f}, at least {least:g} is needed):"
        f" copies of {draw.update} were swapped, repeated, or trained differently",
        "ask the client whether one mpu unlearn command trained every copy: if so, the noise"
        f" (κ = {draw.kappa:g}) is the likely cause, --min-agreement accepts the update, and"
        " perturb with a smaller --kappa avoids this; if not, ask for a new update",
        at_least=True,
    )


def _ratio(draw: Copies, limit: float) -> Iterator[GateNumber]:
    found = largest_ratio(draw.whole)
    if found is not None:
        value, larger, smaller = found
        yield GateNumber(
            "ratio of copies",
            value,
            limit,
            f"{draw.update}: the change of {draw.names[larger]} is {value:.3g} times that of"
            f" {draw.names[smaller]}, more than {limit:g}: one of them was scaled or trained"
            " differently",
            "ask the client for a new update, made by one mpu unlearn command; if you trust this"
            " one, raise --max-copy-ratio",
        )


def _norms(
    draw: Copies, name: str, tensor: TensorStatistics, scale: float, settings: AggregateSettings
) -> Iterator[GateNumber]:
    hint = f"honest training changes far less ({page('trust')}); if you trust it, raise"
    share = _over(tensor.mean_norm(draw.weights), scale * sqrt(tensor.elements))
    yield GateNumber(
        "tensor norm",
        share,
        settings.max_tensor_norm,
        f"{draw.update}: the change of tensor {name} is {share:.3g} of the tensor's norm, more than"
        f" {settings.max_tensor_norm:g}",
        f"{hint} --max-tensor-norm",
        name,
    )
    if not tensor.rows:
        return
    square, row, copy = tensor.largest_row()
    share = _over(sqrt(square), scale * sqrt(tensor.elements / tensor.rows))
    yield GateNumber(
        "row norm",
        share,
        settings.max_row_norm,
        f"{draw.update}: {draw.names[copy]} changes row {row} of tensor {name} by {share:.3g} of"
        f" the norm of its mean row, more than {settings.max_row_norm:g}",
        f"{hint} --max-row-norm",
        name,
    )


def _compared(
    draw: Copies, name: str, tensor: TensorStatistics, step: float, settings: AggregateSettings
) -> Iterator[GateNumber]:
    # A copy that changed nothing at all is the agreement's matter.
    moved = [k for k in range(len(draw.whole)) if draw.whole[k][k]]
    found = largest_ratio(tensor.gram, moved, _STEPS * step)
    if found is not None:
        value, larger, smaller = found
        limit = settings.max_copy_ratio
        yield GateNumber(
            "ratio of a tensor",
            value,
            limit,
            f"{draw.update}: {draw.names[larger]} changes tensor {name} {value:.3g} times as much"
            f" as {draw.names[smaller]}, more than {limit:g}: that tensor of one copy was scaled"
            " or replaced",
            "ask the client for a new update, made by one mpu unlearn command; if you trust this"
            " one, raise --max-copy-ratio",
            name,
        )
    # Without the tensor itself, whose poison may be most of the update.
    others = [
        [a - b for a, b in zip(*rows, strict=True)]
        for rows in zip(draw.whole, tensor.gram, strict=True)
    ]
    for i in range(len(draw.whole)):
        for j in range(i):
            usual, own = cosine(others, i, j), cosine(tensor.gram, i, j)
            if usual is None or own is None:
                continue
            limit = settings.max_agreement_drop
            square = min(tensor.gram[i][i], tensor.gram[j][j])
            # Of one that changed nothing, the ratio says whether it should have.
            entries = min(float(tensor.elements), square / step**2 if step else inf)
            chance = _CHANCE / sqrt(entries) if entries else inf
            yield GateNumber(
                "agreement of a tensor",
                usual - own - chance,
                limit,
                f"{draw.update}: {draw.names[i]} and {draw.names[j]} do not agree on tensor {name}:"
                f" cosine {own:.3f}, more than {limit:g} below the {usual:.3f} of"
                " all others",
                "that tensor was changed in one copy only, or in another way: ask the client for a"
                " new update; if you trust this one, raise --max-agreement-drop",
                name,
            )


def _over(value: float, scale: float) -> float:
    if scale:
        return value / scale
    return inf if value else 0.0
