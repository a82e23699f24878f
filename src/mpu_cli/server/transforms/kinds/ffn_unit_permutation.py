"""Permute the hidden units of a feed-forward without signs, for one without a linear branch."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.kinds._hidden_units import permute_units
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {
    "signed-permutation": Use(50, choice=1),
    "rotation": Use(50, choice=1),
    "paper-rotation": Use(50),
}
NEEDS = {"activation": {"elementwise"}}
ACTS_ON = "ffn"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """The output is a sum over hidden units, so their order is arbitrary."""
    return permute_units(layer, stream, signed=False)
