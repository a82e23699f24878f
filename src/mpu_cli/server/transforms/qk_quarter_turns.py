"""Turn each RoPE plane of q and k by a random multiple of 90°, one per key-value head and plane."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.plane_turns import turn

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """Valid where nothing between the projection and RoPE tells the two entries of a plane apart."""
    kv_heads, planes = layer.slots["q"][0].index.shape[0], len(layer.planes)
    return turn(layer, (stream.below(4, kv_heads * planes)).reshape(kv_heads, planes))
