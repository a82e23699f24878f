"""Index arrays for linear maps that are stored separately, fused or interleaved."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mpu_cli.architectures.layout import Index


@lru_cache(maxsize=256)
def grid(*shape: int) -> Index:
    """Positions 0 … n − 1 in this shape; layers share the array, so it is read-only."""
    positions = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    positions.flags.writeable = False
    return positions


@lru_cache(maxsize=64)
def fused_attention(
    layout: str, kv_heads: int, group: int, size: int
) -> tuple[Index, Index, Index]:
    """Positions of q (KV, G, d), k (KV, d) and v (KV, d) along the rows of one fused projection.

    `concat` is [q | k | v]; `per_group` is (G query heads, k, v) for each key-value head;
    `per_head` is (q, k, v) for each head, which is `per_group` with one query head in each group.
    """
    if layout == "concat":
        query = kv_heads * group * size
        key = kv_heads * size
        return (
            grid(kv_heads, group, size),
            query + grid(kv_heads, size),
            query + key + grid(kv_heads, size),
        )
    rows = grid(kv_heads, group + 2, size)
    return rows[:, :group], rows[:, group], rows[:, group + 1]


@lru_cache(maxsize=64)
def fused_branches(layout: str, units: int) -> tuple[Index, Index]:
    """Positions of gate and up (F,) along a fused projection: alternating or [gate | up]."""
    if layout == "interleaved":
        return 2 * grid(units), 2 * grid(units) + 1
    return grid(units), units + grid(units)
