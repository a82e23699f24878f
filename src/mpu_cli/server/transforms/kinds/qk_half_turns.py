"""Turn each RoPE plane of q and k by 0° or 180°.

Only signs change, so even RMS norms on q and k do not see it.
"""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.draw import DrawnTransform
from mpu_cli.server.transforms.kinds._plane_turns import turn, turned_heads

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
    """Valid with RMS norms on q and k too.

    X and −x have the same norm, and each entry keeps its own weight.
    """
    heads, planes = turned_heads(layer), len(layer.planes)
    return turn(layer, (2 * stream.below(2, heads * planes)).reshape(heads, planes))
