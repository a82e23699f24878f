"""Rotate q, k, v and o by an angle per RoPE plane and key-value head (arXiv 2602.23798, section 3).

The function stays, and training commutes with it under optimizers that treat all coordinates of a
head alike: SGD, Muon, Adam-mini. Under AdamW, which normalises each entry, the rotation alone moves
the aggregated update by 16–30 % of its norm; under Adafactor, which normalises rows, by 7–9 %.
"""

from __future__ import annotations

from math import pi

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.axis_maps import AxisMap
from mpu_cli.server.transforms.build import rotate_planes, value_planes
from mpu_cli.server.transforms.kinds._plane_turns import turned_heads
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = dict.fromkeys(("rotation", "paper-rotation"), Use(20, required=True))
NEEDS = {"qk_norm": {"none"}, "clip": {"none"}, "v_norm": {"none"}}
ACTS_ON = "v"
EXACT = False

_STEPS = 1 << 32


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """The angles of q and k cancel in their dot product, those of v and o in the output.

    v and o have other angles than q and k where they have other planes: in layers without RoPE and
    in latent attention.
    """
    heads, planes = turned_heads(layer), layer.planes
    angles = _angles(stream, heads, len(planes))
    turned = [rotate_planes(layer, ("q", "k"), planes, angles)] if heads else []
    planes, same = value_planes(layer)
    if not same:
        angles = _angles(stream, layer.slots["v"][0].index.shape[0], len(planes))
    turned.append(rotate_planes(layer, ("v", "o"), planes, angles))
    maps: dict[str, list[AxisMap]] = {}
    for part in turned:
        for tensor, steps in part.maps.items():
            maps.setdefault(tensor, []).extend(steps)
    return Reparameterization(maps)


def _angles(stream: IntegerStream, heads: int, planes: int) -> np.ndarray:
    # Multiples of 2π / 2³²: the same on every machine.
    return stream.below(_STEPS, heads * planes).reshape(heads, planes) * (2 * pi / _STEPS)
