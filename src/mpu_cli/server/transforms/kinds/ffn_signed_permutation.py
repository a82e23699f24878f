"""Permute the hidden units of a gated feed-forward, and change signs of up and down."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.kinds._hidden_units import permute_units
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = dict.fromkeys(("signed-permutation", "rotation"), Use(50, choice=0))
NEEDS = {"activation": {"elementwise"}, "up_branch": {"linear"}}
ACTS_ON = "ffn"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """The signs of up and down cancel, and the sum over hidden units has no order."""
    return permute_units(layer, stream, signed=True)
