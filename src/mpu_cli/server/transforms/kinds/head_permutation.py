"""Permute the key-value heads, and the query heads of each key-value head."""

from __future__ import annotations

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms import Use
from mpu_cli.server.transforms.build import move_heads
from mpu_cli.server.transforms.kinds._facts import ANY_QK_NORM
from mpu_cli.server.transforms.kinds._groups import draw_grouped
from mpu_cli.server.transforms.reparameterization import Reparameterization

USES = {"signed-permutation": Use(10)}
NEEDS = {"alibi": {"none"}, "qk_norm": ANY_QK_NORM, "qk_norm_bias": {"none"}}
ACTS_ON = "v"
EXACT = True


def draw(layer: LayerLayout, stream: IntegerStream) -> Reparameterization:
    """Query head h uses key-value head h // G, so the G query heads of a group stay together."""
    kv_heads, group, _ = layer.slots["query_heads"][0].index.shape
    return move_heads(layer, *draw_grouped(stream, kv_heads, group))
