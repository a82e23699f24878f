"""Permute the coordinates of values in each key-value head, and change their signs."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.kinds._facts import ANY_CLIP
from mpu_cli.server.transforms.kinds._heads import permute_inside
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(40)}
NEEDS = {"v_norm": {"none"}, "clip": ANY_CLIP}
ACTS_ON = "v"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """Attention averages values, so o can undo the map; the bias of v moves with v."""
    return permute_inside(layer, stream, ("v", "o"))
