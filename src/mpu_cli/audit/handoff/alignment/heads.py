"""Heads and experts that change places whole.

Heads are compared by ‖A Bᵀ‖²_F of their rows, which no signed permutation or rotation inside a head
changes: the products of their Gram matrices.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from mpu_cli.architectures.layout import LayerLayout, Slot
from mpu_cli.audit.handoff.alignment.assignment import grouped
from mpu_cli.audit.handoff.alignment.products import Tensors, rows
from mpu_cli.server.transforms.build import grouped_source, move_experts, move_heads
from mpu_cli.server.transforms.reparameterization import Reparameterization


def estimate_heads(layer: LayerLayout, anchor: Tensors, copy: Tensors) -> Reparameterization:
    """Key-value heads, and the query heads of each."""
    if "query_heads" not in layer.slots:
        return Reparameterization({})
    kv_heads, group, _ = layer.slots["query_heads"][0].index.shape
    keys = _scores(layer, "key_value_heads", kv_heads, anchor, copy)
    queries = _scores(layer, "query_heads", kv_heads * group, anchor, copy)
    order, inside = grouped(keys, queries.reshape(kv_heads, group, kv_heads, group))
    return move_heads(layer, order, inside)


def _scores(
    layer: LayerLayout, role: str, heads: int, anchor: Tensors, copy: Tensors
) -> np.ndarray:
    """Similarity of each place of the copy to each head of the anchor, (heads, heads)."""
    total = np.zeros((heads, heads))
    for slot in layer.slots[role]:
        total += _block_similarity(rows(slot, copy).float(), rows(slot, anchor).float(), heads)
    names = layer.head_tensors.get(role, ())
    if names:
        first, second = (torch.stack([it[name] for name in names]) for it in (copy, anchor))
        total += _block_similarity(first.flatten(1).float(), second.flatten(1).float(), heads)
    return total


def _block_similarity(first: torch.Tensor, second: torch.Tensor, heads: int) -> np.ndarray:
    size = len(first) // heads
    table = np.empty((heads, heads))
    for place in range(heads):
        product = first[place * size : (place + 1) * size] @ second.T
        by_head = product.double().square().reshape(size, heads, size).sum(dim=(0, 2))
        table[place] = by_head.numpy()
    return table


def estimate_experts(layer: LayerLayout, anchor: Tensors, copy: Tensors) -> Reparameterization:
    """Experts by their rows of the router."""
    experts = layer.experts
    if experts is None:
        return Reparameterization({})
    stored = {slot.tensor for ffn in layer.ffns for slots in ffn.values() for slot in slots}
    router = [slot for slot in experts.slots if slot.tensor not in stored]
    size = experts.count // experts.groups
    scores = _products(router, anchor, copy)
    shape = (experts.groups, size, experts.groups, size)
    none = np.zeros((experts.groups, experts.groups))
    came_from = grouped_source((experts.groups, size), *grouped(none, scores.reshape(shape)))
    return move_experts(layer, came_from)


def _products(slots: Iterable[Slot], anchor: Tensors, copy: Tensors) -> np.ndarray:
    tables = [(rows(slot, copy).double() @ rows(slot, anchor).double().T).numpy() for slot in slots]
    result: np.ndarray = np.sum(tables, axis=0)
    return result
