"""Turn each RoPE plane of q and k by a random multiple of 90°, one per key-value head and plane."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.draw import DrawnTransform
from mpu_cli.server.transforms.kinds._plane_turns import turn, turned_heads

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
    """Valid where nothing between the projection and RoPE tells the two entries of a plane apart."""
    heads, planes = turned_heads(layer), len(layer.planes)
    return turn(layer, stream.below(4, heads * planes).reshape(heads, planes))
