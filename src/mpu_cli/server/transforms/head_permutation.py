"""Permute the key-value heads, and the query heads inside each key-value head's group."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """Query head h reads key-value head h // G (grouped-query attention), so whole groups move together."""
    kv_heads, group, size = layer.slots["q"][0].index.shape
    heads = stream.permutation(kv_heads)
    inside = np.stack([stream.permutation(group) for _ in range(kv_heads)])
    query = np.arange(kv_heads * group * size).reshape(kv_heads, group, size)
    query = np.stack([query[head][order] for head, order in zip(heads, inside, strict=True)])
    key = np.arange(kv_heads * size).reshape(kv_heads, size)[heads]
    maps: dict[str, list[AxisMap]] = {}
    for role, source in (("q", query), ("k", key), ("v", key), ("o", query)):
        for slot in layer.slots[role]:
            maps[slot.tensor] = [SignedPermutation.on_slot(slot, source, np.ones_like(source))]
    return maps
