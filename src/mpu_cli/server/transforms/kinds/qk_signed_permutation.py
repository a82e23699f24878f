"""Permute the coordinates of q and k that RoPE does not turn, and change their signs."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.kinds._facts import ANY_CLIP
from mpu_cli.server.transforms.kinds._heads import permute_inside
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(30)}
NEEDS = {"qk_norm": {"none"}, "clip": ANY_CLIP}
ACTS_ON = "k_free"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """A dot product allows it, unless a norm treats the coordinates differently."""
    return permute_inside(layer, stream, ("k_free", "q_free"))
