"""The hidden units of every feed-forward and expert: a permutation, and signs of up and down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from mpu_cli.architectures.layout import Index, LayerLayout, Slot
from mpu_cli.audit.handoff.alignment.assignment import CLEAR, settle
from mpu_cli.audit.handoff.alignment.products import Tensors, rows
from mpu_cli.server.transforms.build import move_units
from mpu_cli.server.transforms.reparameterization import Reparameterization

_CHUNK = 1 << 24
"""Scores that are computed at a time: 64 MiB."""


def estimate_units(
    layer: LayerLayout, anchor: Tensors, copy: Tensors
) -> tuple[Reparameterization, int, int]:
    """The units of all feed-forwards.

    Returns:
        The transform, how many units were matched clearly, and how many there are.
    """
    orders: list[tuple[Index, Index]] = []
    clear = total = 0
    for ffn in layer.ffns:
        order, sign, found = _one(ffn, anchor, copy)
        orders.append((order, sign))
        clear, total = clear + found, total + len(order)
    return move_units(layer.ffns, orders), clear, total


def _one(
    ffn: Mapping[str, tuple[Slot, ...]], anchor: Tensors, copy: Tensors
) -> tuple[Index, Index, int]:
    signed = ("up", "down") if "up" in ffn else ()
    scores = _Scores(
        *(
            _features(ffn, [role for role in ffn if role not in signed], it)
            for it in (anchor, copy)
        ),
        *(_features(ffn, signed, it) for it in (anchor, copy)),
    )
    units = len(scores.copy)
    best = np.empty(units, dtype=np.int64)
    clear, step = 0, max(1, _CHUNK // units)
    for start in range(0, units, step):
        table = scores.table(np.arange(start, min(units, start + step)), None)
        # The nearest unit, not the largest product: units differ in length.
        chosen = (table - scores.half_squares).argmax(dim=1)
        top = table.gather(1, chosen[:, None])[:, 0]
        others = (table.square().sum(dim=1) - top.square()).clamp(min=0) / max(1, units - 1)
        clear += int((top > CLEAR * others.sqrt()).sum())
        best[start : start + step] = chosen.numpy()
    matching = settle(best, lambda places, members: scores.table(places, members).numpy(), clear)
    return matching.order, scores.signs(matching.order), clear


class _Scores:
    """Products of unit i of the copy with unit j of the anchor, with the better sign."""

    def __init__(
        self,
        anchor: torch.Tensor,
        copy: torch.Tensor,
        signed_anchor: torch.Tensor,
        signed_copy: torch.Tensor,
    ) -> None:
        self.anchor, self.copy = anchor, copy
        self._signed_anchor, self._signed_copy = signed_anchor, signed_copy
        self.half_squares = (anchor.square().sum(dim=1) + signed_anchor.square().sum(dim=1)) / 2

    def table(self, places: Index, members: Index | None) -> torch.Tensor:
        """Scores of some places with some members (None: all)."""
        place = torch.from_numpy(places)
        member = slice(None) if members is None else torch.from_numpy(members)
        plain = self.copy[place] @ self.anchor[member].T
        return plain + (self._signed_copy[place] @ self._signed_anchor[member].T).abs()

    def signs(self, order: Index) -> Index:
        """±1 of the matched units."""
        products = (self._signed_copy * self._signed_anchor[torch.from_numpy(order)]).sum(dim=1)
        return np.where(products.numpy() < 0, -1, 1).astype(np.int64)


def _features(
    ffn: Mapping[str, tuple[Slot, ...]], roles: Sequence[str], tensors: Tensors
) -> torch.Tensor:
    """What the layer stores for each unit in some roles, (units, ·), float32."""
    units = ffn["down"][0].index.size
    parts = [rows(slot, tensors).float() for role in roles for slot in ffn[role]]
    return torch.cat(parts, dim=1) if parts else torch.zeros(units, 0)
