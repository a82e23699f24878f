"""Permute the hidden units of a feed-forward.

For those without a linear branch, where a sign would change the function.
"""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.draw import DrawnTransform
from mpu_cli.server.transforms.kinds._hidden_units import permute_units

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
    """Hidden units are added up, so their order means nothing."""
    return permute_units(layer, stream, signed=False)
