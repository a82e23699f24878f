"""Turn each RoPE plane of q and k by 0° or 180°: only signs change."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.build import turn_planes
from mpu_cli.server.transforms.kinds._facts import ANY_CLIP
from mpu_cli.server.transforms.kinds._plane_turns import turned_heads
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(20, choice=1)}
NEEDS = {"qk_norm_kind": {"none", "rms"}, "qk_norm_bias": {"none"}, "clip": ANY_CLIP}
ACTS_ON = "k"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """RMS norms allow it too: signs do not change a norm, and each entry keeps its weight."""
    heads, planes = turned_heads(layer), len(layer.planes)
    return turn_planes(layer, (2 * stream.below(2, heads * planes)).reshape(heads, planes))
