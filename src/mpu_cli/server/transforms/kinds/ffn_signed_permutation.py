"""Permute the hidden units of a gated feed-forward, and change signs of up and down."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import EVERY_OPTIMIZER, Use
from mpu_cli.server.transforms.draw import DrawnTransform
from mpu_cli.server.transforms.kinds._hidden_units import permute_units

USES = dict.fromkeys(("signed-permutation", "rotation"), Use(50, choice=0))
NEEDS = {"activation": {"elementwise"}, "up_branch": {"linear"}}
EXACT = True
EQUIVARIANT = EVERY_OPTIMIZER


def acts_on(layer: LayerLayout) -> bool:
    """Every layer has a feed-forward."""
    return True


def draw(layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
    """The signs of up and down cancel, and the sum over hidden units has no order."""
    return permute_units(layer, stream, signed=True)
