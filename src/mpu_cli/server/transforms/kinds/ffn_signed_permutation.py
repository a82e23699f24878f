"""Permute the hidden units of a gated feed-forward, with a sign on the linear branch (up rows, down columns)."""

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
    """f(gate) ⊙ up is unchanged when gate, up and down move together, and when up and down change sign together."""
    return permute_units(layer, stream, signed=True)
