"""The paper's rotation (arXiv 2602.23798, section 3): one angle per RoPE plane and key-value head, on q, k, v and o.

Exact for the function, and under SGD and Muon for training too. Under AdamW the rotation alone moves the aggregated
update by 16–30 % of its norm, because per-entry normalisation does not commute with it.
"""

from __future__ import annotations

from math import pi

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap, PlaneRotation

EXACT = False
EQUIVARIANT = frozenset({"sgd", "muon"})

_STEPS = 1 << 32


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """The same angle turns q and k (cancelling under RoPE) and v and o (cancelling in o)."""
    kv_heads, planes = layer.slots["q"][0].index.shape[0], len(layer.planes)
    # Angles are integers over 2³², so that every machine means the same rotation.
    angles = stream.below(_STEPS, kv_heads * planes).reshape(kv_heads, planes) * (2 * pi / _STEPS)
    maps: dict[str, list[AxisMap]] = {}
    for role in ("q", "k", "v", "o"):
        for slot in layer.slots[role]:
            first, second = slot.index[..., layer.planes[:, 0]], slot.index[..., layer.planes[:, 1]]
            grouped = angles.reshape(kv_heads, *(1,) * (slot.index.ndim - 2), planes)
            spread = np.broadcast_to(grouped, first.shape)
            maps[slot.tensor] = [PlaneRotation(slot.axis, first.ravel(), second.ravel(), spread.ravel().copy())]
    return maps
