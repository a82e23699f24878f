"""Permutations that keep groups together.

Heads under their key-value head, experts under their routing group.
"""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import Index
from mpu_cli.server.secrets.randomness import IntegerStream


def draw_grouped(stream: IntegerStream, groups: int, size: int) -> tuple[Index, Index]:
    """Draw an order of the groups, (groups,), and one inside each group, (groups, size), by their old places."""
    order = stream.permutation(groups)
    return order, np.stack([stream.permutation(size) for _ in range(groups)])


def source(shape: tuple[int, ...], order: Index, inside: Index | None = None) -> Index:
    """Flat positions, in `shape`, of what comes to each place when groups (the first axis) and their members move.

    The second axis moves by `inside`, which belongs to a group's new place.
    """
    positions = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)[order]
    if inside is None:
        return positions
    return np.stack([group[members] for group, members in zip(positions, inside, strict=True)])
