"""Permutations that keep groups together: heads of a key-value head, experts of a routing group."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import Index
from mpu_cli.server.secrets.randomness import IntegerStream


def draw_grouped(stream: IntegerStream, groups: int, size: int) -> tuple[Index, Index]:
    """Draw an order of the groups, (groups,), and of the members of each, (groups, size)."""
    order = stream.permutation(groups)
    return order, np.stack([stream.permutation(size) for _ in range(groups)])
