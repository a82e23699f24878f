"""Permutations of the hidden units of every feed-forward and expert."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from mpu_cli.architectures.layout import LayerLayout, Slot
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation, on_slots
from mpu_cli.server.transforms.reparameterization import Reparameterization


def permute_units(layer: LayerLayout, stream: IntegerStream, *, signed: bool) -> Reparameterization:
    """Permute gate, up and down alike; `signed` also changes signs of up and down alike."""
    maps: dict[str, list[AxisMap]] = {}
    for ffn in layer.ffns:
        units = ffn["down"][0].index.size
        order = stream.permutation(units)
        sign = stream.signs(units) if signed else np.ones(units, dtype=np.int64)
        for role, slots in ffn.items():
            flips = sign if role in {"down", _linear_branch(ffn)} else np.ones_like(sign)
            on_slots(slots, partial(SignedPermutation.on_slot, source=order, sign=flips), maps)
    return Reparameterization(maps)


def _linear_branch(ffn: Mapping[str, tuple[Slot, ...]]) -> str:
    """The branch whose sign `down` undoes; without gating a signed permutation is invalid."""
    return "up" if "up" in ffn else "gate"
