"""Permute the hidden units of the gated feed-forward, with a sign on the linear branch (up rows, down columns)."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> dict[str, list[AxisMap]]:
    """f(gate) ⊙ up is unchanged when gate, up and down move together, and when up and down change sign together."""
    units = layer.slots["up"][0].index.size
    order, sign = stream.permutation(units), stream.signs(units)
    plain = sign * 0 + 1
    maps: dict[str, list[AxisMap]] = {}
    for role, role_sign in (("gate", plain), ("up", sign), ("down", sign)):
        for slot in layer.slots[role]:
            maps[slot.tensor] = [SignedPermutation.on_slot(slot, order, role_sign)]
    return maps
