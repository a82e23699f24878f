"""Permute and sign the coordinates of the value vectors inside each key-value head (v rows, o columns)."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """Attention only averages value vectors, so any orthogonal map of them is undone by o; the v bias follows v."""
    kv_heads, _, size = layer.slots["o"][0].index.shape
    source = np.stack([stream.permutation(size) for _ in range(kv_heads)])
    sign = stream.signs(kv_heads * size).reshape(kv_heads, size)
    maps: dict[str, list[AxisMap]] = {}
    for role in ("v", "o"):
        for slot in layer.slots[role]:
            maps[slot.tensor] = [SignedPermutation.inside_heads(slot, source, sign)]
    return maps
