"""Permutations of the hidden units of every feed-forward and expert."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.build import move_units
from mpu_cli.server.transforms.reparameterization import Reparameterization


def permute_units(layer: LayerLayout, stream: IntegerStream, *, signed: bool) -> Reparameterization:
    """Permute gate, up and down alike; `signed` also changes signs of up and down alike."""
    orders = []
    for ffn in layer.ffns:
        units = ffn["down"][0].index.size
        order = stream.permutation(units)
        orders.append((order, stream.signs(units) if signed else np.ones(units, dtype=np.int64)))
    return move_units(layer.ffns, orders)
