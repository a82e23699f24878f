"""Change the sign of whole heads of q and k, for models with LayerNorms on q and k."""

from __future__ import annotations

from functools import partial

import numpy as np

from mpu_cli.architectures.layout import Index, LayerLayout, Slot
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation, on_slots
from mpu_cli.server.transforms.kinds._facts import ANY_CLIP, ANY_QK_NORM
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(20, choice=2)}
NEEDS = {"qk_norm": ANY_QK_NORM, "qk_norm_bias": {"none"}, "clip": ANY_CLIP}
ACTS_ON = "v"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """The signs of a key and of its queries cancel; a norm without a bias is an odd function."""
    roles = ("q", "k") if "k" in layer.slots else ("q_free", "k_free")
    slots = [slot for role in roles for slot in layer.slots[role]]
    sign = stream.signs(slots[0].index.shape[0])
    maps: dict[str, list[AxisMap]] = {}
    on_slots(slots, partial(_flipped, sign=sign), maps)
    return Reparameterization(maps)


def _flipped(slot: Slot, sign: Index) -> SignedPermutation:
    spread = sign.reshape(-1, *(1,) * (slot.index.ndim - 1))
    return SignedPermutation.on_slot(
        slot, np.arange(slot.index.size), np.broadcast_to(spread, slot.index.shape)
    )
