"""Permute and sign the coordinates of q and k that RoPE does not turn (partial rotary, layers without RoPE)."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.draw import DrawnTransform
from mpu_cli.server.transforms.kinds._heads import permute_inside

EXACT = True
EQUIVARIANT = frozenset({"sgd", "adamw", "adafactor", "adam-mini", "muon"})


def draw(layer: LayerLayout, stream: IntegerStream) -> DrawnTransform:
    """Queries and keys meet in a dot product only.

    Valid where no norm tells their coordinates apart.
    """
    return permute_inside(layer, stream, ("k_free", "q_free"))
