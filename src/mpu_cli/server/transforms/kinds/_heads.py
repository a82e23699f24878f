"""One signed permutation inside every head, for two roles that share their coordinates."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import LayerLayout
from mpu_cli.server.secrets.randomness import IntegerStream
from mpu_cli.server.transforms.build import move_inside
from mpu_cli.server.transforms.reparameterization import Reparameterization


def permute_inside(
    layer: LayerLayout, stream: IntegerStream, roles: tuple[str, str]
) -> Reparameterization:
    """Draw one signed permutation per key-value head for both roles.

    The transform is empty if the layer has no such coordinates.
    """
    slots = [slot for role in roles for slot in layer.slots.get(role, ())]
    if not slots:
        return Reparameterization({})
    kv_heads, size = slots[0].index.shape[0], slots[0].index.shape[-1]
    source = np.stack([stream.permutation(size) for _ in range(kv_heads)])
    sign = stream.signs(kv_heads * size).reshape(kv_heads, size)
    return move_inside(layer, roles, source, sign)
