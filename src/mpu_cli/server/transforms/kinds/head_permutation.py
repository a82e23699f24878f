"""Permute the key-value heads, and the query heads of each key-value head."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.axis_maps import AxisMap, SignedPermutation, on_slots
from mpu_cli.server.transforms.kinds._facts import ANY_QK_NORM
from mpu_cli.server.transforms.kinds._groups import draw_grouped, source
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(10)}
NEEDS = {"alibi": {"none"}, "qk_norm": ANY_QK_NORM, "qk_norm_bias": {"none"}}
ACTS_ON = "v"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """Query head h uses key-value head h // G, so the G query heads of a group stay together."""
    kv_heads, group, _ = layer.slots["query_heads"][0].index.shape
    order, inside = draw_grouped(stream, kv_heads, group)
    maps: dict[str, list[AxisMap]] = {}
    on_slots(
        layer.slots["query_heads"],
        lambda slot: SignedPermutation.moving(slot, source(slot.index.shape, order, inside)),
        maps,
    )
    on_slots(
        layer.slots["key_value_heads"],
        lambda slot: SignedPermutation.moving(slot, source(slot.index.shape, order)),
        maps,
    )
    targets: dict[str, str] = {}
    for role, came_from in (
        ("query_heads", source((kv_heads, group), order, inside)),
        ("key_value_heads", order),
    ):
        tensors = layer.head_tensors.get(role, ())
        if tensors:
            targets |= {
                tensors[old]: place
                for place, old in zip(tensors, came_from.ravel().tolist(), strict=True)
            }
    return Reparameterization(maps, targets)
