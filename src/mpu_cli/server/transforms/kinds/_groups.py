"""Permutations that keep groups together: heads of a key-value head, experts of a routing group."""

from __future__ import annotations

import numpy as np

from mpu_cli.architectures.layout import Index
from mpu_cli.server.secrets.randomness import IntegerStream


def draw_grouped(stream: IntegerStream, groups: int, size: int) -> tuple[Index, Index]:
    """Draw an order of the groups, (groups,), and of the members of each, (groups, size)."""
    order = stream.permutation(groups)
    return order, np.stack([stream.permutation(size) for _ in range(groups)])


def source(shape: tuple[int, ...], order: Index, inside: Index | None = None) -> Index:
    """The old flat position of the entry that comes to each place, in `shape`.

    Args:
        shape: groups, members and further axes.
        order: of the groups, by their old places.
        inside: the order of the members in each group, by the group's new place.
    """
    positions = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)[order]
    if inside is None:
        return positions
    return np.stack([group[members] for group, members in zip(positions, inside, strict=True)])
