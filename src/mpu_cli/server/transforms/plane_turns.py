"""Turns of RoPE planes by multiples of a right angle, shared by `qk_quarter_turns` and `qk_half_turns`.

RoPE is itself a rotation of these planes, so the same turn on q and k cancels in every dot product.
"""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import Index, LayerLayout
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation


def turn(layer: LayerLayout, quarters: Index) -> dict[str, list[AxisMap]]:
    """Turn plane p of key-value head g, and of every query head that reads it, by quarters[g, p] · 90°."""
    kv_heads, _, size = layer.slots["q"][0].index.shape
    first, second = layer.planes[:, 0], layer.planes[:, 1]
    source = np.tile(np.arange(size), (kv_heads, 1))
    sign = np.ones((kv_heads, size), dtype=np.int64)
    swapped = quarters % 2 == 1
    source[:, first] = np.where(swapped, second, first)
    source[:, second] = np.where(swapped, first, second)
    # 90°: (a, b) → (−b, a); 180°: (−a, −b); 270°: (b, −a).
    sign[:, first] = np.where((quarters == 1) | (quarters == 2), -1, 1)
    sign[:, second] = np.where((quarters == 2) | (quarters == 3), -1, 1)
    maps: dict[str, list[AxisMap]] = {}
    for role in ("q", "k"):
        for slot in layer.slots[role]:
            maps[slot.tensor] = [SignedPermutation.inside_heads(slot, source, sign)]
    return maps
