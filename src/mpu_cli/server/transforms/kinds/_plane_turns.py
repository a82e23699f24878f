"""Turns of RoPE planes by multiples of a right angle.

RoPE rotates these planes too, so the same turn of q and k cancels in every dot product.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from mpu_cli.architectures.layout import Index, LayerLayout
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation, on_slots
from mpu_cli.server.transforms.reparameterization import Reparameterization


def turned_heads(layer: LayerLayout) -> int:
    """How many keys are turned: the key-value heads, or 1 where all heads share one key."""
    return layer.slots["k"][0].index.shape[0] if "k" in layer.slots else 0


def turn(layer: LayerLayout, quarters: Index) -> Reparameterization:
    """Turn plane p of key g, and of all query heads that use this key, by quarters[g, p] · 90°."""
    if "k" not in layer.slots:
        return Reparameterization({})
    heads, size = layer.slots["k"][0].index.shape
    first, second = layer.planes[:, 0], layer.planes[:, 1]
    source = np.tile(np.arange(size), (heads, 1))
    sign = np.ones((heads, size), dtype=np.int64)
    swapped = quarters % 2 == 1
    source[:, first] = np.where(swapped, second, first)
    source[:, second] = np.where(swapped, first, second)
    # 90°: (a, b) → (−b, a); 180°: (−a, −b); 270°: (b, −a).
    sign[:, first] = np.where((quarters == 1) | (quarters == 2), -1, 1)
    sign[:, second] = np.where((quarters == 2) | (quarters == 3), -1, 1)
    maps: dict[str, list[AxisMap]] = {}
    for role, signs in (
        ("q", sign),
        ("k", sign),
        ("q_norm", np.ones_like(sign)),
        ("k_norm", np.ones_like(sign)),
    ):
        on_slots(
            layer.slots.get(role, ()),
            partial(SignedPermutation.inside_heads, source=source, sign=signs),
            maps,
        )
    return Reparameterization(maps)
