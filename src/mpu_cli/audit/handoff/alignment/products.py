"""Products of rows that two versions of a layer store for the same role.

All alignment is least squares under white noise of one size, so it needs products of rows alone:
raw ones, of all tensors of a role together, without normalising.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from mpu_cli.architectures.layout import Slot

Tensors = Mapping[str, torch.Tensor]


def rows(slot: Slot, tensors: Tensors) -> torch.Tensor:
    """What a slot's tensor holds at each of the slot's positions, (positions, rest)."""
    moved = tensors[slot.tensor].movedim(slot.axis, 0)
    index = torch.tensor(slot.index.ravel())  # a copy: layouts share read-only arrays
    return moved.index_select(0, index).reshape(len(index), -1)


def inside_heads(slots: Iterable[Slot], anchor: Tensors, copy: Tensors) -> torch.Tensor:
    """Products of coordinate a of the anchor with b of the copy, (heads, d, d), float64.

    The slots have indices (heads, d) or (heads, G, d): query heads are summed over their group.
    """
    total: torch.Tensor | None = None
    for slot in slots:
        first, second = (by_head(slot, tensors).double() for tensors in (anchor, copy))
        product = first @ second.mT
        total = product if total is None else total + product
    if total is None:
        raise ValueError("no slots")
    return total


def by_head(slot: Slot, tensors: Tensors) -> torch.Tensor:
    """A slot's rows by head and coordinate, (heads, d, G · rest)."""
    heads, size = slot.index.shape[0], slot.index.shape[-1]
    held = rows(slot, tensors)
    grouped = held.reshape(heads, -1, size, held.shape[-1])
    return grouped.transpose(1, 2).reshape(heads, size, -1)


def squares(slots: Iterable[Slot], tensors: Tensors) -> float:
    """Sum of squares of all entries of the slots."""
    return sum(float(rows(slot, tensors).double().square().sum()) for slot in slots)


def entries(slots: Iterable[Slot], tensors: Tensors) -> int:
    """Number of entries of the slots."""
    return sum(rows(slot, tensors).numel() for slot in slots)
