"""Turn each RoPE plane of q and k by 0° or 180°: only signs change, so even q/k-norms do not see it."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.plane_turns import turn

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """Valid with RMS norms on q and k too: x and −x have the same norm, and each entry keeps its own weight."""
    kv_heads, planes = layer.slots["q"][0].index.shape[0], len(layer.planes)
    return turn(layer, (2 * stream.below(2, kv_heads * planes)).reshape(kv_heads, planes))
